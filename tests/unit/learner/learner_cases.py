"""Cases for the learner's tests: a tiny model folder, groups with pictures, conversations.

Input: seeds and sizes. Output: the real nouns, with random content.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from learner.tiny_model import build_tiny_model
from schemas.group import Completion, RolloutGroup, Sampling, VersionSpan
from schemas.processed import ProcessedConversation, ProcessedPrompt
from schemas.prompt import Prompt, Reference

CORPUS = ["The heart is enlarged.", "No pleural effusion.", "Where is the nodule? It lies at [0.12, 0.34, 0.56, 0.78]."]
PATCH_WIDTH = 3 * 2 * 16 * 16  # channels x frames x patch x patch
MERGE = 2


def make_model(folder: Path) -> str:
    """A tiny Qwen3-VL folder, made once per folder."""
    if not folder.exists():
        build_tiny_model(folder, CORPUS)
    return str(folder)


def special_ids(model_path: str) -> dict[str, int]:
    """Ids of the vision tokens, from the folder's config."""
    config = json.loads((Path(model_path) / "config.json").read_text())
    names = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    return {name: int(config[name]) for name in names}


def make_prompt(
    model_path: str,
    rng: np.random.Generator,
    grids: tuple[tuple[int, int], ...] = ((4, 6),),
    text_tokens: int = 12,
) -> ProcessedPrompt:
    """Pictures (each vision_start, placeholders, vision_end), then text; ``grids`` in patches, height x width."""
    ids = special_ids(model_path)
    tokens: list[int] = []
    for height, width in grids:
        placeholders = [ids["image_token_id"]] * (height * width // MERGE**2)
        tokens += [ids["vision_start_token_id"], *placeholders, ids["vision_end_token_id"]]
    tokens += text_ids(rng, text_tokens)
    patches = sum(height * width for height, width in grids)
    return ProcessedPrompt(
        input_ids_P=np.array(tokens, dtype=np.int32),
        pixel_values_ND=rng.standard_normal((patches, PATCH_WIDTH), dtype=np.float32),
        image_grid_thw_I3=np.array([[1, h, w] for h, w in grids], dtype=np.int64).reshape(-1, 3),
    )


def text_ids(rng: np.random.Generator, count: int) -> list[int]:
    """Ordinary words: ids 1 to 199 are no special tokens of the tiny tokenizer."""
    return [int(i) for i in rng.integers(1, 200, count)]


def make_group(
    group_id: str,
    processed: ProcessedPrompt,
    rng: np.random.Generator,
    lengths: tuple[int, ...] = (5, 3, 7, 4),
    advantages: tuple[float | None, ...] | None = None,
    temperature: float = 1.0,
    version: int = 0,
) -> RolloutGroup:
    """A group with random completions and log-probabilities near those of an untrained model."""
    if advantages is None:
        advantages = tuple(float(a) for a in rng.standard_normal(len(lengths)))
    completions = tuple(
        Completion(
            token_ids=tuple(text_ids(rng, length)),
            rollout_logprobs=tuple(float(v) for v in -6.5 + 0.2 * rng.standard_normal(length)),
            versions=(VersionSpan(version=version, start=0, end=length),) if length else (),
            finish_reason="stop",
            text="",
            reward=advantage,
            advantage=advantage,
        )
        for length, advantage in zip(lengths, advantages, strict=True)
    )
    prompt = Prompt(
        prompt_id=group_id,
        task="report",
        question="?",
        reference=Reference(report="."),
        dataset="test",
        patient_id="p",
        study_id="s",
        split="train",
    )
    return RolloutGroup(
        group_id=group_id,
        prompt=prompt,
        epoch=0,
        incarnation=0,
        sampling=Sampling(temperature=temperature, max_tokens=64),
        completions=completions,
        fingerprint=processed.fingerprint(),
        worker="w0",
        generate_s=0.1,
    )


def make_groups(model_path: str, count: int, seed: int = 0) -> list[tuple[RolloutGroup, ProcessedPrompt]]:
    """Groups of mixed shapes: one picture, two pictures, none; one completion without an advantage."""
    rng = np.random.default_rng(seed)
    shapes: list[tuple[tuple[int, int], ...]] = [((4, 6),), ((4, 4), (6, 4)), ()]
    groups = []
    for number in range(count):
        processed = make_prompt(model_path, rng, shapes[number % 3], text_tokens=6 + number)
        advantages = (0.7, -1.2, None if number % 2 else 0.4, 0.1)
        groups.append((make_group(f"g{number}", processed, rng, advantages=advantages), processed))
    return groups


def make_conversations(model_path: str, count: int, seed: int = 0) -> list[ProcessedConversation]:
    """Conversations of mixed length; the last third of the tokens is the answer."""
    rng = np.random.default_rng(seed)
    conversations = []
    for number in range(count):
        prompt = make_prompt(model_path, rng, ((4, 6),) if number % 2 else (), text_tokens=9 + 2 * number)
        mask_P = np.zeros(len(prompt.input_ids_P), dtype=np.bool_)
        mask_P[-(3 + number) :] = True
        conversations.append(ProcessedConversation(prompt, mask_P))
    return conversations
