"""Logs of a training run: loss terms, temperature, dev scores, and a warning when routing collapses."""

from __future__ import annotations

import csv
import logging
import math
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from sentence_transformers.base.evaluation import BaseEvaluator
from torch import Tensor
from transformers import TrainerCallback

from fastlane_rag.evaluation.metrics import mean_scores, score_run
from fastlane_rag.evaluation.routing import COLLAPSE_SHARE
from fastlane_rag.model import FastLaneModel
from fastlane_rag.model.routed_query import Selection
from fastlane_rag.scoring import maxsim
from fastlane_rag.training.data import DevSet
from fastlane_rag.training.loss import RoutedTerms

__all__ = ["CsvLog", "DevEvaluator", "RoutingMonitor"]

logger = logging.getLogger("fastlane_rag.training")


class RoutingMonitor(TrainerCallback):
    """Sets the temperature from the global step, logs the terms of the loss, and warns when routing collapses."""

    def __init__(self, terms: RoutedTerms, window: int = 50) -> None:
        self.terms = terms
        self._recent: deque[dict[str, float]] = deque(maxlen=window)
        self._positions: deque[Tensor] = deque(maxlen=window)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Read the number of steps of the run."""
        self.terms.last_step = state.max_steps

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Set the step, which decides temperature and draws, also after a resume."""
        self.terms.step = state.global_step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Keep the terms of the step; check for collapse once a window is full."""
        self._recent.append(self.terms.terms)
        self._positions.append(self.terms.routed_positions.cpu())
        if (
            state.global_step % (self._recent.maxlen or 1) == 0
            and (share := self.top_position_share()) > COLLAPSE_SHARE
        ):
            logger.warning(
                "Routing is collapsing: %.0f%% of the last queries route the same position first, whatever the query. "
                "Raise loss.collapse or the final routing.temperature, or lower head_learning_rate.",
                100 * share,
            )

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        """Add the averaged terms to the log record."""
        if logs is None or not self._recent or "loss" not in logs:
            return
        sums: dict[str, list[float]] = {}
        for record in self._recent:
            for name, value in record.items():
                sums.setdefault(name, []).append(value)
        logs.update({name: sum(v) / len(v) for name, v in sums.items()})
        logs["temperature"] = self.terms.temperature
        logs["top_position_share"] = self.top_position_share()

    def top_position_share(self) -> float:
        """Share of recent queries whose best routed token is at the most common position."""
        if not self._positions:
            return 0.0
        counts = torch.bincount(torch.cat(list(self._positions)))
        return float(counts.max() / counts.sum())


class CsvLog(TrainerCallback):
    """Appends each log record to a CSV file of (step, name, value) rows, so that new names need no new column."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        """Write one row per value."""
        fresh = not self.path.exists()
        with self.path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            if fresh:
                writer.writerow(["step", "name", "value"])
            writer.writerows([state.global_step, name, value] for name, value in (logs or {}).items())


class DevEvaluator(BaseEvaluator):
    """nDCG@10 on small dev collections: full SumMaxSim and the routed score at several k, without refinement.

    The primary metric, which picks the best checkpoint, is the mean of full and k = 1 over the collections.
    """

    def __init__(self, sets: list[DevSet], ks: tuple[int, ...] = (1, 4)) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.sets = sets
        self.ks = ks
        self.primary_metric = "dev_score"
        self.greater_is_better = True

    def __call__(
        self, model: Any, output_path: str | None = None, epoch: float = -1, steps: int = -1, **kwargs: Any
    ) -> dict[str, float]:
        """Evaluate the model; keys are like "squad_ndcg10_full" and "dev_score"."""
        was_training = model.training
        face = FastLaneModel(model)
        results: dict[str, float] = {}
        for dev in self.sets:
            for label, value in dev_scores(face, dev, self.ks).items():
                results[f"{dev.name}_ndcg10_{label}"] = value
        picked = [v for k, v in results.items() if k.endswith(("_full", "_k1"))]
        results["dev_score"] = sum(picked) / len(picked) if picked else math.nan
        model.train(was_training)
        logger.info("dev: %s", {k: round(v, 4) for k, v in results.items()})
        return results


def dev_scores(model: FastLaneModel, dev: DevSet, ks: Sequence[Selection]) -> dict[str, float]:
    """nDCG@10 of full SumMaxSim ("full") and of the routed score ("k1", ...) on one dev collection."""
    ids = list(dev.documents)
    documents = model.encode_documents(list(dev.documents.values()))
    packed = torch.cat(documents)
    offsets = torch.zeros(len(documents) + 1, dtype=torch.int64)
    torch.cumsum(torch.tensor([len(d) for d in documents]), 0, out=offsets[1:])
    runs: dict[str, dict[str, list[str]]] = {}
    for query_id, query in zip(dev.queries, model.encode_routed(list(dev.queries.values())), strict=True):
        rows = {"full": query.embeddings, **{f"k{k}": query.compared(query.select(k)) for k in ks}}
        for label, embeddings in rows.items():
            scores = maxsim(embeddings, packed, document_offsets=offsets)[0]
            best = torch.topk(scores, min(100, len(ids))).indices.tolist()
            runs.setdefault(label, {})[query_id] = [ids[i] for i in best]
    return {label: mean_scores(score_run(dev.qrels, run))["nDCG@10"] for label, run in runs.items()}
