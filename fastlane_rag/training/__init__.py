"""Training: an encoder together with its routers, or only the routers of a frozen checkpoint."""

from fastlane_rag.training.config import TrainConfig, load_config
from fastlane_rag.training.routers import train_router
from fastlane_rag.training.trainer import train

__all__ = ["TrainConfig", "load_config", "train", "train_router"]
