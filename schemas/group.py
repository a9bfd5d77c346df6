"""RolloutGroup, Completion, Score: what the engine wrote and what it was worth.

Role: one prompt and its ``group_size`` completions, from sampling to training.
Made by: rollout/ (tokens), rewards/ (scores), orchestration/ (reward, advantage). Read by: learner/, ledger, viewer.
"""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import AfterValidator, Field, model_validator

from schemas.base import Noun
from schemas.prompt import Prompt

FinishReason = Literal["stop", "length", "abort"]


def _as_float32(values: tuple[float, ...]) -> tuple[float, ...]:
    # Log-probabilities are float32 everywhere (engine, Arrow, learner): rounding here keeps round trips exact.
    return tuple(np.asarray(values, dtype=np.float32).tolist())


Float32s = Annotated[tuple[float, ...], AfterValidator(_as_float32)]


class VersionSpan(Noun):
    """Tokens ``[start, end)`` of a completion were made by policy ``version``."""

    version: int = Field(ge=0)
    start: int = Field(ge=0)
    end: int = Field(gt=0)


class Score(Noun):
    """A scorer's number for one completion, with what it counted on the way (numbers only, never text)."""

    value: float
    details: dict[str, float] = Field(default_factory=dict)


class ScoreError(Noun):
    """Why a scorer has no number for one completion."""

    code: str
    message: str


class Completion(Noun):
    """One sampled answer.

    ``rollout_logprobs[t]`` is the log-probability of ``token_ids[t]`` under the distribution that it was sampled from.
    ``versions`` covers ``[0, len(token_ids))`` without gaps, in order.
    ``reward`` and ``advantage`` are None until computed; a completion without a reward is masked in training.
    """

    token_ids: tuple[int, ...]
    rollout_logprobs: Float32s
    versions: tuple[VersionSpan, ...]
    finish_reason: FinishReason
    text: str = Field(repr=False)
    scores: dict[str, Score] = Field(default_factory=dict)
    errors: dict[str, ScoreError] = Field(default_factory=dict)
    reward: float | None = None
    advantage: float | None = None

    @model_validator(mode="after")
    def _aligned(self) -> Completion:
        if len(self.rollout_logprobs) != len(self.token_ids):
            raise ValueError("rollout_logprobs and token_ids must have the same length")
        position = 0
        for span in self.versions:
            if span.start != position or span.end <= span.start:
                raise ValueError("versions must cover the tokens without gaps, in order")
            position = span.end
        if position != len(self.token_ids):
            raise ValueError("versions must cover every token")
        return self

    @property
    def oldest_version(self) -> int | None:
        """The oldest policy version among the tokens; None without tokens."""
        return min((span.version for span in self.versions), default=None)

    def version_of_tokens(self) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
        """Policy version per token, int32 [tokens]."""
        versions_T = np.empty(len(self.token_ids), dtype=np.int32)
        for span in self.versions:
            versions_T[span.start : span.end] = span.version
        return versions_T


class Sampling(Noun):
    """How the completions were drawn; the learner mirrors it or refuses the group (promise 10)."""

    temperature: float = Field(default=1.0, ge=0.0, description="0 = greedy")
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    top_k: int = Field(default=0, ge=0, description="0 = all tokens")
    max_tokens: int = Field(gt=0, description="tokens")
    seed: int = Field(default=0, ge=0, description="of the group; each completion's is derived from it")


class RolloutGroup(Noun):
    """One prompt and its completions.

    ``group_id`` is unique in a run. ``fingerprint`` is schemas.processed.fingerprint of what the engine read.
    ``incarnation`` is raised by every rollback or resume; groups of an abandoned one are dropped.
    """

    group_id: str
    prompt: Prompt
    epoch: int = Field(ge=0)
    incarnation: int = Field(ge=0)
    sampling: Sampling
    completions: tuple[Completion, ...]
    fingerprint: str
    worker: str = Field(description="name of the rollout worker")
    generate_s: float = Field(ge=0.0, description="seconds from submit to the last token")
    score_s: float = Field(default=0.0, ge=0.0, description="seconds spent waiting for scores")

    @property
    def oldest_version(self) -> int | None:
        """The oldest policy version among all tokens; None if the group has no token."""
        versions = [v for c in self.completions if (v := c.oldest_version) is not None]
        return min(versions, default=None)

    @property
    def token_count(self) -> int:
        return sum(len(c.token_ids) for c in self.completions)
