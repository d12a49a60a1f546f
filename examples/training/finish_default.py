"""Pack a trained model as the bundled default, with weights between the starting model's and its own.

    python examples/training/finish_default.py START TRAINED SHARE OUT

The encoder and the projection become (1 - SHARE) * START + SHARE * TRAINED (weight averaging after fine-tuning,
arXiv 2109.01903); the routers are the trained ones. SHARE 1 packs the trained model as it is. Choose it on dev splits.
OUT gets the packed model (OUT/model), complete or not at all.
"""

import shutil
import sys
import tempfile
from pathlib import Path

from fastlane_rag import FastLaneModel
from fastlane_rag.model.default import pack_model
from fastlane_rag.model.router import TokenRouter


def main(start: Path, trained: Path, share: float, out: Path) -> None:
    """Average and pack."""
    if not 0 <= share <= 1:
        sys.exit(f"SHARE must be from 0 to 1, got {share}")
    old = FastLaneModel.from_pretrained(start, dtype="float32", device="cpu").encoder.state_dict()
    encoder = FastLaneModel.from_pretrained(trained, dtype="float32", device="cpu").encoder
    routers = tuple(f"{name}." for name, module in encoder.named_children() if isinstance(module, TokenRouter))
    mixed = {
        key: value if key.startswith(routers) else old[key].lerp(value, share)
        for key, value in encoder.state_dict().items()
        if value.is_floating_point()
    }
    encoder.load_state_dict(mixed, strict=False)
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out) as work:
        encoder.save(str(Path(work) / "model"))
        pack_model(Path(work) / "model", Path(work) / "packed")
        shutil.rmtree(out / "model", ignore_errors=True)
        (Path(work) / "packed").rename(out / "model")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]), Path(sys.argv[4]))
