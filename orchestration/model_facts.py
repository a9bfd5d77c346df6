"""How large a Qwen3-VL is: what a plan needs to know before anything is loaded.

Role: sizes from a model's config.json, or from a small table where the model isn't on this machine.
Input: a recipe's ``model``. Output: ``ModelFacts``.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestration.assets import check_qwen3_vl, find_model
from orchestration.config import TINY_MODEL
from schemas.errors import DataError


@dataclass(frozen=True)
class ModelFacts:
    """Sizes of a model. ``source`` says where they are from, in words."""

    name: str
    source: str
    parameters: int
    layers: int
    hidden_size: int
    kv_heads: int
    head_dim: int
    vocab_size: int

    def kv_bytes_per_token(self, bytes_per_number: int) -> int:
        """KV cache of one token: a key and a value per layer and KV head."""
        return 2 * self.layers * self.kv_heads * self.head_dim * bytes_per_number


# From the config.json of Qwen/Qwen3-VL-{2,4,8,32}B-Instruct and of the tiny model; the parameters are what
# `parameter_count` makes of them (and transformers, built without memory).
_PUBLISHED: dict[str, tuple[int, int, int, int, int, int]] = {
    "2b": (2_127_532_032, 28, 2048, 8, 128, 151_936),
    "4b": (4_437_815_808, 36, 2560, 8, 128, 151_936),
    "8b": (8_767_123_696, 36, 4096, 8, 128, 151_936),
    "32b": (33_357_390_064, 64, 5120, 8, 128, 151_936),
}
_TINY = (1_223_552, 4, 128, 2, 32, 606)
_SIZE = re.compile(r"qwen3-vl-(\d+b)\b", re.IGNORECASE)


def model_facts(name: str) -> ModelFacts:
    """Sizes of the model that a recipe names.

    Raises:
        DataError: it is neither on this machine nor of a known size, or its config.json isn't a Qwen3-VL's.
    """
    if name == TINY_MODEL:
        return ModelFacts(name, "the tiny model, made by the run", *_TINY)
    try:
        folder = find_model(name)
    except DataError:
        size = _SIZE.search(name)
        # A path that isn't there is a mistake; a hub name that isn't here yet can still be planned.
        if size is None or size.group(1).lower() not in _PUBLISHED or name.startswith((".", "/", "~")):
            raise
        source = "not on this machine: estimated from the published sizes"
        return ModelFacts(name, source, *_PUBLISHED[size.group(1).lower()])
    check_qwen3_vl(folder)
    return read_facts(folder, name)


def read_facts(folder: Path, name: str) -> ModelFacts:
    """Sizes from ``folder/config.json``. Raises DataError when it lacks one of them."""
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    try:
        text = config["text_config"]
        return ModelFacts(
            name=name,
            source=f"from {path}",
            parameters=parameter_count(config),
            layers=int(text["num_hidden_layers"]),
            hidden_size=int(text["hidden_size"]),
            kv_heads=int(text["num_key_value_heads"]),
            head_dim=int(text["head_dim"]),
            vocab_size=int(text["vocab_size"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        rule = "must hold a Qwen3-VL's text_config and vision_config"
        raise DataError(
            str(path), rule, f"no usable {error}", "take the config.json that the model came with"
        ) from error


def parameter_count(config: dict[str, Any]) -> int:
    """Parameters of a Qwen3-VL, from its config.json (layout: transformers' modeling_qwen3_vl)."""
    text = config["text_config"]
    hidden, layers, head = text["hidden_size"], text["num_hidden_layers"], text["head_dim"]
    heads, kv_heads = text["num_attention_heads"], text["num_key_value_heads"]
    attention = hidden * head * (2 * heads + 2 * kv_heads) + 2 * head  # q, k, v, o; norms of q and k
    layer = attention + 3 * hidden * text["intermediate_size"] + 2 * hidden
    tied = config.get("tie_word_embeddings", text.get("tie_word_embeddings", False))
    embeddings = text["vocab_size"] * hidden * (1 if tied else 2)
    return int(embeddings + layers * layer + hidden + _vision_parameters(config["vision_config"]))


def _vision_parameters(vision: dict[str, Any]) -> int:
    hidden, wide = vision["hidden_size"], vision["intermediate_size"]
    patch = vision["in_channels"] * vision["temporal_patch_size"] * vision["patch_size"] ** 2
    attention = 4 * hidden * hidden + 4 * hidden
    block = attention + 2 * hidden * wide + wide + hidden + 4 * hidden  # two norms with bias
    merged = hidden * vision["spatial_merge_size"] ** 2
    merger = merged * merged + merged + merged * vision["out_hidden_size"] + vision["out_hidden_size"]
    deepstack = len(vision["deepstack_visual_indexes"]) * (merger + 2 * merged)  # norm after the merge: wide
    stem = patch * hidden + hidden + vision["num_position_embeddings"] * hidden
    return int(stem + vision["depth"] * block + merger + 2 * hidden + deepstack)
