"""Everything that a CUDA device does, measured in one run: kernels, resident documents, encoding, a training step.

python benchmarks/gpu.py --minutes 8 --json benchmarks/results/gpu.json
python benchmarks/gpu.py --interpret

It installs nothing, and writes what it has after each step, so that a run which is cut off keeps it. Without a CUDA
device it says so and ends well. --interpret runs the same steps with tiny inputs in Triton's interpreter on the CPU;
its times mean nothing.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
TESTS = ("tests/scoring/test_gpu.py", "tests/device", "tests/index/test_device.py", "tests/index/test_device_means.py")
BATCHES = (1, 8, 64, 256)
ROUTED, QUERY_TOKENS, K_DEPTH = 8, 32, 256
BITS, DIM, VECTOR = 4, 128, 512


@dataclass(frozen=True)
class Size:
    """How much a step measures.

    Attributes:
        device: where.
        tokens: of a document, on average.
        segment: documents of a segment.
        centroids: of the codec.
        repeats: at least this many measurements, of which the median counts.
        seconds: that one figure may take, beyond these.
    """

    device: str
    tokens: int
    segment: int
    centroids: int
    repeats: int
    seconds: float

    @property
    def interpreted(self) -> bool:
        """Whether the CPU stands in for a device."""
        return self.device == "cpu"


@dataclass(eq=False)
class Segment:
    """Documents in code on the host, as `fastlane_rag.device` takes them."""

    packed: Any
    offsets: np.ndarray


def segments(size: Size, documents: int) -> list[Segment]:
    """Documents of random codes; all segments share their bytes on the host, and none on the device."""
    import torch

    from fastlane_rag.scoring import Codebook, Codes

    chance = np.random.default_rng(0)
    count = min(documents, size.segment)
    lengths = chance.integers(size.tokens // 2, size.tokens * 3 // 2 + 1, count)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    generator = torch.Generator().manual_seed(0)
    centroids = torch.nn.functional.normalize(torch.randn(size.centroids, DIM, generator=generator), dim=1)
    book = Codebook(centroids, torch.full((DIM,), 2 / (2**BITS * DIM**0.5)), BITS)
    tokens = int(offsets[-1])
    codes = Codes(
        book,
        torch.from_numpy(chance.integers(0, size.centroids, tokens).astype(np.uint16)),
        torch.from_numpy(chance.integers(100, 160, tokens).astype(np.uint8)),
        torch.from_numpy(chance.integers(0, 256, (tokens, book.width)).astype(np.uint8)),
    )
    return [Segment(codes, offsets) for _ in range(documents // count)]


def queries(count: int, tokens: int) -> list[Any]:
    """Random unit rows."""
    import torch

    generator = torch.Generator().manual_seed(count)
    return list(torch.nn.functional.normalize(torch.randn(count, tokens, DIM, generator=generator), dim=2))


def median_seconds(run: Callable[[], Any], size: Size) -> float:
    """The median time of a function that has run twice before."""
    from kernels import wait

    times: list[float] = []
    started = time.perf_counter()
    for turn in range(1000):
        wait(size.device)
        start = time.perf_counter()
        run()
        wait(size.device)
        times.append(time.perf_counter() - start)
        if turn >= size.repeats + 1 and time.perf_counter() - started > size.seconds:
            break
    return statistics.median(times[2:])


def tests(size: Size) -> dict[str, Any]:
    """Run the tests that need a device."""
    if size.interpreted:
        return {"left_out": "make test runs the kernels in the interpreter"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "gpu", *TESTS]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    print(result.stdout[-2000:])
    return {"exit_code": result.returncode, "summary": result.stdout.strip().splitlines()[-1]}


def kernels_alone(size: Size, documents: int) -> dict[str, Any]:
    """The kernels beside the bandwidth of a copy: gigabytes a second of what they must read."""
    import torch
    from kernels import copy_bandwidth

    from fastlane_rag.device import Device, Resident
    from fastlane_rag.scoring.inputs import Packed, in_order

    bandwidth = copy_bandwidth(size.device, 3)
    report: dict[str, Any] = {"copy_gigabytes_a_second": bandwidth, "shapes": []}
    [segment] = segments(size, documents)
    _, block = Resident(Device(size.device), 1 << 40).hold([segment]).blocks[0]
    codes = block.documents
    assert codes is not None
    tokens_there = len(codes.rows)
    report["documents"], report["tokens"] = len(codes), tokens_there
    halfs = torch.randn(tokens_there, DIM, device=size.device, dtype=torch.float32 if size.interpreted else torch.half)
    rows = Packed(halfs.half(), codes.starts, codes.lengths)
    width = segment.packed.codebook.width + 3
    for kind, there, row_bytes in (("codes", codes, width), ("rows in half precision", rows, 2 * DIM)):
        for count, tokens in ((1, 4), (1, ROUTED), (1, QUERY_TOKENS), (16, ROUTED), (64, QUERY_TOKENS)):
            asked = in_order(torch.cat(queries(count, tokens)).to(size.device), torch.arange(count + 1) * tokens)
            run = partial(_scored, asked, there)
            seconds = median_seconds(run, size)
            rate = tokens_there * row_bytes / seconds / 1e9
            report["shapes"].append(
                {
                    "rows": kind,
                    "queries": count,
                    "query_tokens": tokens,
                    "milliseconds": round(seconds * 1e3, 4),
                    "gigabytes_a_second": round(rate, 1),
                    # A copy reads and writes; the kernels only read.
                    "share_of_copy": round(rate / bandwidth, 3),
                }
            )
    return report


def _scored(asked: Any, documents: Any) -> Any:
    """Scores as a search has them computed, the queries' preparation included."""
    from fastlane_rag.scoring import backends
    from fastlane_rag.scoring.inputs import Request

    return backends.choose(asked.rows, documents.rows).scores(Request(asked, documents))


def resident(size: Size, documents: int) -> dict[str, Any]:
    """Documents kept on the device: how long they take to get there, and searches over them."""
    from kernels import wait

    from fastlane_rag.device import Asked, Device, Resident, search

    device = Device(size.device)
    start = time.perf_counter()
    collection = Resident(device, int(0.9 * min(device.free(), 1 << 40))).hold(segments(size, documents))
    wait(size.device)
    seconds = time.perf_counter() - start
    report: dict[str, Any] = {
        "documents": collection.count,
        "resident_bytes": collection.resident_bytes,
        "streamed_bytes": collection.streamed_bytes,
        "seconds_to_hold": round(seconds, 2),
        "routed_tokens": ROUTED,
        "query_tokens": QUERY_TOKENS,
        "refined": K_DEPTH,
        "batches": [],
    }
    for count in BATCHES[: 2 if size.interpreted else None]:
        whole = queries(count, QUERY_TOKENS)
        few = [query[:ROUTED] for query in whole]
        run = partial(search, collection, Asked(few), Asked(whole), None, min(K_DEPTH, collection.count))
        taken = median_seconds(run, size)
        report["batches"].append(
            {
                "queries": count,
                "milliseconds": round(taken * 1e3, 3),
                "queries_a_second": round(count / taken, 1),
            }
        )
    report["one query as a CUDA graph"] = as_graph(size, collection)
    return report


def as_graph(size: Size, collection: Any) -> dict[str, Any]:
    """A search for one query, recorded, beside the same search launched kernel by kernel."""
    from fastlane_rag.device import Asked, search

    [whole] = queries(1, QUERY_TOKENS)
    asked = collection, Asked([whole[:ROUTED]]), Asked([whole]), None, min(K_DEPTH, collection.count)
    found: dict[str, Any] = {}
    for name, after in (("milliseconds_launched", None), ("milliseconds_recorded", 0)):
        found[name] = round(median_seconds(partial(search, *asked, record_after=after), size) * 1e3, 3)
    if not collection.recordings.kept:  # the search went on without, so its time is no recording's
        del found["milliseconds_recorded"]
        found["left_out"] = (
            "a CPU records nothing"
            if size.interpreted
            else "not recorded: a warning says why, or documents are streamed"
        )
    return found


def vectors(size: Size, documents: int) -> dict[str, Any]:
    """The vector lane's part on the device: the best of all documents by leading dimensions and by whole vectors."""
    from fastlane_rag.device import Device, ResidentVectors

    chance = np.random.default_rng(0)
    levels = chance.integers(-127, 128, (documents, VECTOR), dtype=np.int8)
    there = ResidentVectors(Device(size.device), levels, chance.random(documents, dtype=np.float32))
    report: dict[str, Any] = {"documents": documents, "bytes": there.bytes, "shapes": []}
    for dimensions in (VECTOR // 4, VECTOR):
        query = chance.standard_normal(dimensions).astype(np.float32)
        seconds = median_seconds(partial(there.nearest, query, None, min(2048, documents)), size)
        rate = documents * dimensions / seconds / 1e9
        row = {"dimensions": dimensions, "milliseconds": round(seconds * 1e3, 4), "gigabytes_a_second": round(rate, 1)}
        report["shapes"].append(row)
    return report


def encoding(size: Size) -> dict[str, Any]:
    """The bundled model on the device, with real passages."""
    from fastlane_rag import FastLaneModel
    from fastlane_rag.data import read_passages, sample_path

    model = FastLaneModel.from_pretrained(device=size.device)
    texts = [passage.text for passage in read_passages(sample_path())][: 8 if size.interpreted else None]
    texts *= 1 if size.interpreted else 20
    tokens = sum(map(len, model.encode_documents(texts)))
    seconds = median_seconds(lambda: model.encode_documents(texts), Size(size.device, 0, 0, 0, 1, 0))
    return {"texts": len(texts), "tokens_a_second": round(tokens / seconds), "dtype": str(model.encoder.dtype)}


def training_step(size: Size) -> dict[str, Any]:
    """MaxSim of a batch with its gradients: the part of a training step that is ours."""
    import torch

    from fastlane_rag.scoring import maxsim_groups

    batch, each, tokens = (2, 2, 8) if size.interpreted else (32, 16, 180)
    kind = torch.float32 if size.interpreted else torch.bfloat16
    asked = torch.randn(batch, QUERY_TOKENS, DIM, device=size.device).to(kind).requires_grad_()
    documents = torch.randn(batch, each, tokens, DIM, device=size.device).to(kind).requires_grad_()

    def step() -> None:
        maxsim_groups(asked, documents).sum().backward()

    shape = {"queries": batch, "documents_each": each, "document_tokens": tokens, "dtype": str(kind)}
    return {**shape, "milliseconds": round(median_seconds(step, size) * 1e3, 3)}


def others(size: Size) -> dict[str, Any]:
    """Our kernels beside others that can be imported here."""
    if size.interpreted:
        return {"left_out": "they have no interpreter"}
    import argparse as arguments

    import torch
    from kernels import random_rows, shapes

    asked = arguments.Namespace(device="cuda", scan=[100_000], repeats=5, processor_time=False)
    with torch.inference_mode():
        return {"shapes": shapes([random_rows(DIM)], asked)}


def steps(interpret: bool) -> dict[str, Callable[[Size], dict[str, Any]]]:
    """What is measured, in this order."""
    few, many = (4, 8) if interpret else (100_000, 1_000_000)
    return {
        "tests": tests,
        "kernels": partial(kernels_alone, documents=few),
        f"{few} documents resident": partial(resident, documents=few),
        f"{many} documents resident": partial(resident, documents=many),
        f"{many} vectors": partial(vectors, documents=many),
        "encoding": encoding,
        "training step": training_step,
        "other kernels": others,
    }


def interpret_kernels() -> None:
    """Let the CUDA kernels run on CPU tensors, in Triton's interpreter."""
    from fastlane_rag.scoring import backends
    from fastlane_rag.scoring.triton import backend as triton_backend

    backends._COMPILED["cpu"] = triton_backend
    triton_backend.available = lambda device: True


def show(name: str, result: dict[str, Any]) -> None:
    """Print a step."""
    print(f"\n{name}")
    for key, value in result.items():
        if not isinstance(value, list | dict):
            print(f"  {key}: {value}")
            continue
        if isinstance(value, dict):
            print(f"  {key}")
        for row in [value] if isinstance(value, dict) else value:
            print("  " + "  ".join(f"{name} {one}" for name, one in row.items() if not isinstance(one, dict)))
    sys.stdout.flush()


def main() -> None:
    """Run the steps, print them, and write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=8, help="no step begins after this time")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--interpret", action="store_true", help="tiny inputs, on the CPU")
    parser.add_argument("--json", type=Path, help="where to write the results")
    arguments = parser.parse_args()
    started = time.monotonic()
    if arguments.interpret:
        os.environ["TRITON_INTERPRET"] = "1"
    import torch

    from fastlane_rag.evaluation.environment import environment

    if arguments.interpret:
        interpret_kernels()
        size = Size("cpu", 6, 4, 16, 1, 0)
    elif torch.cuda.is_available():
        size = Size(arguments.device, 150, 100_000, 16_384, 5, 2)
        torch.cuda.set_device(arguments.device)
    else:
        print("there is no CUDA device here, so nothing is measured; --interpret runs the same steps without one")
        return
    report: dict[str, Any] = {"environment": environment().as_dict(), "interpreted": size.interpreted, "steps": {}}
    for name, step in steps(arguments.interpret).items():
        if time.monotonic() - started > 60 * arguments.minutes:
            report["steps"][name] = {"left_out": f"the {arguments.minutes:g} minutes were over"}
        else:
            try:
                report["steps"][name] = step(size)
            except (RuntimeError, ImportError, OSError) as error:  # the next steps may still work
                report["steps"][name] = {"failed": f"{type(error).__name__}: {error}".splitlines()[0]}
        show(name, report["steps"][name])
        if arguments.json:
            arguments.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
