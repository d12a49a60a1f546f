"""fastlane-rag with a third of the document tokens."""

from side_by_side.engines.fastlane import FastLane


def engine() -> FastLane:
    """For `engine.load`."""
    return FastLane("residual4", budget=1 / 3)
