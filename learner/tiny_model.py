"""A Qwen3-VL of 1.2 million parameters, made from nothing in seconds.

Role: the demo's and the tests' policy; architecture, files and formats are Qwen3-VL's (deepstack, interleaved
M-RoPE, tied embeddings), so transformers and vLLM load it unchanged and a recipe swaps in a real one in one line.
Input: sentences for its tokenizer, a seed. Output: a Hugging Face model folder (fp32), the same bytes each time.
"""

from __future__ import annotations

import json
import math
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

from learner.tiny_tokenizer import COORDINATES, MODEL_MAX_LENGTH, write_tokenizer
from schemas.errors import DataError

HIDDEN = 128  # text
VISION_HIDDEN = 64
PATCH = 16  # pixels
MERGE = 2  # patches a side that become one token
GRID = 12  # patches a side of a 192 x 192 film: 36 tokens
SIDE = GRID * PATCH


def build_tiny_model(out: Path, corpus: Iterable[str], seed: int = 0) -> None:
    """Write a tiny Qwen3-VL. It appears whole or not at all.

    Args:
        out: folder to make; may exist if it is empty.
        corpus: sentences as the model will read and write them.
        seed: of the weights.

    Raises:
        DataError: ``out`` holds something already.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(str(out), "must be a new or empty folder", "not empty", "choose another one or remove it")
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        ids = write_tokenizer(folder, corpus)
        config = _config(ids)
        _write_json(folder / "config.json", {"architectures": ["Qwen3VLForConditionalGeneration"], **config})
        _write_json(folder / "generation_config.json", _generation_config(ids))
        _write_json(folder / "preprocessor_config.json", _image_config())
        _write_json(folder / "video_preprocessor_config.json", _video_config())
        coordinate_ids = [ids[token] for token in COORDINATES]
        weights = _initial_weights(Qwen3VLConfig(**config), coordinate_ids, seed)
        (folder / "model.safetensors").write_bytes(save(weights, metadata={"format": "pt"}))
        folder.chmod(0o755)  # mkdtemp gives 0700
        folder.rename(out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")


def _config(ids: Mapping[str, int]) -> dict[str, Any]:
    end_of_text = ids["<|endoftext|>"]
    return {
        "model_type": "qwen3_vl",
        "dtype": "float32",
        "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"],
        "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"],
        "tie_word_embeddings": True,
        "text_config": {
            "model_type": "qwen3_vl_text",
            "dtype": "float32",
            "vocab_size": len(ids),
            "hidden_size": HIDDEN,
            "intermediate_size": 256,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 32,
            "hidden_act": "silu",
            "max_position_embeddings": MODEL_MAX_LENGTH,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [6, 5, 5],  # time, height, width; sums to head_dim / 2
                "mrope_interleaved": True,
            },
            "attention_bias": False,
            "tie_word_embeddings": True,
            "bos_token_id": end_of_text,
            "eos_token_id": ids["<|im_end|>"],
            "pad_token_id": end_of_text,
        },
        "vision_config": {
            "model_type": "qwen3_vl_vision",
            "dtype": "float32",
            "depth": 3,
            "hidden_size": VISION_HIDDEN,
            "intermediate_size": 256,
            "num_heads": 4,
            "hidden_act": "gelu_pytorch_tanh",
            "in_channels": 3,
            "patch_size": PATCH,
            "temporal_patch_size": 2,
            "spatial_merge_size": MERGE,
            "out_hidden_size": HIDDEN,
            "num_position_embeddings": GRID * GRID,
            "deepstack_visual_indexes": [0, 1],
        },
    }


def _generation_config(ids: Mapping[str, int]) -> dict[str, Any]:
    end_of_text = ids["<|endoftext|>"]
    return {
        "bos_token_id": end_of_text,
        "pad_token_id": end_of_text,
        "eos_token_id": [ids["<|im_end|>"], end_of_text],
        "do_sample": True,
    }


def _image_config() -> dict[str, Any]:
    return {
        "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": "Qwen3VLProcessor",
        # Pixels in all, despite the names. The most is one 192 x 192 film: a real film is shrunk to 36 tokens.
        "size": {"shortest_edge": (PATCH * MERGE) ** 2, "longest_edge": SIDE * SIDE},
        "patch_size": PATCH,
        "temporal_patch_size": 2,
        "merge_size": MERGE,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }


def _video_config() -> dict[str, Any]:
    frames = 8
    return {
        **_image_config(),
        "image_processor_type": None,
        "video_processor_type": "Qwen3VLVideoProcessor",
        "size": {"shortest_edge": (PATCH * MERGE) ** 2, "longest_edge": frames * SIDE * SIDE},
    }


def _initial_weights(config: Qwen3VLConfig, coordinate_ids: list[int], seed: int) -> dict[str, torch.Tensor]:
    """Fresh weights by Hugging Face name, without the tied lm_head.

    Matrices are scaled to their fan-in and what a block adds to its residual stream is damped by depth, as in GPT-2:
    at width 128 the usual 0.02 is too small to learn fast. Two tables get the order that a real checkpoint has learned:
    picture positions are sines of row and column, and neighbouring coordinates have similar embeddings.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in Qwen3VLForConditionalGeneration(config).state_dict().items()}
    weights: dict[str, torch.Tensor] = {}
    for name, shape in shapes.items():
        if name == "lm_head.weight":
            continue
        weights[name] = _initial_tensor(name, shape, generator)
    embeddings_VD = weights["model.language_model.embed_tokens.weight"]
    waves = _sines(torch.linspace(0.0, 1.0, len(coordinate_ids)), HIDDEN, longest=2.0)
    mixing = torch.randn(HIDDEN, HIDDEN, generator=generator) / math.sqrt(HIDDEN)
    embeddings_VD[coordinate_ids] = EMBEDDING_STD * (waves @ mixing)
    return weights


EMBEDDING_STD = 0.05
RESIDUAL_BLOCKS = 8  # attention and MLP of four text layers


def _initial_tensor(name: str, shape: torch.Size, generator: torch.Generator) -> torch.Tensor:
    if name.endswith(".bias"):
        return torch.zeros(shape)
    if "norm" in name:
        return torch.ones(shape)
    if name.endswith("pos_embed.weight"):
        rows, columns = torch.meshgrid(torch.linspace(0, 1, GRID), torch.linspace(0, 1, GRID), indexing="ij")
        half = VISION_HIDDEN // 2
        return torch.cat(
            [_sines(rows.flatten(), half, longest=2.0), _sines(columns.flatten(), half, longest=2.0)], dim=1
        )
    noise = torch.randn(shape, generator=generator)
    if name.endswith("embed_tokens.weight"):
        return EMBEDDING_STD * noise
    fan_in = math.prod(shape[1:])
    damping = RESIDUAL_BLOCKS**-0.5 if name.endswith(("o_proj.weight", "down_proj.weight")) else 1.0
    return noise * damping / math.sqrt(fan_in)


def _sines(position_N: torch.Tensor, width: int, longest: float) -> torch.Tensor:
    """Sines and cosines of positions in [0, 1], [N, width], each column of about unit variance.

    Wavelengths fall from ``longest`` by a factor of 32 in all, so neighbours stay similar.
    """
    frequencies = 2 * math.pi / longest * 32.0 ** torch.linspace(0.0, 1.0, width // 2)
    angles = position_N[:, None] * frequencies[None, :]
    return math.sqrt(2.0) * torch.cat([angles.sin(), angles.cos()], dim=1)
