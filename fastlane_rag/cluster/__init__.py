"""Collections past one machine: shards that are indexes, held by actors of Ray."""

from importlib.util import find_spec

from fastlane_rag.errors import MissingExtraError

if find_spec("ray") is None:
    raise MissingExtraError("a cluster needs ray, which is not installed: pip install 'fastlane-rag[ray]'")

from fastlane_rag.cluster.index import ClusterIndex
from fastlane_rag.cluster.merging import ClusterResult

__all__ = ["ClusterIndex", "ClusterResult"]
