"""``overread eval``: a checkpoint on held-out prompts, without a run.

Input: a model folder, prompts. Output: a JSON file of means with bootstrap 95 % intervals, and its groups beside it.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path

from orchestration.assets import find_checkpoint
from orchestration.cluster import (
    Cluster,
    gpu_share_of,
    new_recorder,
    ray_session,
    rollout_workers,
    start_engines,
    stop_workers,
    waits_of,
)
from orchestration.config import load_recipe
from orchestration.evaluate import choose_prompts, evaluate
from orchestration.files import write_atomically
from orchestration.placement import on_gpus, place, usable_cores
from orchestration.progress import Display
from orchestration.serve_cluster import check_room
from orchestration.service import reward_access
from orchestration.stop import EXIT_DONE
from orchestration.summary import interval_text
from orchestration.versions import versions
from prompts.store import read_prompts
from schemas.errors import ConfigError, DataError
from schemas.prompt import Split


async def evaluate_checkpoint(
    checkpoint: Path, data: Path, out: Path, recipe_file: Path | None, split: Split, count: int, display: Display
) -> int:
    """Evaluate and write ``out`` (JSON) and ``out`` with the suffix .parquet (the groups); the exit status.

    Raises:
        ConfigError, DataError: the checkpoint, the recipe or the prompts can't be used.
    """
    model = await asyncio.to_thread(find_checkpoint, checkpoint)
    recipe = load_recipe(recipe_file or _recipe_beside(checkpoint), {})
    prompts = choose_prompts(read_prompts(data, split, recipe.data.tasks), count, recipe.seed)
    if not prompts:
        raise DataError("--data", f"must hold prompts of split {split}", data, "look at it: overread data show PATH")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="overread-eval-") as name:
        folder = Path(name)
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(ray_session())
            gpu_share, cores = gpu_share_of(1, recipe.reward.scale), usable_cores()
            placement = on_gpus(1, 0) if gpu_share else place(cores, 1, len(cores), 0, 0)
            check_room(recipe.reward.scale, 1 if gpu_share else len(cores))
            access = await stack.enter_async_context(reward_access(recipe.reward, folder, _no_events))
            workers = rollout_workers(recipe, str(model), access, placement.workers, gpu_share, folder)
            try:
                with display.working("starting the engine"):
                    await start_engines(workers, waits_of(recipe))
                cluster = Cluster(workers, new_recorder(folder), waits_of(recipe), recipe.rollout.canary_tolerance)
                with display.working(f"evaluating {len(prompts)} prompts"):
                    parquet = out.with_suffix(".parquet").absolute()
                    evaluation = await evaluate(cluster, prompts, recipe.rollout.max_tokens, "eval", parquet)
            finally:
                await stop_workers(workers)
    intervals = {metric: value.model_dump(mode="json") for metric, value in evaluation.intervals(recipe.seed).items()}
    result = {
        "checkpoint": str(checkpoint),
        "data": str(data),
        "split": split,
        "prompts": len(prompts),
        "missing": evaluation.missing,
        "seed": recipe.seed,
        "metrics": intervals,
        "versions": versions(),
    }
    write_atomically(out, json.dumps(result, indent=1))
    rows = [[metric, interval_text(value), str(value["n"])] for metric, value in intervals.items()]
    display.rows(f"{checkpoint} on {split}", ["score", "mean [95 % interval]", "prompts"], rows)
    display.note(f"wrote {out}")
    return EXIT_DONE


def _no_events(kind: str, **fields: object) -> None:
    """An evaluation without a run has no events.jsonl; its reward service's log is in its own folder."""


def _recipe_beside(checkpoint: Path) -> Path:
    """The config.toml of the run that a checkpoint belongs to."""
    folders = [checkpoint, *checkpoint.absolute().parents[:3]]
    found = next((folder / "config.toml" for folder in folders if (folder / "config.toml").is_file()), None)
    if found is None:
        raise ConfigError("--recipe", "is required for a checkpoint outside a run folder", checkpoint, "give --recipe")
    return found
