"""ScaleSettings: how many replicas of the reward service there are, and what each may use.

Role: the ``[reward.scale]`` table; orchestration/serve_cluster.py puts the replicas on a Ray cluster.
Input: TOML values. Output: a frozen model; limits that contradict each other are refused here.
"""

from __future__ import annotations

from pydantic import Field, model_validator

from schemas.base import Settings


class ScaleSettings(Settings):
    """Replicas of the reward service on a Ray cluster, behind Ray Serve."""

    replicas: int = Field(
        default=0, ge=0, description="processes that answer, each with its own scorers; 0 = one process without Ray"
    )
    max_replicas: int = Field(
        default=0, ge=0, description="replicas at most; more than replicas = scaled with the load, 0 = as replicas"
    )
    target_ongoing_requests: float = Field(
        default=16.0,
        gt=0.0,
        description="requests at once in a replica that scaling aims for; four times as many are sent to one at most",
    )
    gpus_per_replica: float = Field(
        default=0.0, ge=0.0, description="GPUs that Ray sets aside for a replica; a fraction shares one, e.g. 0.5"
    )
    cpus_per_replica: float = Field(
        default=1.0, ge=0.0, description="cores that Ray sets aside for a replica; 0 where engines have them all"
    )
    port: int = Field(default=0, ge=0, le=65535, description="port on every node; 0 = one that is free here")

    @property
    def most(self) -> int:
        """How many replicas there can be."""
        return max(self.replicas, self.max_replicas)

    @model_validator(mode="after")
    def _limits_agree(self) -> ScaleSettings:
        if self.max_replicas and not self.replicas:
            raise ValueError("max_replicas: needs replicas, the number to begin with")
        if 0 < self.max_replicas < self.replicas:
            raise ValueError(f"max_replicas: must be at least replicas = {self.replicas}, or 0")
        if self.gpus_per_replica > 1 and self.gpus_per_replica % 1:
            raise ValueError("gpus_per_replica: more than one GPU must be whole GPUs")
        return self
