"""RewardServiceSettings: which scores make the reward, where the service is, and what it accepts.

Role: the ``[reward]`` table of a recipe and the file that ``rewards serve --config`` reads.
Input: TOML values. Output: a frozen model; wrong names and signs are refused here, before anything starts.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from rewards.resources import JudgeSettings, ModelSettings, Resources
from rewards.scale import ScaleSettings
from rewards.scorer import Scorer
from rewards.scorers.registry import available
from schemas.base import Settings
from schemas.prompt import Task


class RewardServiceSettings(Settings):
    """Settings of the reward service and of its clients."""

    addresses: tuple[str, ...] = Field(
        default=(), description="base URLs of running services; empty: the run starts and supervises a local one"
    )
    token_file: Path | None = Field(
        default=None, description="file that holds the services' bearer token; a local service gets one of its own"
    )
    deadline_s: float = Field(
        default=120.0,
        gt=0.0,
        description="seconds until a group's scores must be there, retries included; longer than a service's restart",
    )
    weights: dict[Task, dict[str, float]] = Field(
        default={
            "report": {"rouge_l": 0.5, "chexpert_f1": 0.5, "prior_references": -0.25},
            "grounding": {"soft_f1": 1.0},
        },
        description="task -> scorer -> weight of its score in the reward; negative where a lower score is better, "
        "0 = scored and recorded only",
    )
    params: dict[str, dict[str, float | bool | str]] = Field(
        default={}, description="scorer -> parameter -> value, e.g. soft_f1.empty_match_value"
    )
    scorers: tuple[str, ...] = Field(
        default=(), description="the only scorers that the service loads; empty: every one, or a run's weighted ones"
    )
    plugins: tuple[str, ...] = Field(
        default=(), description="scorers of your own: modules or .py files, each with a SCORER"
    )
    models: dict[str, ModelSettings] = Field(
        default={}, description="clinical model -> folder of its weights, device, batch_size"
    )
    judges: dict[str, JudgeSettings] = Field(
        default={}, description="judge (green, llm_judge) -> OpenAI-compatible address and model"
    )
    workers: int | None = Field(
        default=None, ge=1, le=256, description="processes for scorers without weights; empty: one a core, at most 8"
    )
    batch_items: int = Field(default=256, ge=1, description="most items that a process scores at once")
    batch_wait_s: float = Field(
        default=0.001, ge=0.0, le=1.0, description="seconds that an idle process waits for more items"
    )
    batch_deadline_s: float = Field(
        default=300.0, gt=0.0, description="seconds until a batch counts as hung and its process is replaced"
    )
    request_deadline_s: float = Field(
        default=120.0, gt=0.0, description="longest seconds a request waits; later items come back as errors"
    )
    reference_cache_mib: int = Field(
        default=256, ge=0, description="MiB a process keeps of what it computed from references; 0 = nothing"
    )
    max_body_bytes: int = Field(
        default=16 * 2**20, gt=0, description="bytes of a request's body; more is answered 413 (bounds memory)"
    )
    max_items: int = Field(default=1024, gt=0, description="items of a request; more is answered 413")
    max_text_chars: int = Field(
        default=50_000,
        gt=0,
        description="characters of one text; a longer completion is an error of its item, another text is answered 413",
    )
    answer_chars: int | None = Field(
        default=None, gt=0, description="characters of an answer that are scored; the paper cuts at 2048; empty: all"
    )
    max_reference_boxes: int = Field(default=500, gt=0, description="reference boxes of an item; more is answered 413")
    max_pending_items: int = Field(
        default=8192, gt=0, description="items waiting or being scored; a request beyond it is answered 429"
    )
    scale: ScaleSettings = ScaleSettings()

    @property
    def resources(self) -> Resources:
        """What scorers get from outside."""
        return Resources(models=self.models, judges=self.judges)

    @property
    def known_scorers(self) -> Mapping[str, Scorer[Any]]:
        """The package's scorers and the plugins'. Raises ConfigError for a plugin that can't be imported."""
        return available(self.plugins)

    @model_validator(mode="after")
    def _one_kind_of_service(self) -> RewardServiceSettings:
        if self.addresses and self.scale.replicas:
            raise ValueError("scale.replicas: must be 0 where addresses name services that run already")
        return self

    @field_validator("addresses")
    @classmethod
    def _addresses_are_urls(cls, addresses: tuple[str, ...]) -> tuple[str, ...]:
        for address in addresses:
            try:
                url = urlsplit(address)
                fine = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
            except ValueError:  # a port that is no number, a bracket that is not closed
                fine = False
            if not fine:
                raise ValueError("must be base URLs such as http://rewards:8008")
        return addresses

    @model_validator(mode="after")
    def _weights_make_sense(self) -> RewardServiceSettings:
        for task, weights in self.weights.items():
            if not any(weights.values()):
                raise ValueError(f"weights.{task}: name at least one scorer with a weight other than 0")
            for name, weight in weights.items():
                self._check_weight(f"weights.{task}.{name}", task, name, weight)
        return self

    @model_validator(mode="after")
    def _params_are_known(self) -> RewardServiceSettings:
        for index, name in enumerate(self.scorers):
            self._check_name(f"scorers[{index}]", name)
        for name, params in self.params.items():
            self._check_name(f"params.{name}", name)
            if name in self.known_scorers:
                self.known_scorers[name].params.model_validate(params)
        return self

    def _check_name(self, field: str, name: str) -> None:
        known = self.known_scorers
        # Somebody else's service may have scorers that this version does not know.
        if name in known or self.addresses:
            return
        nearest = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {nearest[0]}?" if nearest else f"known are {', '.join(known)}"
        raise ValueError(f"{field}: there is no such scorer; {hint}")

    def _check_weight(self, field: str, task: Task, name: str, weight: float) -> None:
        self._check_name(field, name)
        if not math.isfinite(weight):
            raise ValueError(f"{field}: a weight must be finite")
        scorer = self.known_scorers.get(name)
        if scorer is None:
            return
        if task not in scorer.tasks:
            raise ValueError(f"{field}: {name} does not score the task {task}")
        if weight and scorer.evaluation_only:
            raise ValueError(f"{field}: {name} is for evaluation only, a policy would hack it; weight 0 records it")
        if weight * (1.0 if scorer.direction == "higher" else -1.0) < 0.0:
            sign = "positive" if scorer.direction == "higher" else "negative"
            raise ValueError(f"{field}: {name} is better when {scorer.direction}, so its weight must be {sign}")
