"""A table of vectors in memory, which fails where it is told to."""

import numpy as np

from fastlane_rag.errors import CandidateSourceError


class Table:
    """What a database does, in memory. It fails at the calls it is told to fail at."""

    def __init__(self):
        self.rows = {}
        self.fails = set()
        self.asked = []

    def upsert(self, ids, vectors, versions):
        self._check("upsert")
        for id_, vector, version in zip(ids, vectors, versions, strict=True):
            self.rows[id_] = vector, version

    def delete(self, ids):
        self._check("delete")
        for id_ in ids:
            self.rows.pop(id_, None)

    def versions(self):
        return {id_: version for id_, (_, version) in self.rows.items()}

    def candidates(self, vector, n, ids=None):
        self._check("candidates")
        self.asked.append((n, None if ids is None else len(ids)))
        names = [id_ for id_ in self.rows if ids is None or id_ in set(ids)]
        if not names:
            return []
        order = np.argsort(-np.stack([self.rows[id_][0] for id_ in names]) @ vector, kind="stable")
        return [names[i] for i in order[:n]]

    def _check(self, call):
        if call in self.fails:
            raise CandidateSourceError(f"told to fail at {call}")
