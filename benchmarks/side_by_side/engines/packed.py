"""Shared by engines that keep the token rows unchanged. Needs only numpy."""

import os
import shutil
from pathlib import Path

import numpy as np

from side_by_side.corpus import Corpus


def best(scores: np.ndarray, count: int) -> np.ndarray:
    """Numbers of the highest scores, best first, ties by number."""
    count = min(count, len(scores))
    threshold = np.partition(scores, -count)[-count]
    chosen = np.flatnonzero(scores >= threshold)
    return chosen[np.argsort(-scores[chosen], kind="stable")][:count]


def keep_rows(corpus: Corpus, folder: Path) -> None:
    """Keep the half-precision rows as the index; by a link, where the file system has links."""
    try:
        os.link(corpus.folder / "rows.npy", folder / "rows.npy")
    except OSError:
        shutil.copyfile(corpus.folder / "rows.npy", folder / "rows.npy")
    np.save(folder / "offsets.npy", corpus.offsets)


def packed_bytes(folder: Path) -> dict[str, int]:
    """Bytes of what `keep_rows` keeps."""
    return {"index": sum((folder / name).stat().st_size for name in ("rows.npy", "offsets.npy"))}
