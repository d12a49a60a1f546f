"""One engine in one process: builds an index, or opens it and answers every query with every setting.

python -m side_by_side.worker build MODULE CORPUS INDEX THREADS REPLY
python -m side_by_side.worker search MODULE CORPUS INDEX THREADS REPLY

MODULE names the engine (see `engine.load`), CORPUS an exported corpus, INDEX the engine's own folder. The reply is JSON
in the file REPLY, because engines may print. It runs one query per call, after a warm-up of each setting.
"""

import json
import os
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

WARM_UP = 10


def limit_threads(threads: int) -> None:
    """Set the number of threads of every library, and limit the process to as many processors."""
    for name in ("OMP", "MKL", "OPENBLAS", "NUMEXPR", "RAYON", "NUMBA"):
        os.environ[f"{name}_NUM_THREADS"] = str(threads)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


def memory() -> dict[str, int]:
    """Bytes of this process: the peak, the current bytes, and those that no file backs; zeros if unknown."""
    status = Path("/proc/self/status")
    found: dict[str, int] = {}
    for line in status.read_text().splitlines() if status.is_file() else []:
        name, _, value = line.partition(":")
        if name in ("VmHWM", "VmRSS", "RssAnon"):
            found[name] = int(value.split()[0]) * 1024
    return {key: found.get(name, 0) for key, name in (("peak", "VmHWM"), ("now", "VmRSS"), ("anonymous", "RssAnon"))}


def forget_peak() -> None:
    """Reset the peak of `memory`, where the system can."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def folder_bytes(folder: Path) -> int:
    """Bytes of all files under a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def versions(packages: Any) -> dict[str, str]:
    """Installed versions of the packages, and of torch and numpy."""
    found = {}
    for name in sorted({*packages, "numpy", "torch"}):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def build(engine: Any, corpus: Any, folder: Path) -> dict[str, Any]:
    """Build an index, and report time, memory and size."""
    before = memory()["now"]
    forget_peak()
    start, processor = time.perf_counter(), time.process_time()
    engine.build(corpus, folder)
    return {
        "build_seconds": time.perf_counter() - start,
        "build_processor_seconds": time.process_time() - processor,
        "bytes": engine.index_bytes(folder),
        "memory": {**memory(), "before": before},
        "versions": versions(engine.packages),
    }


def search(engine: Any, corpus: Any, folder: Path, threads: int) -> dict[str, Any]:
    """Open the index, run all queries with all settings, and report answers, times and memory."""
    before = memory()["now"]
    forget_peak()
    start = time.perf_counter()
    engine.open(corpus, folder, threads)
    opening = time.perf_counter() - start
    opened = memory()["now"]
    queries = [engine.prepare(query) for query in corpus.queries()]
    start = time.perf_counter()
    settings = engine.settings()
    engine.search(queries[0], settings[0])
    first = time.perf_counter() - start
    results = []
    for knobs in settings:
        for query in queries[:WARM_UP]:
            engine.search(query, knobs)
        seconds, answers = [], []
        processor = time.process_time()
        for query in queries:
            start = time.perf_counter()
            answer = engine.search(query, knobs)
            seconds.append(time.perf_counter() - start)
            answers.append(engine.documents(answer))
        used = (time.process_time() - processor) / len(queries)
        results.append({"knobs": knobs, "seconds": seconds, "processor_seconds": used, "answers": answers})
    return {
        "open_seconds": opening,
        "first_query_seconds": first,
        "memory": {**memory(), "before": before, "opened": opened},
        "versions": versions(engine.packages),
        "results": results,
    }


def main() -> None:
    """Run the command line."""
    task, module, corpus_folder, folder, threads, reply = sys.argv[1:]
    limit_threads(int(threads))
    from side_by_side.engine import load
    from side_by_side.grown import open_corpus

    engine, corpus = load(module), open_corpus(Path(corpus_folder))
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(int(threads))
    work = {"build": build, "search": lambda *arguments: search(*arguments, int(threads))}[task]
    load_before = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    report = {**work(engine, corpus, Path(folder)), "threads": int(threads), "load_average_before": load_before}
    draft = Path(reply).with_suffix(".draft")
    draft.write_text(json.dumps(report))
    draft.replace(reply)


if __name__ == "__main__":
    main()
