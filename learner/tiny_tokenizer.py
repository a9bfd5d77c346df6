"""The tiny model's tokenizer: Qwen's byte-level BPE, trained on a few sentences.

Role: any text has ids and comes back unchanged; a two-decimal coordinate is one token, so a box is nine.
Input: sentences. Output: the tokenizer files of a model folder, with Qwen's special tokens and chat template.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, pre_tokenizers, trainers
from tokenizers.models import BPE
from transformers import Qwen2Tokenizer

from learner.chat_template import CHAT_TEMPLATE

MODEL_MAX_LENGTH = 4096  # tokens
BASE_VOCABULARY = 640  # 256 bytes and up to 384 merges: with the tokens below 768 in all

# Qwen3-VL's added tokens in the order of its ids; the second list is visible text to a decoder (not "special").
SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
MARKUP_TOKENS = (
    "<tool_call>",
    "</tool_call>",
    "<|fim_prefix|>",
    "<|fim_middle|>",
    "<|fim_suffix|>",
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
    "<tool_response>",
    "</tool_response>",
    "<think>",
    "</think>",
)
COORDINATES = tuple(f"{hundredths / 100:.2f}" for hundredths in range(101))
SEPARATOR = ", "  # between coordinates; as two tokens it would make a box a third longer

# Where the tokenizer cuts a text before BPE sees it.
_CUT = re.compile("|".join(re.escape(token) for token in (*COORDINATES, SEPARATOR)))


def _pieces(corpus: Iterable[str]) -> Iterator[str]:
    # Training does not know the added tokens: without this cut it would spend merges on "0.1" and ",Ġ".
    for text in corpus:
        yield from (piece for piece in _CUT.split(text) if piece)


def write_tokenizer(folder: Path, corpus: Iterable[str]) -> dict[str, int]:
    """Train the tokenizer and write tokenizer.json, tokenizer_config.json and chat_template.jinja.

    Args:
        folder: where the model's other files lie too.
        corpus: sentences as the model will read and write them. The same corpus gives the same bytes.

    Returns:
        Token -> id, at most 768 of them: bytes and merges, Qwen's tokens, coordinates, the separator.
    """
    qwen = Qwen2Tokenizer().backend_tokenizer  # empty, for how Qwen normalises text and cuts words
    tokenizer = Tokenizer(BPE())
    tokenizer.normalizer = qwen.normalizer
    tokenizer.pre_tokenizer = qwen.pre_tokenizer
    tokenizer.decoder = qwen.decoder
    trainer = trainers.BpeTrainer(
        vocab_size=BASE_VOCABULARY, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(_pieces(corpus), trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    plain_tokens = (*MARKUP_TOKENS, *COORDINATES, SEPARATOR)
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in plain_tokens])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "add_prefix_space": False,
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "errors": "replace",
        "model_max_length": MODEL_MAX_LENGTH,
        "pad_token": "<|endoftext|>",
        "processor_class": "Qwen3VLProcessor",
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    return vocabulary
