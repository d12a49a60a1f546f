"""A model directory from what distil.py learned.

    python examples/training/assemble.py BASE SAMPLE CHECKPOINT OUT [--routers DIR] [--width 192]

BASE is a directory with sentence-transformers/all-MiniLM-L6-v2, SAMPLE the folder that broad.py made, CHECKPOINT a file
of distil.py, OUT the model directory to write. The transformer and the projection are those of CHECKPOINT, of the
projection the first WIDTH dimensions; with --start FILE and --share they are (1 - share) * FILE + share * CHECKPOINT
(weight averaging after fine-tuning, arXiv 2109.01903). The routers are those of the model in DIR (the bundled one
without), the query router without its context and its weights of tokens; their prior is the inverse document frequency
over the passages of broad.py.
"""

import argparse
from pathlib import Path

import torch
from broad import read
from distil import PROSE
from fastlane_rag import FastLaneModel
from fastlane_rag.training.prepare import add_projection, corpus_idf
from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask

DOCUMENT_LENGTH = 512


def main(options: argparse.Namespace) -> None:
    """Assemble and save."""
    found = torch.load(options.checkpoint)
    weights = found["model"] | {"proj": found["proj"]}
    if options.start:
        start = torch.load(options.start)
        for name, value in (start["model"] | {"proj": start["proj"]}).items():
            if value.is_floating_point():
                weights[name] = value.lerp(weights[name], options.share)
    projection = weights.pop("proj")[: options.width].contiguous()
    encoder = FastLaneModel.from_pretrained(options.base, dtype="float32", device="cpu").encoder
    encoder.backbone.load_state_dict(weights)
    mask = next(m for m in encoder if isinstance(m, MultiVectorMask))
    mask.skiplist_words, mask.skiplist_tasks = PROSE, ["query", "document"]
    mask.resolve_with_tokenizer(encoder.tokenizer)
    add_projection(encoder, projection)
    earlier = FastLaneModel.from_pretrained(options.routers, dtype="float32", device="cpu").encoder
    idf = corpus_idf(encoder, [text for domain in read(options.sample) for text in domain.texts])
    for router, old in (
        (encoder.query_router, earlier.query_router),
        (encoder.document_router, earlier.document_router),
    ):
        parts = ("context.", "token_weights.")
        known = {name: value for name, value in old.state_dict().items() if not name.startswith(parts)}
        router.load_state_dict(known)
        router.set_prior(idf)
    encoder.max_seq_length = DOCUMENT_LENGTH
    encoder.save(str(options.out))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("base", "sample", "checkpoint", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--width", type=int, default=192)
    parser.add_argument("--start", type=Path, help="of a run, for weights between it and the checkpoint")
    parser.add_argument("--share", type=float, default=1.0, help="of the way from the start to the checkpoint")
    parser.add_argument("--routers", type=Path, help="a model directory; the bundled model without")
    main(parser.parse_args())
