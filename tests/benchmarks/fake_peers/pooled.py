"""Ranks by the mean row: quick, and worse than SumMaxSim."""

import numpy as np
from side_by_side.engines.packed import best


def engine():
    return Pooled()


class Pooled:
    packages = ("numpy",)

    def build(self, corpus, folder):
        np.save(folder / "means.npy", np.stack([rows.mean(axis=0) for rows in corpus.documents()]))

    def open(self, corpus, folder, threads):
        self.means = np.load(folder / "means.npy")

    def settings(self):
        return [{"first": 3}, {"first": 10}]

    def prepare(self, query):
        return query.rows.mean(axis=0)

    def search(self, query, knobs):
        return best(self.means @ query, knobs["first"])

    def documents(self, answer):
        return answer.tolist()

    def index_bytes(self, folder):
        return {"index": (folder / "means.npy").stat().st_size}
