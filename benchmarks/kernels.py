"""MaxSim alone: fastlane_rag.scoring beside its peers, one process, interleaved.

python benchmarks/kernels.py --threads 2 --json benchmarks/results/kernels.json

Token counts are those of real passages; the vectors are random, which costs what real ones do. Each engine
gets its inputs in the layout it asks for, prepared before the clock starts, and must agree with the float64
definition before it is timed (codes lose what codes lose on random vectors: far more than on real ones).
Peers that are not installed are left out: pip install --no-deps lateweave maxsim-cpu.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SHAPES = [  # queries, documents, dimension
    (1, 100, 96),
    (1, 1000, 96),
    (32, 100, 96),
    (1, 5000, 96),
    (1, 100, 128),
    (1, 1000, 128),
    (32, 100, 128),
    (1, 1000, 384),
]
QUERY_TOKENS = 32


@dataclass(frozen=True, slots=True)
class Problem:
    """One shape's data in every layout an engine may ask for."""

    queries: Any  # (Nq, Lq, d) float32
    packed: Any  # (T, d) float32
    offsets: Any  # (Nd + 1,) int64

    @property
    def padded(self) -> tuple[Any, Any]:
        """Documents (Nd, longest, d) and their mask."""
        import torch

        lengths = self.offsets.diff()
        mask = torch.arange(int(lengths.max())) < lengths[:, None]
        documents = torch.zeros(*mask.shape, self.packed.shape[1])
        documents[mask] = self.packed
        return documents, mask


Engine = Callable[[Problem], Callable[[], Any]]


def fastlane(dtype: str) -> Engine:
    """The scoring core on documents stored in `dtype`."""

    def prepare(problem: Problem) -> Callable[[], Any]:
        import torch

        from fastlane_rag.scoring import maxsim

        documents = problem.packed.to(getattr(torch, dtype))
        return lambda: maxsim(problem.queries, documents, document_offsets=problem.offsets)

    return prepare


def fastlane_codes(bits: int) -> Engine:
    """The scoring core on documents in the residual codec's code."""

    def prepare(problem: Problem) -> Callable[[], Any]:
        from fastlane_rag.index.residual import ResidualCodec
        from fastlane_rag.scoring import maxsim

        rows = problem.packed.numpy()
        codec = ResidualCodec.train(rows[:20_000], bits, centroids=1024)
        codes = codec.codes(codec.encode(rows))
        return lambda: maxsim(problem.queries, codes, document_offsets=problem.offsets)

    return prepare


def fastlane_torch(problem: Problem) -> Callable[[], Any]:
    """The scoring core without its compiled kernels, as where numba is not installed."""
    from fastlane_rag.scoring import torch_backend
    from fastlane_rag.scoring.inputs import pack

    queries = pack("queries", problem.queries, None, None)
    documents = pack("documents", problem.packed, problem.offsets, None)
    return lambda: torch_backend.scores(queries, documents, None, grouped=False, keep_argmax=False)[0]


def gemm(problem: Problem) -> Callable[[], Any]:
    """All dot products by BLAS and nothing else: what an unfused implementation cannot beat."""
    queries = problem.queries.flatten(0, 1)
    return lambda: problem.packed @ queries.T


def einsum(problem: Problem) -> Callable[[], Any]:
    """The usual three lines of torch over padded documents."""
    import torch

    documents, mask = problem.padded

    def score() -> Any:
        similarity = torch.einsum("qid,njd->qnij", problem.queries, documents)
        return similarity.masked_fill(~mask[None, :, None], -torch.inf).amax(-1).sum(-1)

    return score


def sentence_transformers(problem: Problem) -> Callable[[], Any]:
    """sentence_transformers.util.maxsim over padded documents."""
    from sentence_transformers.util import maxsim

    documents, mask = problem.padded
    return lambda: maxsim(problem.queries, documents, None, mask)


def lateweave(problem: Problem) -> Callable[[], Any]:
    """lateweave's packed scorer, one call a query as its interface has it."""
    import numpy as np
    import torch
    from lateweave import maxsim_scores_packed

    queries, documents = problem.queries.numpy(), problem.packed.numpy()
    lengths, threads = problem.offsets.diff().numpy(), torch.get_num_threads()
    return lambda: np.stack([maxsim_scores_packed(q, documents, lengths, threads=threads) for q in queries])


def maxsim_cpu(problem: Problem) -> Callable[[], Any]:
    """maxsim-cpu over a list of documents, one call a query as its interface has it."""
    import numpy as np
    from maxsim_cpu import maxsim_scores_variable

    queries = problem.queries.numpy()
    documents = [d.numpy() for d in problem.packed.split(problem.offsets.diff().tolist())]
    return lambda: np.stack([maxsim_scores_variable(q, documents) for q in queries])


ENGINES: dict[str, Engine] = {
    "fastlane float32": fastlane("float32"),
    "fastlane float16": fastlane("float16"),
    "fastlane 4-bit codes": fastlane_codes(4),
    "fastlane 2-bit codes": fastlane_codes(2),
    "fastlane without numba": fastlane_torch,
    "BLAS only": gemm,
    "torch einsum": einsum,
    "sentence-transformers": sentence_transformers,
    "lateweave": lateweave,
    "maxsim-cpu": maxsim_cpu,
}


def usable(name: str, shape: tuple[int, int, int]) -> bool:
    """Whether an engine is installed and survives the shape."""
    if name == "maxsim-cpu" and shape[2] > 128:
        return False  # 0.1.0 ends with a segmentation fault
    if name == "torch einsum" and shape[1] > 1000:
        return False  # gigabytes of padding say nothing new
    if name.endswith("codes") and shape[1] > 1000:
        return False  # encoding them would take longer than everything else
    module = name.replace("-", "_")
    return name not in ("lateweave", "maxsim-cpu") or importlib.util.find_spec(module) is not None


def passage_lengths(count: int) -> list[int]:
    """Token counts of real passages, cut where the default model cuts them."""
    from fastlane_rag import FastLaneModel
    from fastlane_rag.data import read_passages, sample_path

    model = FastLaneModel.from_pretrained()
    texts = [passage.content for passage in read_passages(sample_path())]
    tokens = model.encoder.tokenizer(texts, truncation=True, max_length=model.max_document_length)["input_ids"]
    lengths = [len(ids) for ids in tokens]
    return (lengths * (count // len(lengths) + 1))[:count]


def make_problem(shape: tuple[int, int, int], lengths: list[int]) -> Problem:
    """Random unit vectors in documents of the given lengths."""
    import torch
    from torch.nn.functional import normalize

    queries, documents, dim = shape
    generator = torch.Generator().manual_seed(0)
    offsets = torch.tensor([0, *lengths[:documents]]).cumsum(0)
    return Problem(
        normalize(torch.randn(queries, QUERY_TOKENS, dim, generator=generator), dim=-1),
        normalize(torch.randn(int(offsets[-1]), dim, generator=generator), dim=-1),
        offsets,
    )


def measure(shape: tuple[int, int, int], lengths: list[int], repeats: int) -> dict[str, Any]:
    """Time every engine on one shape, round after round."""
    import torch

    from fastlane_rag.scoring.reference import reference_maxsim

    problem = make_problem(shape, lengths)
    sample = slice(0, 20)
    documents = problem.packed.split(problem.offsets.diff().tolist())
    expected = reference_maxsim(list(problem.queries[:1]), documents[sample])
    runs, errors = {}, {}
    for name, engine in ENGINES.items():
        if not usable(name, shape):
            continue
        runs[name] = engine(problem)
        result = torch.as_tensor(runs[name]())
        if name == "BLAS only":
            continue
        errors[name] = float((result[:1, sample] - expected).abs().max())
        if not errors[name] < 2e-2 and not name.endswith("codes"):
            raise SystemExit(f"{name} is wrong by {errors[name]} on {shape}")
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    ours = statistics.median(seconds["fastlane float32"])
    operations = 2 * shape[0] * QUERY_TOKENS * len(problem.packed) * shape[2]
    return {
        "queries": shape[0],
        "documents": shape[1],
        "dim": shape[2],
        "query_tokens": QUERY_TOKENS,
        "document_tokens": len(problem.packed),
        "engines": {
            name: {
                "median_ms": round(statistics.median(times) * 1e3, 3),
                "min_ms": round(min(times) * 1e3, 3),
                "ratio_to_fastlane": round(statistics.median(times) / ours, 2),
                "gflops": round(operations / statistics.median(times) / 1e9, 1),
                "max_error": errors.get(name),
            }
            for name, times in seconds.items()
        },
    }


def show(result: dict[str, Any]) -> None:
    """Print one shape's table."""
    print(f"\n{result['queries']} x {result['documents']} documents, dim {result['dim']}")
    for name, row in sorted(result["engines"].items(), key=lambda item: item[1]["median_ms"]):
        print(f"  {name:24}{row['median_ms']:10.2f} ms {row['ratio_to_fastlane']:6.2f}x {row['gflops']:7.1f} GFLOPS")


def main() -> None:
    """Measure every shape, print, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1, help="threads each engine may use")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", type=Path, help="where to write the results")
    arguments = parser.parse_args()
    # Rayon and OpenMP read these once, when their libraries load.
    os.environ["RAYON_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = str(arguments.threads)

    import torch

    from fastlane_rag.evaluation.environment import environment

    torch.set_num_threads(arguments.threads)
    lengths = passage_lengths(max(documents for _, documents, _ in SHAPES))
    load = os.getloadavg()[0]
    results = []
    for shape in SHAPES:
        results.append(measure(shape, lengths, arguments.repeats))
        show(results[-1])
    if arguments.json:
        peers = {}
        for name in ("lateweave", "maxsim-cpu"):
            if importlib.util.find_spec(name.replace("-", "_")):
                peers[name] = importlib.metadata.version(name)
        report = {
            "environment": environment().as_dict(),
            "peers": peers,
            "load_average_before": load,
            "repeats": arguments.repeats,
            "shapes": results,
        }
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
