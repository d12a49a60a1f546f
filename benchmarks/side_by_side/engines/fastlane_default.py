"""fastlane-rag with default settings, with one routed token, and with one vector a document, for growing corpora."""

from side_by_side.engine import Knobs
from side_by_side.engines.fastlane import FastLane


def engine() -> FastLane:
    """For `engine.load`."""
    return Default("residual4")


class Default(FastLane):
    """Few settings instead of a grid."""

    def settings(self) -> list[Knobs]:
        """The default, k = 1, the vector lane, and last the exhaustive lane, which the others are compared with."""
        return [{}, {"route_k": 1}, {"lane": "vector"}, {"lane": "exhaustive", "route_k": "all"}]
