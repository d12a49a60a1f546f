"""Graphs of one encoder, run by onnxruntime for any number of threads."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["OLDEST", "OnnxStates", "Precision", "StatesError"]

Precision = Literal["float32", "int8"]
Open = Callable[[Precision, bool], bytes]
"""Gives the graph of a precision, and whether it takes ``lengths``, as a file has it."""

OLDEST = (1, 20)
"""The oldest onnxruntime whose operators the graphs are written in."""

# The lowest cosine of a token's states with torch's, over the sample. Of the bundled model the lowest are
# 1 - 1e-6 in float32 and .997 in int8.
_FLOORS: dict[Precision, float] = {"float32": 0.99999, "int8": 0.98}
# Tokens of one run. From 64 to 4,096 tokens take as long each, and smaller runs share the threads more evenly.
_RUN = 1024


class StatesError(Exception):
    """Why onnxruntime cannot make the states of a model; its text goes into a warning."""


class OnnxStates:
    """Makes token states in place of a transformer. One run takes one thread; a batch is shared among several.

    Args:
        backbone: the transformer, whose weights in float32 are what the graphs hold.
        open: gives a graph.
        sample: (1, L) int64, a text. A graph is compared with torch, token by token, on this text before it is used.
        precisions: of the states for queries and for documents.
    """

    def __init__(
        self, backbone: PreTrainedModel, open: Open, sample: Tensor, precisions: tuple[Precision, Precision]
    ) -> None:
        self.precisions = precisions
        self._backbone = backbone
        self._open = open
        self._sample = sample
        self._sessions: dict[tuple[Precision, bool], Any] = {}
        self._lock = threading.Lock()
        # Weights made in inference mode have no count of changes, and cannot be changed outside it.
        self._parameters: list[Tensor] = [one for one in backbone.parameters() if not one.is_inference()]
        before = int(backbone.config.pad_token_id) + 1 if "roberta" in backbone.config.model_type else 0
        self._longest = (
            int(getattr(backbone.config, "max_position_embeddings", 0)) - before
        )  # 0: of no kind that has a graph
        self._weights = self._signature()
        _all.add(self)

    def current(self) -> bool:
        """Whether the weights are those that the graphs hold, in the same place: not trained further, moved or cast."""
        return self._weights == self._signature()

    def open(self, task: str) -> None:
        """Open what a task needs, which its first call would do.

        Raises:
            StatesError: the graph cannot be had or run, or gives other states than torch.
        """
        try:
            self._session(self._precision(task), masked=False)
        except StatesError:
            raise
        except Exception as error:  # whatever the library raises, there is torch
            raise StatesError(f"onnxruntime failed: {_line(error)}") from error

    def release(self, task: str) -> None:
        """Close what a task holds, where no other task needs it; its next call opens it again."""
        others = {self._precision(other) for other in ("query", "document") if other != task}
        with self._lock:
            kept = {key: one for key, one in self._sessions.items() if key[0] in others}
            self._sessions = kept if self._precision(task) not in others else self._sessions

    def __call__(self, features: dict[str, Any], task: str | None) -> Tensor | None:
        """Token states (B, L, width) float32 of texts padded at their end, zero where padding is.

        Args:
            features: with ``input_ids`` and ``attention_mask``, (B, L) int64.
            task: "query", "document" or None, which counts as a query.

        Returns:
            The states; None for what only torch can do.

        Raises:
            StatesError: onnxruntime failed.
        """
        ids, mask = features.get("input_ids"), features.get("attention_mask")
        if ids is None or mask is None or ids.ndim != 2 or ids.device.type != "cpu" or torch.is_grad_enabled():
            return None
        types = features.get("token_type_ids")
        if ids.shape[1] > self._longest or not self.current() or (types is not None and types.any()):
            return None
        numbers, seen = ids.numpy(), mask.numpy()
        precision = self._precision(task)
        try:
            if numbers.size <= _RUN and seen.all():  # one query, for which everything else here takes time too
                return torch.from_numpy(_run(self._session(precision, masked=False), {"input_ids": numbers}))
            lengths = np.count_nonzero(seen, axis=1)
            if not lengths.all() or not np.array_equal(seen != 0, np.arange(ids.shape[1]) < lengths[:, None]):
                return None
            if features.get("query_expansion_positions") is not None and lengths.min() < ids.shape[1]:
                # These are not seen by the others, and have states all the same.
                inputs = {"input_ids": numbers, "lengths": lengths.astype(np.int32)}
                states = _run(self._session(precision, masked=True), inputs)
            else:
                states = self._by_length(precision, numbers, lengths)
        except StatesError:
            raise
        except Exception as error:  # whatever the library raises, there is torch
            raise StatesError(f"onnxruntime failed: {_line(error)}") from error
        return torch.from_numpy(states)

    def _by_length(
        self, precision: Precision, ids: NDArray[np.int64], lengths: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """States without any padding in the work: texts of one length at a time, in several threads."""
        session = self._session(precision, masked=False)
        states = np.zeros((*ids.shape, self._backbone.config.hidden_size), np.float32)

        def one(run: tuple[int, NDArray[np.int64]]) -> None:
            length, rows = run
            states[rows, :length] = _run(session, {"input_ids": ids[rows, :length]})

        _share(one, list(_runs(lengths)))
        return states

    def _precision(self, task: str | None) -> Precision:
        return self.precisions[task == "document"]

    def _session(self, precision: Precision, *, masked: bool) -> Any:
        found = self._sessions.get((precision, masked))
        if found is None:
            with self._lock:
                found = self._sessions.get((precision, masked))
                if found is None:
                    found = _opened(self._open(precision, masked))
                    self._check(found, precision, masked=masked)
                    self._sessions[precision, masked] = found
        return found

    def _check(self, session: Any, precision: Precision, *, masked: bool) -> None:
        """Compare the states of the sample, token by token, with torch's.

        Raises:
            StatesError: they differ.
        """
        seen = torch.ones_like(self._sample)
        if masked:
            seen[:, self._sample.shape[1] // 2 :] = 0
        inputs = {"input_ids": self._sample.numpy()}
        if masked:
            inputs["lengths"] = seen.sum(1).to(torch.int32).numpy()
        ours = torch.from_numpy(_run(session, inputs))
        with torch.inference_mode():
            theirs = self._backbone(input_ids=self._sample, attention_mask=seen).last_hidden_state.float()
        if ours.shape != theirs.shape:
            raise StatesError(f"its graph gives states of shape {tuple(ours.shape)}, not {tuple(theirs.shape)}")
        lowest = float(torch.cosine_similarity(ours, theirs, dim=-1).min())
        if not lowest >= _FLOORS[precision]:
            raise StatesError(f"a token's states in {precision} have cosine {lowest:.5f} with torch's")

    def _signature(self) -> list[int]:
        """What changes with the weights: the count of each one's changes, and where the first is."""
        return [one.data_ptr() for one in self._parameters[:1]] + [one._version for one in self._parameters]

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and pickles open the graphs again."""
        return type(self), (self._backbone, self._open, self._sample, self.precisions)

    def _after_fork(self, *, interrupted: bool) -> None:
        self._lock = threading.Lock()
        if interrupted:
            _abandoned.append(self._sessions)
            self._sessions = {}


def version_problem(version: str) -> str | None:
    """What is wrong with a version of onnxruntime; None where nothing is."""
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if numbers >= OLDEST:
        return None
    return f"onnxruntime {version} is older than {'.'.join(map(str, OLDEST))}: pip install -U onnxruntime"


def _opened(graph: bytes) -> Any:
    import onnxruntime

    if problem := version_problem(onnxruntime.__version__):
        raise StatesError(problem)
    options = onnxruntime.SessionOptions()
    # One thread a run: batches are shared among threads here, so that nothing waits at a barrier, or spins there, and
    # a forked child finds no thread missing.
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.enable_mem_pattern = False  # it plans the memory of one shape, and here every run has another
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    # It keeps the graph, as large as the weights, to open it again with another provider; there is none here.
    session._model_bytes = None
    return session


def _run(session: Any, inputs: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
    me = threading.get_ident()
    _running.add(me)
    try:
        states: NDArray[np.float32] = session.run(None, inputs)[0]
    finally:
        _running.discard(me)
    return states


def _runs(lengths: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Rows of one length, `_RUN` tokens or one text at a time; the longest first, so that threads end together."""
    order = np.argsort(-lengths, kind="stable")
    first = 0
    while first < len(order):
        length = int(lengths[order[first]])
        most = max(1, _RUN // length)
        alike = int((lengths[order[first : first + most]] == length).sum())
        yield length, order[first : first + alike]
        first += alike


def _share(call: Callable[[tuple[int, NDArray[np.int64]]], None], runs: list[tuple[int, NDArray[np.int64]]]) -> None:
    """Call for every run, in as many threads as torch may use here."""
    workers = torch.get_num_threads()
    if workers > 1 and len(runs) > 1 and (pool := _pool(workers)) is not None:
        for _ in pool.map(call, runs):
            pass
    else:
        for run in runs:
            call(run)


def _pool(workers: int) -> ThreadPoolExecutor | None:
    """The threads of this process; None at its end, when there are none."""
    global _threads
    with _threads_lock:
        if _threads is None or _threads._max_workers != workers:
            old, _threads = _threads, ThreadPoolExecutor(workers, thread_name_prefix="fastlane-encode")
            if old is not None:
                old.shutdown(wait=False)
        try:
            _threads.submit(int)
        except RuntimeError:
            return None
        return _threads


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


_all: weakref.WeakSet[OnnxStates] = weakref.WeakSet()
_threads: ThreadPoolExecutor | None = None
_threads_lock = threading.Lock()
# Threads that are inside the library. A child that is forked meanwhile finds its locks taken by threads it has not.
_running: set[int] = set()
# Closing these would wait for such a lock.
_abandoned: list[Any] = []


def _after_fork() -> None:
    global _threads, _threads_lock
    if _threads is not None:
        _abandoned.append(_threads)
    _threads, _threads_lock = None, threading.Lock()
    for states in list(_all):
        states._after_fork(interrupted=bool(_running))
    _running.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
