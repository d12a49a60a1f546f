"""Training an encoder and its routers together, on sentence-transformers' MultiVectorEncoderTrainer."""

from __future__ import annotations

import copy
import json
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import MultiVectorEncoderTrainer, MultiVectorEncoderTrainingArguments
from sentence_transformers.base.modules import Dense, Normalize
from transformers import EarlyStoppingCallback
from transformers.trainer_utils import get_last_checkpoint

from fastlane_rag.errors import ModelError
from fastlane_rag.model import FastLaneModel, RoutedEncoder
from fastlane_rag.model.fastlane import native_bfloat16
from fastlane_rag.model.router import TokenRouter
from fastlane_rag.training.config import TrainConfig
from fastlane_rag.training.data import Pair, file_hashes, load_dev, load_pairs
from fastlane_rag.training.frozen import remembered_states
from fastlane_rag.training.loss import CachedRoutedLoss, RoutedLoss, RoutedTerms
from fastlane_rag.training.monitor import CsvLog, DevEvaluator, RoutingMonitor
from fastlane_rag.training.prepare import add_context, add_projection, corpus_idf, fitted_axes, freeze

__all__ = ["train", "train_from"]

logger = logging.getLogger("fastlane_rag.training")


def train(config: TrainConfig, *, resume: bool = True) -> FastLaneModel:
    """Run a training config to its end and save the model in ``config.output / "model"``.

    Args:
        config: the run.
        resume: continue from the last checkpoint in ``config.output``, if there is one; the result is the same as
            without interruption. False starts anew, and fails if there are checkpoints.

    Returns:
        The trained model: the best on the dev sets if there are any, else the last.

    Raises:
        ModelError: data or model cannot be used; or there are checkpoints of another config, other data or another
            starting model; or there are any checkpoints and ``resume`` is False.
    """
    torch.manual_seed(config.seed)  # before the model opens, because missing routers are initialised at random
    return train_from(
        FastLaneModel.from_pretrained(config.model, dtype="float32", backend="torch"), config, resume=resume
    )


def train_from(start: FastLaneModel, config: TrainConfig, *, resume: bool = True) -> FastLaneModel:
    """As :func:`train`, but train this model in place; ``config.model`` is ignored."""
    if config.threads:
        torch.set_num_threads(config.threads)
    config.output.mkdir(parents=True, exist_ok=True)
    folder = config.output / "checkpoints"
    checkpoint: str | None = None
    if folder.is_dir():
        checkpoint = get_last_checkpoint(str(folder))  # type: ignore[no-untyped-call]
    if checkpoint and not resume:
        raise ModelError(f"{config.output} holds checkpoints of an earlier run; resume it or choose another output")
    torch.manual_seed(config.seed)
    pairs = _load_all_pairs(config, start)
    record = _record(config, pairs, start)
    if checkpoint:
        _check_same_run(config.output / "run.json", record)
    encoder = _prepare(start.encoder, config, pairs)
    terms = RoutedTerms(config.loss, config.routing, config.scale, config.seed, labelled=not config.routers_only)
    anchor = copy.deepcopy(encoder).requires_grad_(False) if config.loss.anchor or config.loss.anchor_tokens else None
    if anchor is not None and native_bfloat16(encoder.device):
        anchor = anchor.to(torch.bfloat16)
    loss = (
        CachedRoutedLoss(encoder, terms, config.mini_batch_size, anchor)
        if config.mini_batch_size
        else RoutedLoss(encoder, terms, anchor)
    )
    sets = [load_dev(n, s, config.data.dev_corpus, config.seed) for n, s in config.data.dev.items()]
    (config.output / "run.json").write_text(json.dumps(record, indent=2), encoding="utf-8")
    trainer = MultiVectorEncoderTrainer(
        model=encoder,
        args=_arguments(config, encoder, bool(sets)),
        train_dataset=_datasets(pairs),
        loss=loss,
        evaluator=DevEvaluator(sets) if sets else None,
        callbacks=_callbacks(config, terms, bool(sets)),
    )
    with _frozen(encoder) if config.routers_only else nullcontext():
        trainer.train(resume_from_checkpoint=checkpoint)
    # Undo the wrapper for mixed precision, so that the returned model computes as the saved one.
    trainer.accelerator.unwrap_model(encoder, keep_fp32_wrapper=False)
    if config.lora_rank:
        _merge_adapters(encoder)
    _finish(encoder, config)
    trained = FastLaneModel(encoder, name=str(config.output / "model"))
    trained.save(config.output / "model")
    return trained


def _load_all_pairs(config: TrainConfig, model: FastLaneModel) -> dict[str, list[Pair]]:
    miner = model if config.data.mine_with_model else None
    pairs = {}
    for name, source in config.data.train.items():
        pairs[name] = load_pairs(name, source, config.data, config.seed, miner)
        logger.info("%s: %d pairs", name, len(pairs[name]))
    return pairs


def _prepare(encoder: RoutedEncoder, config: TrainConfig, pairs: dict[str, list[Pair]]) -> RoutedEncoder:
    sample = [p.positive for group in pairs.values() for p in group[: 2000 // len(pairs) + 1]]
    if config.dim and not any(isinstance(m, Dense) for m in encoder):
        add_projection(encoder, fitted_axes(encoder, config.dim, sample))
    if config.routing.context:
        add_context(encoder, config.routing.context)
    idf = corpus_idf(encoder, [p.positive for group in pairs.values() for p in group])
    for router in (encoder.query_router, encoder.document_router):
        router.set_prior(idf)
        router.route_special_tokens = config.routing.route_special_tokens
    if config.routers_only:
        encoder.requires_grad_(False)
        for router in (encoder.query_router, encoder.document_router):
            router.requires_grad_(True)
        return encoder
    freeze(encoder, layers=config.freeze_layers, embeddings=config.freeze_embeddings)
    if config.lora_rank:
        _add_adapters(encoder, config.lora_rank)
    return encoder


def _arguments(config: TrainConfig, encoder: RoutedEncoder, judged: bool) -> MultiVectorEncoderTrainingArguments:
    routers = [name for name, m in encoder.named_children() if isinstance(m, TokenRouter)]
    projections = [name for name, m in encoder.named_children() if isinstance(m, Dense)]
    rates = {_children(routers): config.head_learning_rate}
    if projections:
        rates[_children(projections)] = config.projection_learning_rate or config.learning_rate
    precision = config.precision
    if precision == "auto":
        precision = "bfloat16" if native_bfloat16(encoder.device) else "float32"
    return MultiVectorEncoderTrainingArguments(
        output_dir=str(config.output / "checkpoints"),
        seed=config.seed,
        data_seed=config.seed,
        per_device_train_batch_size=config.batch_size,
        gradient_accumulation_steps=config.gradient_accumulation,
        max_steps=config.max_steps or -1,
        num_train_epochs=config.epochs,
        learning_rate=config.learning_rate,
        learning_rate_mapping=rates,
        warmup_steps=config.warmup_share,
        weight_decay=config.weight_decay,
        lr_scheduler_type="cosine",
        max_length={"query": config.query_length, "document": config.document_length},
        bf16=precision == "bfloat16",
        fp16=precision == "float16",
        use_cpu=encoder.device.type == "cpu",
        batch_sampler="no_duplicates",
        multi_dataset_batch_sampler="proportional",
        eval_strategy="steps" if judged else "no",
        eval_steps=config.evaluate_every,
        eval_on_start=judged,  # for comparison with the untrained model
        save_strategy="steps",
        save_steps=config.evaluate_every if judged else config.save_every,
        save_total_limit=2,
        load_best_model_at_end=judged,
        metric_for_best_model="dev_score" if judged else None,
        greater_is_better=True if judged else None,
        logging_steps=10,
        report_to=["tensorboard"] if config.tracker in ("tensorboard", "both") else [],
        dataloader_pin_memory=encoder.device.type == "cuda",
        disable_tqdm=False,
    )


def _children(names: list[str]) -> str:
    """Pattern of the parameters of some modules; anchored, because "2." would match the transformer's layer 2 too."""
    return rf"^(model\.)?({'|'.join(map(re.escape, names))})\."


def _callbacks(config: TrainConfig, terms: RoutedTerms, judged: bool) -> list[Any]:
    callbacks: list[Any] = [RoutingMonitor(terms)]
    if config.tracker in ("csv", "both"):
        callbacks.append(CsvLog(config.output / "log.csv"))
    if config.patience and judged:
        callbacks.append(EarlyStoppingCallback(early_stopping_patience=config.patience))
    return callbacks


def _datasets(pairs: dict[str, list[Pair]]) -> Any:
    from datasets import Dataset, DatasetDict

    def table(group: list[Pair]) -> Dataset:
        columns: dict[str, list[Any]] = {"query": [p.query for p in group], "positive": [p.positive for p in group]}
        for i in range(len(group[0].negatives)):
            columns[f"negative_{i + 1}"] = [p.negatives[i] for p in group]
        if group[0].scores is not None:
            columns["scores"] = [p.scores for p in group]
        return Dataset.from_dict(columns)

    return DatasetDict({name: table(group) for name, group in pairs.items()})


def _add_adapters(encoder: RoutedEncoder, rank: int) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear"), encoder.backbone)


def _merge_adapters(encoder: RoutedEncoder) -> None:
    from peft.tuners.lora import LoraLayer

    base = encoder.backbone
    for name, module in list(base.named_modules()):
        if isinstance(module, LoraLayer):
            module.merge()
            parent = base.get_submodule(name.rpartition(".")[0]) if "." in name else base
            setattr(parent, name.rpartition(".")[2], module.get_base_layer())


@contextmanager
def _frozen(encoder: RoutedEncoder) -> Iterator[None]:
    """Switch dropout off, as in inference, and cache the states of the frozen transformer."""
    modules = [m for m in encoder.modules() if isinstance(m, torch.nn.Dropout)]
    rates = [m.p for m in modules]
    for module in modules:
        module.p = 0.0
    try:
        with remembered_states(encoder.transformer):
            yield
    finally:
        for module, rate in zip(modules, rates, strict=True):
            module.p = rate


def _finish(encoder: RoutedEncoder, config: TrainConfig) -> None:
    for parameter in encoder.parameters():
        parameter.requires_grad_(True)
    encoder.eval()
    if config.routers_only:
        return
    encoder.transformer.document_length = config.saved_document_length
    encoder.max_seq_length = max(config.saved_document_length, encoder.max_seq_length or 0)
    if not any(isinstance(m, Normalize) for m in encoder):
        encoder.append(Normalize(module_input_name="token_embeddings"))


def _record(config: TrainConfig, pairs: dict[str, list[Pair]], start: FastLaneModel) -> dict[str, Any]:
    return {
        "config": config.model_dump(mode="json"),
        "start": start.fingerprint,
        "pairs": {name: len(group) for name, group in pairs.items()},
        "sha256": file_hashes(config.data.train) | file_hashes(config.data.dev),
    }


def _check_same_run(file: Path, record: dict[str, Any]) -> None:
    """Refuse checkpoints of another run, whose weights would be continued by mistake.

    Raises:
        ModelError: the run of the checkpoints is unknown, or differs; the message names the differences.
    """
    way_out = "continue with what made them, or choose another output"
    try:
        earlier = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{file.parent} holds checkpoints, but not of which run ({error}); {way_out}") from error
    old, new = _flat(earlier), _flat(record)
    different = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
    if different:
        changes = ", ".join(f"{name} {old.get(name)!r} -> {new.get(name)!r}" for name in different[:3])
        more = f" and {len(different) - 3} more" if len(different) > 3 else ""
        raise ModelError(f"{file.parent} holds checkpoints of another run: {changes}{more}; {way_out}")


# Settings that do not change the result: threads, logging, and paths (hashes cover the contents of files).
_WITHOUT_EFFECT = re.compile(r"config\.(output|model|threads|tracker|data\.(train|dev)\.[^.]+\.path)")


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    """The leaves of a record by dotted name, without the settings that do not change a result."""
    if isinstance(value, dict):
        return {k: v for key, part in value.items() for k, v in _flat(part, f"{name}.{key}" if name else key).items()}
    return {} if _WITHOUT_EFFECT.fullmatch(name) else {name: value}
