"""Settings of the rollout workers.

Role: how many engines run, on what, and how they sample. Input: a recipe's ``[rollout]`` table.
Output: read by rollout/worker and rollout/engine. Cheap to import: no torch, no vllm.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from schemas.base import Settings


class RolloutSettings(Settings):
    """The ``[rollout]`` table."""

    workers: int = Field(default=1, ge=1, description="engines; each one is a Ray actor with its own model copy")
    cores_per_worker: int = Field(
        default=1,
        ge=1,
        description="CPU cores that a worker is pinned to; on a CPU its engine computes on these alone",
    )
    group_size: int = Field(default=8, ge=1, description="completions per prompt; the group of GRPO")
    max_tokens: int = Field(default=64, ge=1, description="tokens of a completion at most")
    temperature: float = Field(
        default=1.0, gt=0.0, description="of sampling in training; evaluation is greedy. The learner mirrors it"
    )
    dtype: Literal["float32", "bfloat16"] = Field(
        default="float32", description="of the served weights; float32 on a CPU keeps the log-probability gap small"
    )
    max_model_len: int = Field(default=512, ge=16, description="tokens of prompt, pictures and completion together")
    max_num_seqs: int = Field(default=128, ge=1, description="completions that an engine runs at once; more wait")
    kv_cache_mib: int = Field(
        default=512, ge=16, description="MiB of the KV cache; explicit, so that start-up needs no profiling run"
    )
    group_deadline_s: float = Field(
        default=120.0, gt=0.0, description="seconds from submitting a group to its last token; then it is dropped"
    )
    canary_tolerance: float = Field(
        default=1e-3,
        gt=0.0,
        description="nats; how far engine and learner may differ on the canary prompt after a push",
    )
