"""fastlane-rag with 2 bits a dimension."""

from side_by_side.engines.fastlane import FastLane


def engine() -> FastLane:
    """For `engine.load`."""
    return FastLane("residual2")
