"""Every error a user can meet: what was wrong, with the value, and what to do about it."""


class FastLaneError(Exception):
    """Base of the errors raised by fastlane_rag."""


class FastLaneWarning(UserWarning):
    """What was done, but not as a user may have wanted it: text that was cut off, with how much of it."""


class ModelError(FastLaneError):
    """A model could not be loaded, or cannot do what was asked."""


class ModelMismatchError(ModelError):
    """An index and the model opened with it do not belong together."""


class IndexNotFoundError(FastLaneError, FileNotFoundError):
    """The path holds no FastLane index."""


class IndexFormatError(FastLaneError):
    """A file of the index is damaged, or was written by a newer version."""


class IndexReplacedError(FastLaneError):
    """The directory of an open index was replaced, moved or deleted."""


class IndexExistsError(FastLaneError, FileExistsError):
    """The path already holds an index, or files that are not ours to replace."""


class IndexLockedError(FastLaneError):
    """Another writer holds the index."""


class IndexClosedError(FastLaneError):
    """The index was closed."""


class IndexReadOnlyError(FastLaneError, PermissionError):
    """A write to an index that was opened for reading, or whose directory cannot be written."""


class StorageError(FastLaneError, OSError):
    """The operating system refused a write (a full disk, for one); nothing of that write is stored."""


class InvalidInputError(FastLaneError, ValueError):
    """An argument that cannot be stored or searched with, by name and position."""


class UnknownOptionError(InvalidInputError, TypeError):
    """A keyword argument that is no option, with the nearest one that is."""


class FilterError(FastLaneError, ValueError):
    """A metadata filter that is not valid; the message names the wrong part."""


class DataError(FastLaneError, ValueError):
    """A data file, or a line of one, that cannot be used; the message names the file and the line."""


class MissingExtraError(FastLaneError, ImportError):
    """An optional library is not installed; the message names the extra that brings it."""
