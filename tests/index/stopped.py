"""Writes that do not finish."""

from fastlane_rag.upkeep import recode, steps, worker

__all__ = ["before_merging", "before_recoding"]


def before_recoding(patch):
    """Make every write stop before it recodes segments of an older codec to the newest."""
    of_all = recode.to_recode

    def of_half_precision(storage, reader, parts):
        return of_all(storage, reader, [part for part in parts if part.codec == "fp16"])

    patch.setattr(steps, "to_recode", of_half_precision)


def before_merging(patch):
    """Make every write stop before it merges or recodes anything."""
    patch.setattr(worker, "due", lambda *_: iter(()))
