"""The MaxSim implementations that `kernels.py` times: ours and others, on the CPU and on CUDA devices."""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Problem:
    """The data of one shape, in every layout that an engine may need.

    Attributes:
        queries: (Nq, Lq, d) float32.
        packed: (T, d) float32, documents one after the other.
        offsets: (Nd + 1,) int64, on the CPU.
        device: where engines compute.
    """

    queries: Tensor
    packed: Tensor
    offsets: Tensor
    device: str = "cpu"

    @property
    def lengths(self) -> Tensor:
        """(Nd,) tokens of each document."""
        return self.offsets.diff()

    @cached_property
    def padded(self) -> tuple[Tensor, Tensor]:
        """Documents (Nd, longest, d) and their mask."""
        mask = torch.arange(int(self.lengths.max())) < self.lengths[:, None]
        documents = torch.zeros(*mask.shape, self.packed.shape[1])
        documents[mask] = self.packed
        return documents, mask

    def on_device(self, *tensors: Tensor) -> list[Tensor]:
        """The tensors there, floating-point ones in half precision."""
        return [(one.half() if one.is_floating_point() else one).to(self.device) for one in tensors]


Run = Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Engine:
    """One implementation of MaxSim.

    Attributes:
        prepare: converts a problem to the engine's layout, without being timed, and returns the function to time.
        devices: "cpu", "cuda" or both.
        package: distribution that it needs; None for ours, torch and sentence-transformers.
        exact: False if its error is too large to be checked against float64 scores.
        bytes_a_number: bytes of one number of a stored document row, to compute the bandwidth.
        most_documents: the most documents it is run with.
        most_dim: the most dimensions it is run with.
    """

    prepare: Callable[[Problem], Run]
    devices: tuple[str, ...] = ("cpu",)
    package: str | None = None
    exact: bool = True
    bytes_a_number: float = 4
    most_documents: int = 1 << 40
    most_dim: int = 1 << 40

    def missing(self) -> bool:
        """Whether its package is not installed."""
        return self.package is not None and importlib.util.find_spec(self.package.replace("-", "_")) is None

    def takes(self, problem: Problem) -> bool:
        """Whether it can run a problem."""
        return len(problem.lengths) <= self.most_documents and problem.packed.shape[1] <= self.most_dim


def fastlane(dtype: torch.dtype) -> Callable[[Problem], Run]:
    """fastlane_rag.scoring on documents stored in a dtype."""

    def prepare(problem: Problem) -> Run:
        from fastlane_rag.scoring import maxsim

        documents, queries = problem.packed.to(problem.device, dtype), problem.queries.to(problem.device)
        queries = queries if problem.device == "cpu" else queries.to(dtype)
        return lambda: maxsim(queries, documents, document_offsets=problem.offsets)

    return prepare


def fastlane_codes(bits: int) -> Callable[[Problem], Run]:
    """fastlane_rag.scoring on documents in residual code."""

    def prepare(problem: Problem) -> Run:
        from fastlane_rag.codecs.residual import ResidualCodec
        from fastlane_rag.scoring import Codes, maxsim
        from fastlane_rag.scoring.codes import Codebook

        rows = problem.packed.numpy()
        sample = rows[np.random.default_rng(0).permutation(len(rows))[:20_000]]
        codec = ResidualCodec.train(sample, bits, centroids=1024)
        codes = codec.codes(codec.encode(rows))
        book = codes.codebook
        there = Codes(
            Codebook(book.centroids.to(problem.device), book.steps.to(problem.device), bits),
            *(one.to(problem.device) for one in (codes.centroid_ids, codes.scales, codes.residuals)),
        )
        queries = problem.queries.to(problem.device)
        return lambda: maxsim(queries, there, document_offsets=problem.offsets)

    return prepare


def fastlane_torch(problem: Problem) -> Run:
    """The scoring core without its compiled kernels, as on a platform without them."""
    from fastlane_rag.scoring.inputs import Request, pack
    from fastlane_rag.scoring.torch import backend as torch_backend

    queries = pack("queries", problem.queries, None, None)
    documents = pack("documents", problem.packed, problem.offsets, None)
    return lambda: torch_backend.scores(Request(queries, documents))[0]


def gemm(problem: Problem) -> Run:
    """Only the dot products, by BLAS: the bound of every implementation that is not fused."""
    if problem.device == "cpu":
        queries, documents = problem.queries.flatten(0, 1), problem.packed
        return lambda: queries @ documents.T
    queries, documents = problem.on_device(problem.queries.flatten(0, 1), problem.packed)
    return lambda: queries @ documents.T


def einsum(problem: Problem) -> Run:
    """The usual three lines of torch over padded documents."""
    documents, mask = problem.padded
    queries = problem.queries
    if problem.device != "cpu":
        queries, documents, mask = problem.on_device(queries, documents, mask)

    def score() -> Tensor:
        similarity = torch.einsum("qid,njd->qnij", queries, documents)
        return similarity.masked_fill(~mask[None, :, None], -torch.inf).amax(-1).float().sum(-1)

    return score


def sentence_transformers(problem: Problem) -> Run:
    """sentence_transformers.util.maxsim over padded documents."""
    from sentence_transformers.util import maxsim

    documents, mask = problem.padded
    queries = problem.queries
    if problem.device != "cpu":
        queries, documents, mask = problem.on_device(queries, documents, mask)
    return lambda: maxsim(queries, documents, None, mask)


def lateweave(problem: Problem) -> Run:
    """lateweave's packed scorer, which takes one query per call."""
    from lateweave import maxsim_scores_packed

    queries, documents = problem.queries.numpy(), problem.packed.numpy()
    lengths, threads = problem.lengths.numpy(), torch.get_num_threads()
    return lambda: np.stack([maxsim_scores_packed(q, documents, lengths, threads=threads) for q in queries])


def maxsim_cpu(problem: Problem) -> Run:
    """maxsim-cpu over a list of documents, which takes one query per call."""
    from maxsim_cpu import maxsim_scores_variable

    queries = problem.queries.numpy()
    documents = [d.numpy() for d in problem.packed.split(problem.lengths.tolist())]
    return lambda: np.stack([maxsim_scores_variable(q, documents) for q in queries])


def late_interaction_kernels(problem: Problem) -> Run:
    """late-interaction-kernels' `MaxSimScorer` over padded documents: eager torch on the CPU, Triton on CUDA."""
    from late_interaction_kernels import MaxSimScorer

    scorer = MaxSimScorer(normalize=False)
    documents, mask = problem.padded
    queries = problem.queries
    if problem.device != "cpu":
        queries, documents, mask = problem.on_device(queries, documents, mask)
    return lambda: scorer.score(queries, documents, None, mask)


def late_interaction_varlen(problem: Problem) -> Run:
    """late-interaction-kernels' `maxsim_varlen` over packed documents."""
    from late_interaction_kernels import maxsim_varlen

    count, tokens = problem.queries.shape[:2]
    queries, documents = problem.on_device(problem.queries.flatten(0, 1), problem.packed)
    query_starts = torch.arange(0, (count + 1) * tokens, tokens, dtype=torch.int32, device=problem.device)
    starts, longest = problem.offsets.int().to(problem.device), int(problem.lengths.max())
    return lambda: maxsim_varlen(queries, documents, query_starts, starts, tokens, longest)


def flash_maxsim(problem: Problem) -> Run:
    """flash-maxsim over packed documents, which takes one query per call."""
    from flash_maxsim import flash_maxsim_packed

    queries, documents = problem.on_device(problem.queries, problem.packed)
    starts, longest = problem.offsets.int().to(problem.device), int(problem.lengths.max())
    return lambda: torch.stack([flash_maxsim_packed(q, documents, starts, longest) for q in queries])


BOTH = ("cpu", "cuda")
OURS = "fastlane float32"
OURS_ON_CUDA = "fastlane float16"
ENGINES: dict[str, Engine] = {
    OURS: Engine(fastlane(torch.float32)),
    OURS_ON_CUDA: Engine(fastlane(torch.float16), BOTH, bytes_a_number=2),
    "fastlane 4-bit codes": Engine(fastlane_codes(4), BOTH, exact=False, bytes_a_number=0.5),
    "fastlane 2-bit codes": Engine(fastlane_codes(2), BOTH, exact=False, bytes_a_number=0.25),
    "fastlane without its kernels": Engine(fastlane_torch),
    "BLAS only": Engine(gemm, BOTH, exact=False, bytes_a_number=2),
    "torch einsum": Engine(einsum, BOTH, bytes_a_number=2, most_documents=1000),
    "sentence-transformers": Engine(sentence_transformers, BOTH, bytes_a_number=2, most_documents=100_000),
    "lateweave": Engine(lateweave, package="lateweave"),
    # 0.1.0 crashes with a segmentation fault above 128 dimensions.
    "maxsim-cpu": Engine(maxsim_cpu, package="maxsim-cpu", most_dim=128),
    "late-interaction-kernels": Engine(
        late_interaction_kernels, BOTH, "late-interaction-kernels", bytes_a_number=2, most_documents=100_000
    ),
    "late-interaction-kernels varlen": Engine(
        late_interaction_varlen, ("cuda",), "late-interaction-kernels", bytes_a_number=2
    ),
    "flash-maxsim": Engine(flash_maxsim, ("cuda",), "flash-maxsim", bytes_a_number=2),
}
