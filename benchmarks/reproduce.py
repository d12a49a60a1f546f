"""Measure every figure that the README, docs/figures.md and the model card quote, and draw the plots.

python benchmarks/reproduce.py                             # every part, into benchmarks/results/
python benchmarks/reproduce.py quality --limit 100         # one part, at most 100 queries a dataset
python benchmarks/reproduce.py sweep --datasets scifact

A part has steps, and the result of each step is written at once. A second run continues where the first stopped; steps
with results are skipped (--again measures them anew). Results of another model or limit are replaced. Corpora are
encoded once into --cache, which `fastlane eval` shares. `python benchmarks/render_readme.py` puts the results into
README.md and the pages in docs/.
"""

import argparse
import importlib
import os
import sys
from pathlib import Path

PARTS = ("quality", "paper", "sweep", "routing", "robustness", "memory")
ROOT = Path(__file__).parents[1]


def main(arguments: list[str] | None = None) -> None:
    """Run the chosen parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"some of {', '.join(PARTS)}; all when left out")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder of datasets")
    parser.add_argument("--cache", type=Path, help="where encoded corpora are kept; default: that of fastlane eval")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results", help="where results go")
    parser.add_argument("--datasets", help="names with commas, instead of those of each part")
    parser.add_argument("--limit", type=int, help="at most this many queries a dataset")
    parser.add_argument("--model", help="model folder or name; the bundled model when left out")
    parser.add_argument("--threads", type=int, default=1, help="of torch and of the scoring core")
    parser.add_argument("--again", action="store_true", help="measure steps that are in the results already")
    asked = parser.parse_args(arguments)
    for part in asked.parts:
        if part not in PARTS:
            parser.error(f"there is no part {part!r}; choose from {', '.join(PARTS)}")
    if not asked.data.is_dir():
        parser.error(f"{asked.data} is not a folder; name the one that holds the datasets with --data")
    # Set before torch is imported, which reads it only then.
    os.environ["OMP_NUM_THREADS"] = str(asked.threads)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    sys.path[:0] = [str(Path(__file__).parent)]

    import torch
    from reproduction.run import Run

    from fastlane_rag.model.default import cache_dir

    torch.set_num_threads(asked.threads)
    cache = asked.cache or cache_dir() / "evaluation"
    run = Run(asked.data, cache, asked.out, asked.limit, asked.again, asked.model, asked.datasets)
    for part in asked.parts or PARTS:
        module = importlib.import_module(f"reproduction.{part}")
        chosen = (tuple(asked.datasets.split(",")),) if asked.datasets else ()
        module.run(run, *chosen)


if __name__ == "__main__":
    main()
