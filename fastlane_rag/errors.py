"""All errors for users. Messages say what was wrong, with the value, and what to do."""


class FastLaneError(Exception):
    """Base of the errors raised by fastlane_rag."""


class FastLaneWarning(UserWarning):
    """What was done, but not as a user may have wanted it: text that was cut off, with how much of it."""


class ModelError(FastLaneError):
    """A model could not be loaded, or cannot do what was asked."""


class ModelMismatchError(ModelError):
    """An index and the model opened with it do not belong together."""


class DeviceError(FastLaneError, RuntimeError):
    """There is no such CUDA device, or it cannot be used; the message says why and what to do."""


class IndexNotFoundError(FastLaneError, FileNotFoundError):
    """The path holds no FastLane index."""


class IndexFormatError(FastLaneError):
    """A file of the index is damaged, or was written by a newer version."""


class IndexReplacedError(FastLaneError):
    """The directory of an open index was replaced, moved or deleted."""


class IndexExistsError(FastLaneError, FileExistsError):
    """The path already holds an index, or files that FastLane must not replace."""


class IndexLockedError(FastLaneError):
    """Another writer holds the index."""


class IndexClosedError(FastLaneError):
    """The index was closed."""


class IndexReadOnlyError(FastLaneError, PermissionError):
    """An index cannot be written: it was opened for reading, or its directory is read-only."""


class StorageError(FastLaneError, OSError):
    """A write failed in the operating system, for example on a full disk; nothing of that write is stored."""


class InvalidInputError(FastLaneError, ValueError):
    """An argument is not valid; the message names it and its position."""


class UnknownOptionError(InvalidInputError, TypeError):
    """A keyword argument is no option; the message names the nearest option."""


class FilterError(FastLaneError, ValueError):
    """A metadata filter is not valid; the message names the wrong part."""


class DataError(FastLaneError, ValueError):
    """A data file, or a line of one, cannot be used; the message names the file and the line."""


class RemoteError(FastLaneError):
    """A server cannot be reached, or refuses a request; the message has its address and says why."""


class CandidateSourceError(FastLaneError):
    """A database that keeps the vectors of documents failed; the message has its words. The index itself is whole."""


class ShardUnavailableError(FastLaneError):
    """No copy of a shard of a cluster answers; the message names the shard, its directory and what to do."""


class MissingExtraError(FastLaneError, ImportError):
    """An optional library is not installed; the message names the extra to install."""
