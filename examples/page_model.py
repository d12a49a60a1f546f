"""A tiny model with the architecture of ColPali and random weights, made on the spot: it shows how, and finds nothing.

There is no download in it. What it answers means nothing; a checkpoint that has learned something takes its place.
"""

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import ColPaliConfig, ColPaliForRetrieval, ColPaliProcessor, PaliGemmaConfig, PreTrainedTokenizerFast
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

SPECIAL = ("<pad>", "<eos>", "<bos>", "<unk>", "<image>")
WORDS = "the of is a what how where Question : Describe image . ? capital france page python table figure \n"


def random_page_model(folder: Path, words: str = WORDS, *, side: int = 4, seed: int = 0) -> Path:
    """Write a checkpoint that `FastLaneModel.from_pretrained` and `MultiVectorEncoder` open, and return its folder.

    Args:
        folder: where to.
        words: that its tokenizer knows.
        side: an image is cut into side * side patches of 14 pixels.
        seed: of the weights.
    """
    names = [*SPECIAL, *dict.fromkeys([*words.split(), "\n"])]
    core = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        eos_token="<eos>",
        bos_token="<bos>",
        unk_token="<unk>",
        additional_special_tokens=["<image>"],
        padding_side="right",
        model_max_length=512,
    )
    images = SiglipImageProcessorPil(size={"height": 14 * side, "width": 14 * side})
    images.image_seq_length = side * side
    processor = ColPaliProcessor(image_processor=images, tokenizer=tokenizer)
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    both = PaliGemmaConfig(
        text_config={
            "model_type": "gemma",
            "vocab_size": len(tokenizer),
            "num_key_value_heads": 1,
            "head_dim": 16,
            "num_image_tokens": side * side,
            **small,
        },
        vision_config={
            "model_type": "siglip_vision_model",
            "image_size": 14 * side,
            "patch_size": 14,
            "projection_dim": 32,
            **small,
        },
        image_token_index=processor.image_token_id,
        projection_dim=32,
    )
    both.hidden_size, both.vocab_size = 32, len(tokenizer)
    torch.manual_seed(seed)
    ColPaliForRetrieval(ColPaliConfig(vlm_config=both, embedding_dim=16)).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
