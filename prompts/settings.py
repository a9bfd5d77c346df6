"""DataSettings: where a run's prompts lie and which of them it uses.

Role: the ``data`` table of a recipe. Input: TOML values. Output: a frozen model that orchestration composes.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from schemas.base import Settings
from schemas.prompt import Task


class DataSettings(Settings):
    """Which prompts a run reads, and how many phantoms to make if they are not there yet."""

    path: Path = Field(
        description="folder that holds prompts.parquet (and conversations.parquet for SFT), or a prompts parquet file",
    )
    phantom_count: int = Field(
        default=0,
        ge=0,
        le=1_000_000,
        description="films to make at `path` if nothing is there; 0 = the data must be there already",
    )
    phantom_seed: int = Field(default=0, ge=0, description="seed of the phantoms; same count and seed, same films")
    tasks: tuple[Task, ...] = Field(
        default=("report", "grounding"),
        min_length=1,
        description="tasks to train and evaluate on; prompts of other tasks are left out",
    )
