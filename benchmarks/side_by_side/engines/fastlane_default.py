"""fastlane-rag with default settings, and with one routed token, as measured for growing corpora."""

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
