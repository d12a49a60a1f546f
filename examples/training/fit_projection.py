"""Where distil.py starts: a projection that keeps the ranking of all dimensions, and a transformer between two.

    python examples/training/fit_projection.py BASE SAMPLE OUT [--toward DIR --share 0.5]

BASE and SAMPLE are as for broad.py, which makes SAMPLE; OUT gets start.pt and the log (OUT/log.csv: step, name, value).

- [CLS] and [SEP] are scored, prose punctuation is not. On dev passages untrained at 384 dimensions that has the nDCG@10
  of scoring all (.898), for fewer tokens.
- The projection starts as the principal axes of the token states and learns to keep the ranking of SumMaxSim over all
  384 dimensions, in all of its dimensions and in its first 128 alone; see fastlane_rag.training.projection.
- DIR holds a transformer trained from BASE; its lowest two layers, which that training froze, stay those of BASE. The
  projection is fitted to BASE's states.
"""

import argparse
import csv
from pathlib import Path

import torch
from broad import SEED, read, read_states
from distil import PROSE, WIDTHS
from fastlane_rag.training.projection import Ranking, States, learn_projection, principal_axes
from halves import between
from torch.nn import functional as F
from transformers import AutoModel, AutoTokenizer

DOCUMENT_TOKENS, UNTRAINED = 112, 2


def shortened(states: States) -> States:
    """The first tokens of every text."""
    spans = zip(states.offsets[:-1].tolist(), states.offsets[1:].tolist(), strict=True)
    kept = torch.cat([torch.arange(a, min(b, a + DOCUMENT_TOKENS)) for a, b in spans])
    lengths = states.offsets.diff().clamp(max=DOCUMENT_TOKENS)
    return States(states.rows[kept], states.ids[kept], F.pad(lengths.cumsum(0), (1, 0)))


def main(options: argparse.Namespace) -> None:
    """Encode, learn, save."""
    torch.manual_seed(SEED)
    out = options.out
    out.mkdir(parents=True, exist_ok=True)
    sample = read(options.sample)
    prose = AutoTokenizer.from_pretrained(options.base).convert_tokens_to_ids(PROSE)
    states = {domain.name: read_states(options.sample, domain.name) for domain in sample}
    scored = {name: (q.without(prose), d.without(prose)) for name, (q, d) in states.items()}
    rankings = [Ranking(scored[d.name][0], shortened(scored[d.name][1]), d.gold, d.labelled, d.near) for d in sample]
    axes = principal_axes([documents for _, documents in scored.values()], WIDTHS[0])
    with (out / "log.csv").open("w", newline="", encoding="utf-8") as file:
        log = csv.writer(file)
        log.writerow(["step", "name", "value"])

        def told(step: int, terms: dict[str, float]) -> None:
            log.writerows([step, name, round(value, 5)] for name, value in terms.items())
            print(step, terms, flush=True)

        projection = learn_projection(
            rankings, axes, steps=options.steps, batch_size=20, prefixes=WIDTHS[1:], seed=SEED, told=told
        )
    if options.toward:
        model = between(options.base, options.toward, options.share, UNTRAINED)
    else:
        model = AutoModel.from_pretrained(options.base, dtype=torch.float32)
    torch.save({"model": model.state_dict(), "proj": projection}, out / "start.pt")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("base", "sample", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--toward", type=Path, help="a trained transformer")
    parser.add_argument("--share", type=float, default=0.5, help="of the way to it")
    main(parser.parse_args())
