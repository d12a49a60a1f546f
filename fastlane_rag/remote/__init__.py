"""An index on a server, with the face of one in this process; the extra `client` installs what it needs."""

from fastlane_rag.remote.index import RemoteIndex

__all__ = ["RemoteIndex"]
