"""The warm start: supervised fine-tuning on conversations, with the same DeepSpeed learner as RL.

Input: a recipe with an ``[sft]`` table, conversations.parquet beside its prompts. Output: a Hugging Face folder.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from orchestration.assets import ensure_data, ensure_model, warm_start_folder
from orchestration.cluster import FLOORS, gpu_share_of, learner_group, ray_session
from orchestration.config import Recipe
from orchestration.placement import on_gpus, place, usable_cores
from orchestration.progress import Display
from orchestration.stop import EXIT_DONE, EXIT_STOPPED, StopRequest
from orchestration.waits import Waits
from prompts.store import read_conversations
from schemas.errors import ConfigError
from schemas.prompt import Conversation

MAX_RANKS_ON_CORES = 8  # each holds a model, an optimiser and a gigabyte of libraries

Show = Callable[[int, int, dict[str, float | None]], None]


def batches(
    conversations: Sequence[Conversation], batch_size: int, steps: int, seed: int
) -> Iterator[list[Conversation]]:
    """``steps`` batches in a seeded order, a fresh permutation an epoch; no conversation is left out of an epoch."""
    rng = np.random.default_rng(seed)
    queue: list[int] = []
    for _ in range(steps):
        while len(queue) < batch_size:
            queue += rng.permutation(len(conversations)).tolist()
        yield [conversations[index] for index in queue[:batch_size]]
        del queue[:batch_size]


async def warm_start(
    recipe: Recipe, data: Path, model: Path, out: Path, log_dir: Path, stop: StopRequest, show: Show
) -> bool:
    """Train ``model`` on the train split's conversations into ``out`` (appears whole); False if it was stopped.

    Needs a running Ray session. Without GPUs the learner takes every core of the machine, since nothing else runs yet.

    Raises:
        ConfigError: the recipe has no ``[sft]`` table, or a batch that its ranks can't share.
        DataError: no conversations.
    """
    if recipe.sft is None:
        raise ConfigError("sft", "is required for a warm start", "nothing", "add an [sft] table to the recipe")
    settings, cores = recipe.sft, usable_cores()
    gpu_share = gpu_share_of(recipe.learner.ranks)
    ranks = recipe.learner.ranks if gpu_share else _ranks_on_cores(recipe, len(cores))
    if settings.batch_size % ranks:
        raise ConfigError(
            "sft.batch_size", f"must be a multiple of learner.ranks ({ranks})", settings.batch_size, "change one"
        )
    conversations = read_conversations(data, split="train")
    placement = on_gpus(0, ranks) if gpu_share else place(cores, 0, 0, ranks, len(cores) // ranks)
    sft_learner, waits = settings.learner_settings(recipe.learner), Waits(FLOORS)
    learner = learner_group(sft_learner, str(model), placement.ranks, gpu_share, log_dir, waits)
    try:
        await learner.start(total_steps=settings.steps, seed=recipe.seed)
        order = list(batches(conversations, settings.batch_size, settings.steps, recipe.seed))
        for step, batch in enumerate(order, start=1):
            if stop.requested:
                return False
            metrics = await learner.sft_step(batch, order[step] if step < len(order) else [])
            show(step, settings.steps, metrics)
        await learner.export(out)
    finally:
        learner.stop()
    return True


def _ranks_on_cores(recipe: Recipe, cores: int) -> int:
    """As many ranks as the cores allow and the batch divides into: two of one core beat one of two by half here."""
    assert recipe.sft is not None
    most = min(MAX_RANKS_ON_CORES, max(1, cores // recipe.learner.cores))
    return next(ranks for ranks in range(most, 0, -1) if recipe.sft.batch_size % ranks == 0)


async def sft_command(recipe: Recipe, display: Display) -> int:
    """``overread sft``: make the recipe's warm start, or say that it is there; the exit status."""
    data = await asyncio.to_thread(ensure_data, recipe, display.note)
    base_model = await asyncio.to_thread(ensure_model, recipe, display.note)
    if recipe.sft is None:
        raise ConfigError("sft", "is required for a warm start", "nothing", "add an [sft] table to the recipe")
    out = warm_start_folder(recipe, base_model)
    if out.exists():
        display.note(f"the warm start is there already: {out}")
        return EXIT_DONE
    stop = StopRequest()
    logs = out.with_name(f"{out.name}-logs").absolute()
    async with ray_session():
        with stop.on_signals(), display.warm_start(recipe.sft.steps) as show:
            done = await warm_start(recipe, data, base_model, out, logs, stop, show)
    if not done:
        display.note(f"stopped by {stop.signal_name}; nothing was written")
        return EXIT_STOPPED
    display.note(f"wrote {out}")
    return EXIT_DONE
