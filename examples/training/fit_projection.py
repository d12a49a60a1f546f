"""Make a model to train from: all-MiniLM-L6-v2 with a projection that learns to keep the ranking of all dimensions.

    python examples/training/fit_projection.py BASE DATA OUT [--dim 128]

BASE is a directory with sentence-transformers/all-MiniLM-L6-v2 (model.safetensors sha256 53aa5117...d9db), DATA the
folder of BEIR datasets, OUT gets the model (OUT/model), the transformer's states of the texts (OUT/cache; delete it
when DATA changes) and the log (OUT/log.csv: step, name, value). Only train splits are read; see broad.py.

- All tokens are scored, [CLS], [SEP] and punctuation as well.
- The projection starts as the principal axes of the token states and learns to keep the ranking of SumMaxSim over all
  384 dimensions; see fastlane_rag.training.projection.
- The routers' prior is the tokens' inverse document frequency over the same passages.
"""

import argparse
import csv
from functools import cache, partial
from pathlib import Path

import torch
from broad import Encoder, domains, encoded, mine
from fastlane_rag import FastLaneModel
from fastlane_rag.training.prepare import add_projection, corpus_idf
from fastlane_rag.training.projection import ProjectionLoss, Ranking, learn_projection, principal_axes
from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask

DOCUMENT_LENGTH, SEED = 512, 17


def main(
    base: Path, data: Path, out: Path, dim: int = 128, steps: int = 400, weights: ProjectionLoss | None = None
) -> None:
    """Encode, train, save."""
    torch.manual_seed(SEED)
    sample = domains(data)
    states = encoded(cache(partial(Encoder, base)), sample, out / "cache")
    mine(sample, states, out / "cache")
    rankings = [Ranking(*states[d.name], d.gold, d.labelled, d.near) for d in sample]
    axes = principal_axes([r.documents for r in rankings], dim)
    with (out / "log.csv").open("w", newline="", encoding="utf-8") as file:
        log = csv.writer(file)
        log.writerow(["step", "name", "value"])

        def told(step: int, terms: dict[str, float]) -> None:
            log.writerows([step, name, round(value, 5)] for name, value in terms.items())
            print(step, terms, flush=True)

        projection = learn_projection(rankings, axes, weights=weights, steps=steps, seed=SEED, told=told)
    encoder = FastLaneModel.from_pretrained(base, dtype="float32", device="cpu").encoder
    mask = next(m for m in encoder if isinstance(m, MultiVectorMask))
    mask.skiplist_words = []
    mask.resolve_with_tokenizer(encoder.tokenizer)
    add_projection(encoder, projection)
    idf = corpus_idf(encoder, [text for d in sample for text in d.texts])
    encoder.query_router.set_prior(idf)
    encoder.document_router.set_prior(idf)
    encoder.max_seq_length = DOCUMENT_LENGTH
    encoder.save(str(out / "model"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--steps", type=int, default=400)
    for name, value in (("tokens", 1.0), ("answer", 0.3), ("scale", 40.0)):
        parser.add_argument(f"--{name}", type=float, default=value, help="see ProjectionLoss")
    asked = parser.parse_args()
    loss = ProjectionLoss(tokens=asked.tokens, answer=asked.answer, scale=asked.scale)
    main(asked.base, asked.data, asked.out, asked.dim, asked.steps, loss)
