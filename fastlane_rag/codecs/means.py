"""K-means on a CUDA device: by faiss where its build has GPUs, and else by torch."""

from __future__ import annotations

import importlib.util
from typing import Any

import torch

__all__ = ["device_means"]

_BLOCK = 1 << 15  # rows whose nearest centroids are found at once


def device_means(rows: torch.Tensor, count: int, iterations: int, device: str) -> torch.Tensor:
    """Centroids by Lloyd's algorithm, which starts from the first rows.

    Args:
        rows: (T, dim) float32 on the CPU, in random order.
        count: centroids, at most T.
        iterations: how often the rows are assigned.
        device: "cuda", "cuda:1" and so on.

    Returns:
        (count, dim) float32 on the CPU.
    """
    faiss = _faiss()
    if faiss is None:
        return by_torch(rows, count, iterations, device)
    config = faiss.GpuIndexFlatConfig()
    config.device = torch.device(device).index or 0
    resources = faiss.StandardGpuResources()
    return by_faiss(faiss, rows, count, iterations, faiss.GpuIndexFlatL2(resources, rows.shape[1], config))


def by_faiss(faiss: Any, rows: torch.Tensor, count: int, iterations: int, index: Any) -> torch.Tensor:
    """As `device_means`, with an empty index that finds the nearest centroids."""
    clustering = faiss.Clustering(rows.shape[1], count)
    clustering.niter = iterations
    clustering.min_points_per_centroid, clustering.max_points_per_centroid = 1, len(rows)
    faiss.copy_array_to_vector(rows[:count].numpy().ravel(), clustering.centroids)
    clustering.train(rows.numpy(), index)
    centroids = faiss.vector_to_array(clustering.centroids).reshape(count, rows.shape[1])
    return torch.from_numpy(centroids.copy())


def by_torch(rows: torch.Tensor, count: int, iterations: int, device: str) -> torch.Tensor:
    """As `device_means`. A centroid without members keeps its place."""
    there = rows.to(device)
    centroids = there[:count].clone()
    for _ in range(iterations):
        norms = centroids.square().sum(1) / 2
        nearest = torch.cat([(some @ centroids.T - norms).argmax(1) for some in torch.split(there, _BLOCK)])
        members = torch.bincount(nearest, minlength=count)[:, None]
        sums = torch.zeros_like(centroids).index_add_(0, nearest, there)
        centroids = torch.where(members > 0, sums / members.clamp(min=1), centroids)
    return centroids.cpu()


def _faiss() -> Any:
    """The module, where it is built for GPUs and finds one; else None."""
    if importlib.util.find_spec("faiss") is None:
        return None
    import faiss

    return faiss if hasattr(faiss, "StandardGpuResources") and faiss.get_num_gpus() > 0 else None
