"""Writes that do not finish."""

from fastlane_rag.upkeep import recode, steps, worker

__all__ = ["before_merging", "before_recoding", "fill_unevenly"]


def before_recoding(patch):
    """Make every write stop before it recodes segments of an older codec to the newest."""
    of_all = recode.to_recode

    def of_half_precision(storage, reader, parts):
        return of_all(storage, reader, [part for part in parts if part.codec == "fp16"])

    patch.setattr(steps, "to_recode", of_half_precision)


def before_merging(patch):
    """Make every write stop before it merges or recodes anything."""
    patch.setattr(worker, "due", lambda *_: iter(()))


def fill_unevenly(index, texts, patch):
    """Add 900 texts: segments in two codecs, one in half precision, pending documents, dead rows."""

    def add(first, last):
        names = [f"{i:04}" for i in range(first, last)]
        index.add(texts[first:last], names, [{"i": i} for i in range(first, last)])

    add(0, 250)
    before_recoding(patch)
    add(250, 820)
    before_merging(patch)
    add(820, 890)
    add(890, 900)
    index.delete([f"{i:04}" for i in range(7, 900, 100)])
