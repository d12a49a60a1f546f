"""fastlane-rag as it comes, and with one routed token: what is followed as a corpus grows."""

from side_by_side.engine import Knobs
from side_by_side.engines.fastlane import FastLane


def engine() -> FastLane:
    """For `engine.load`."""
    return Default("residual4")


class Default(FastLane):
    """Two settings instead of a grid."""

    def settings(self) -> list[Knobs]:
        """The default, and k = 1."""
        return [{}, {"route_k": 1}]
