"""Small checkpoints in every format people have, built on the spot: no hub can be reached."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from sentence_transformers import MultiVectorEncoder, SentenceTransformer
from sentence_transformers.base.modules import Dense, Normalize, Transformer
from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask
from sentence_transformers.sentence_transformer.modules import Pooling
from transformers import BertConfig, BertModel, BertTokenizerFast

WORDS = (
    "the of is a what how why capital france paris city world largest river in on python import error , . ? ##s ##ing"
)
WIDTH, PROJECTED = 32, 16


def plain_encoder(folder: Path) -> Path:
    """A BERT as transformers saves it: no pooling, no projection."""
    folder.mkdir(parents=True)
    vocabulary = ["[PAD]", "[unused0]", "[unused1]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS.split()]
    (folder / "vocab.txt").write_text("\n".join(vocabulary), encoding="utf-8")
    BertTokenizerFast(vocab=str(folder / "vocab.txt"), model_max_length=64).save_pretrained(folder)
    torch.manual_seed(5)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    BertModel(config).save_pretrained(folder)
    return folder


def sentence_transformer(folder: Path) -> Path:
    """A single-vector model: transformer and mean pooling."""
    transformer = Transformer(str(plain_encoder(folder.with_name(f"{folder.name}-bert"))))
    SentenceTransformer(modules=[transformer, Pooling(WIDTH)], device="cpu").save(str(folder))
    return folder


def multi_vector(folder: Path) -> Path:
    """A late-interaction model of sentence-transformers, with a projection and a punctuation skiplist."""
    transformer = Transformer(str(plain_encoder(folder.with_name(f"{folder.name}-bert"))))
    torch.manual_seed(6)
    dense = Dense(WIDTH, PROJECTED, bias=False, activation_function=None, module_input_name="token_embeddings")
    modules = [transformer, dense, MultiVectorMask([",", ".", "?"]), Normalize(module_input_name="token_embeddings")]
    MultiVectorEncoder(modules=modules, device="cpu").save(str(folder))
    return folder


def pylate(folder: Path) -> Path:
    """A PyLate checkpoint: its Dense class by name, prefixes and lengths in the top-level config."""
    multi_vector(folder)
    listing = folder / "modules.json"
    modules = [m for m in json.loads(listing.read_text()) if m["idx"] in (0, 1)]
    modules[1]["type"] = "pylate.models.Dense.Dense"
    listing.write_text(json.dumps(modules))
    dense = folder / modules[1]["path"] / "config.json"
    kept = {k: v for k, v in json.loads(dense.read_text()).items() if not k.startswith("module_")}
    dense.write_text(json.dumps(kept))
    config = {
        "__version__": {"pylate": "1.3.0"},
        "model_type": "ColBERT",
        "query_prefix": "[unused0]",
        "document_prefix": "[unused1]",
        "query_length": 16,
        "document_length": 48,
        "attend_to_expansion_tokens": False,
        "skiplist_words": [",", "."],
    }
    (folder / "config_sentence_transformers.json").write_text(json.dumps(config))
    return folder


def stanford(folder: Path) -> Path:
    """A Stanford ColBERT checkpoint: projection inside the weights, settings in artifact.metadata."""
    plain_encoder(folder)
    weights = {f"bert.{k}": v for k, v in BertModel.from_pretrained(folder).state_dict().items()}
    torch.manual_seed(7)
    weights["linear.weight"] = torch.randn(PROJECTED, WIDTH)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": ["HF_ColBERT"]}))
    metadata = {"query_maxlen": 12, "doc_maxlen": 40, "mask_punctuation": True, "attend_to_mask_tokens": False}
    (folder / "artifact.metadata").write_text(json.dumps(metadata))
    return folder


FORMATS: dict[str, Callable[[Path], Path]] = {
    "plain-encoder": plain_encoder,
    "sentence-transformer": sentence_transformer,
    "multi-vector": multi_vector,
    "pylate": pylate,
    "stanford": stanford,
}


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A checkpoint directory by format."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("checkpoints")
    return {name: build(root / name) for name, build in FORMATS.items()}
