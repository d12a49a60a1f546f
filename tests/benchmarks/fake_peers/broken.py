"""Builds, and dies when it is searched."""

import sys

from fake_peers.pooled import Pooled


def engine():
    return Broken()


class Broken(Pooled):
    def search(self, query, knobs):
        sys.exit("the index is not loaded")
