"""The configuration of a training run, read from YAML and checked before the run starts."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from fastlane_rag.errors import ModelError
from fastlane_rag.lengths import kind

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

__all__ = [
    "DataConfig",
    "LossWeights",
    "RoutingConfig",
    "Source",
    "Strict",
    "TrainConfig",
    "checked",
    "load_config",
    "read_yaml",
]


_Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_Scale = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Strict(BaseModel):
    """Settings that refuse unknown names."""

    model_config = ConfigDict(extra="forbid", frozen=True)


_Settings = TypeVar("_Settings", bound=Strict)


class Source(Strict):
    """One training set: a BEIR folder with a qrels split, or a JSONL file of {query, pos} pairs.

    Pairs may have their own negatives, {query, pos, neg: [...]}. With them they may have the scores that an outside
    teacher, such as a cross-encoder, gave the positive and then each negative: {..., scores: [...]}.
    """

    path: Path
    split: str = "train"
    limit: Annotated[int, Field(ge=1)] | None = None
    """At most this many pairs, drawn with the run's seed; None for all."""


class DataConfig(Strict):
    """Where pairs come from, and how hard negatives are mined."""

    train: dict[str, Source]
    dev: dict[str, Source] = {}
    """BEIR folders to evaluate on during training; ``limit`` bounds their queries."""
    dev_corpus: Annotated[int, Field(ge=100)] = 1000
    """Passages in each dev corpus: the judged ones, then others up to this number."""
    negatives: Annotated[int, Field(ge=0, le=16)] = 1
    """Hard negatives per query."""
    negative_depth: tuple[int, int] = (1, 20)
    """Negatives are drawn from these ranks of BM25's list (and of the model's)."""
    mine_with_model: bool = False
    """Also draw negatives from the starting model's own ranking (encodes the corpora first)."""


class LossWeights(Strict):
    """Weight of each term of the loss; 0 leaves a term out."""

    full: _Weight = 1.0
    """In-batch contrastive on full SumMaxSim."""
    anchor: _Weight = 0.0
    """KL of the full ranking from that of the starting model, so that abilities it had are kept."""
    anchor_tokens: _Weight = 0.0
    """1 - cosine of each token embedding with the starting model's. Query tokens count by their probability of not
    being routed: routed tokens may change into a view of the whole query, the others should keep their meaning."""
    routed: _Weight = 1.0
    """In-batch contrastive on the routed score."""
    expected: _Weight = 1.0
    """In-batch contrastive of routing one token, averaged exactly over the router's distribution; with
    ``routers_only`` the target is the full ranking instead of the label."""
    distill: _Weight = 1.0
    """KL of the routed ranking from the full one."""
    teacher: _Weight = 1.0
    """KL of the full ranking of a query's own passages from that of an outside teacher, for pairs that have its scores.
    The scores are used as logits."""
    document: _Weight = 0.5
    """KL of the ranking over routed documents from the full one."""
    document_alignment: _Weight = 0.1
    """Cross-entropy of the document router against the tokens that match the positive's query best."""
    collapse: _Weight = 0.02
    """Penalty for routing the same positions whatever the query."""


class RoutingConfig(Strict):
    """Settings of routing in training."""

    k: dict[int, float] = {1: 0.5, 2: 0.25, 4: 0.25}
    """Numbers of tokens to route per query, with the probability of each number; one is drawn per batch."""
    document_share: tuple[float, float] = (0.15, 0.75)
    """Share of a document's tokens to keep, drawn uniformly between the two."""
    temperature: tuple[float, float] = (2.0, 0.3)
    """Gumbel-Softmax temperature at the first and at the last step, annealed geometrically."""
    route_special_tokens: bool = False
    context: Annotated[int, Field(ge=0)] = 0
    """Rank of the context to add to a query router without one (:class:`fastlane_rag.model.router.QueryContext`);
    0 adds none."""


class TrainConfig(Strict):
    """A training run. Comments of an earlier model's (examples/training/before.yaml) say how values were chosen."""

    model: str | None = None
    """The model to start from: a directory or hub id; None for the bundled default."""
    output: Path
    dim: Annotated[int, Field(ge=8)] | None = 128
    """Width of a new projection, initialised with the principal axes of the token states; None adds no projection."""
    seed: int = 17
    data: DataConfig
    loss: LossWeights = LossWeights()
    routing: RoutingConfig = RoutingConfig()
    scale: _Scale = 20.0
    """Multiplies mean MaxSim (cosines) before a softmax: 1 / temperature of the contrastive terms."""
    routers_only: bool = False
    """Freeze the encoder and train only the routers; indexes made with the model stay valid."""
    lora_rank: Annotated[int, Field(ge=0)] = 0
    """Rank of the adapters to train, which are merged at the end; 0 trains the encoder itself."""
    freeze_layers: Annotated[int, Field(ge=0)] = 0
    """Number of frozen transformer layers, from the bottom."""
    freeze_embeddings: bool = True
    batch_size: Annotated[int, Field(ge=2)] = 32
    mini_batch_size: Annotated[int, Field(ge=1)] | None = None
    """Texts to embed at once with cached gradients, so that memory does not grow with the batch; None caches none."""
    gradient_accumulation: Annotated[int, Field(ge=1)] = 1
    max_steps: Annotated[int, Field(ge=1)] | None = None
    epochs: _Scale = 1.0
    learning_rate: _Weight = 5e-5
    head_learning_rate: _Weight = 1e-3
    """Learning rate of the routers, which start untrained."""
    projection_learning_rate: _Weight | None = None
    """Learning rate of the projection, which starts fitted; None for ``learning_rate``."""
    warmup_share: Annotated[float, Field(ge=0, lt=1)] = 0.06
    weight_decay: _Weight = 0.01
    query_length: Annotated[int, Field(ge=4)] = 48
    document_length: Annotated[int, Field(ge=8)] = 180
    """Documents are cut to this in training; the saved model has ``saved_document_length``."""
    saved_document_length: Annotated[int, Field(ge=8)] = 512
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    evaluate_every: Annotated[int, Field(ge=1)] = 200
    save_every: Annotated[int, Field(ge=1)] = 100
    patience: Annotated[int, Field(ge=1)] | None = None
    """Stop after this many evaluations without improvement; None never stops early."""
    threads: Annotated[int, Field(ge=1)] | None = None
    tracker: Literal["csv", "tensorboard", "both"] = "csv"

    @model_validator(mode="after")
    def _check(self) -> TrainConfig:
        low, high = self.routing.document_share
        if not 0 < low <= high <= 1:
            raise ValueError(f"routing.document_share must be 0 < low <= high <= 1, got {low}, {high}")
        if not all(0 < one < math.inf for one in self.routing.temperature):
            raise ValueError(f"routing.temperature must be above 0, got {self.routing.temperature}")
        shares = self.routing.k.values()
        if not shares or min(self.routing.k) < 1 or not all(0 <= one < math.inf for one in shares) or not sum(shares):
            raise ValueError(f"routing.k maps counts of at least 1 to probabilities, got {self.routing.k}")
        return self


def load_config(path: str | Path) -> TrainConfig:
    """Read a YAML file; relative paths in it are relative to the file.

    Raises:
        ModelError: the file cannot be read, or a setting is unknown or out of range; the message names it.
    """
    path = Path(path)
    return _resolve(checked(TrainConfig, read_yaml(path), path), path.resolve().parent)


def read_yaml(path: Path) -> Any:
    """What a YAML file holds.

    Raises:
        ModelError: the file cannot be read.
    """
    import yaml

    try:
        return _content(path.read_bytes())
    except (OSError, yaml.YAMLError) as error:
        raise ModelError(f"cannot read the training config {path}: {' '.join(str(error).split())}") from error


def checked(form: type[_Settings], content: Any, path: Path) -> _Settings:
    """The content of a file as settings.

    Raises:
        ModelError: a setting is unknown or out of range; the message names the file and the setting.
    """
    try:
        return form.model_validate(content)
    except ValidationError as error:
        raise ModelError(f"{path}: {'; '.join(map(_problem, error.errors()))}") from error


def _content(text: bytes) -> Any:
    """What a YAML file says.

    Raises:
        yaml.YAMLError: it is no YAML, or has a key twice, of which YAML's own reader drops the first.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        pass

    def mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        if twice := [key for i, key in enumerate(keys) if key in keys[:i]]:
            raise yaml.constructor.ConstructorError(None, None, f"has the key {twice[0]!r} twice", node.start_mark)
        return loader.construct_mapping(node, deep=True)

    Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, mapping)
    return yaml.load(text, Loader)  # noqa: S506 -- of the safe loader


def _problem(found: ErrorDetails) -> str:
    """A setting that is wrong, with its value."""
    name = ".".join(map(str, found["loc"])) or "the file"
    value = "" if found["type"] == "missing" or isinstance(found["input"], dict) else f", not {kind(found['input'])}"
    return f"{name}: {found['msg']}{value}"


def _resolve(config: TrainConfig, base: Path) -> TrainConfig:
    def rebase(sources: dict[str, Source]) -> dict[str, Source]:
        return {k: v.model_copy(update={"path": base / v.path}) for k, v in sources.items()}

    data = config.data.model_copy(update={"train": rebase(config.data.train), "dev": rebase(config.data.dev)})
    return config.model_copy(update={"data": data, "output": base / config.output})
