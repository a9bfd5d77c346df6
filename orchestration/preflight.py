"""What can be wrong with a recipe's inputs, found before a run folder is made.

Input: a resolved recipe. Output: nothing, or one line that says what to mend.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from orchestration.assets import check_qwen3_vl, ensure_data, find_model
from orchestration.config import TINY_MODEL, Recipe
from orchestration.service import must_answer, outside_access
from prompts.store import read_conversations, read_prompts
from schemas.errors import DataError
from schemas.prompt import Conversation, Prompt, Split

_PICTURES_LOOKED_FOR = 1000  # spread over the data: all of them would take minutes on a network file system


def check_inputs(recipe: Recipe) -> None:
    """Look at model, prompts, pictures and reward services; make nothing.

    Raises:
        DataError: the model folder, the prompts or a picture can't be used.
        ConfigError: the recipe's reward services do not answer.
    """
    if recipe.model != TINY_MODEL:
        check_qwen3_vl(find_model(recipe.model))
    if recipe.data.path.exists():
        _check_data(recipe, recipe.data.path)
    elif recipe.data.phantom_count == 0:
        ensure_data(recipe, lambda _: None)
    if recipe.reward.addresses:
        asyncio.run(must_answer(outside_access(recipe.reward), recipe.reward))


def _check_data(recipe: Recipe, path: Path) -> None:
    _check_pictures(usable_prompts(recipe, path, "train"))
    if recipe.evaluation.prompts_per_task:
        _check_pictures(usable_prompts(recipe, path, recipe.evaluation.split))
    if recipe.sft is not None:
        _check_pictures(read_conversations(path, split="train"))


def usable_prompts(recipe: Recipe, path: Path, split: Split) -> list[Prompt]:
    """The recipe's prompts of a split. Raises DataError when there are none."""
    prompts = read_prompts(path, split, recipe.data.tasks)
    if not prompts:
        rule = f"must hold prompts of split {split} and tasks {', '.join(recipe.data.tasks)}"
        raise DataError("data.path", rule, path, "look at it: overread data show PATH")
    return prompts


def _check_pictures(entries: Sequence[Prompt | Conversation]) -> None:
    stride = max(1, len(entries) // _PICTURES_LOOKED_FOR)
    for entry in entries[::stride]:
        for image in entry.images:
            if image.path is not None and not Path(image.path).is_file():
                raise DataError(
                    "data.path: image", "must be a file", image.path, "put it there, or convert the data again"
                )
