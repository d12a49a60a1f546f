"""Training: the encoder with its routers, or the routers alone for a checkpoint that stays as it is."""

from fastlane_rag.training.config import TrainConfig, load_config
from fastlane_rag.training.routers import train_router
from fastlane_rag.training.trainer import train

__all__ = ["TrainConfig", "load_config", "train", "train_router"]
