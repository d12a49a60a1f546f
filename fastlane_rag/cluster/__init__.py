"""Collections past one machine: shards that are indexes, held by actors of Ray."""

from fastlane_rag.cluster.index import ClusterIndex, ClusterResult

__all__ = ["ClusterIndex", "ClusterResult"]
