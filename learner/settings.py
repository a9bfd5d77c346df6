"""LearnerSettings and SftSettings: how the policy is updated.

Role: the learner's part of a recipe; defaults live here and nowhere else.
Made by: orchestration/config from a recipe. Read by: learner/engine.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from schemas.base import Settings

Schedule = Literal["constant", "cosine"]


class LearnerSettings(Settings):
    """One GRPO learner: optimiser, loss, memory, placement. The defaults are the paper's where it has a value."""

    learning_rate: float = Field(default=1e-6, gt=0.0, description="AdamW's peak learning rate; the paper's for 8B")
    lr_schedule: Schedule = Field(default="constant", description="after the warm-up: constant, or cosine down to 0")
    warmup_steps: int = Field(default=0, ge=0, description="steps of linear warm-up to the peak")
    weight_decay: float = Field(default=0.01, ge=0.0, description="AdamW's decoupled decay, per unit of learning rate")
    gradient_clip: float = Field(default=1.0, gt=0.0, description="largest global gradient norm, L2")
    clip_low: float = Field(default=0.2, gt=0.0, lt=1.0, description="PPO: the ratio is clipped below at 1 - this")
    clip_high: float = Field(
        default=0.28, gt=0.0, description="PPO: the ratio is clipped above at 1 + this; more room to raise rare tokens"
    )
    kl_coefficient: float = Field(
        default=0.0, ge=0.0, description="weight of the k3 KL loss to the start model (paper: 0.01); 0 loads no copy"
    )
    updates_per_step: int = Field(
        default=1, ge=1, description="optimiser updates a step (paper: 4), equal mini-batches"
    )
    micro_batch_tokens: int = Field(
        default=4096,
        ge=1,
        description="padded tokens per forward and rank, one group at least; bounds memory, changes no result",
    )
    gradient_checkpointing: bool = Field(
        default=False, description="recompute activations in backward: less memory, about a third more time"
    )
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto", description="of the parameters, served and trained; auto: float32 on CPU, bfloat16 on GPU"
    )
    zero_stage: Literal[1, 2, 3] = Field(
        default=1, description="what DeepSpeed shards over the ranks: 1 optimiser, 2 + gradients, 3 + parameters"
    )
    ranks: int = Field(default=1, ge=1, description="learner processes, one GPU each where there are GPUs")
    cores: int = Field(default=1, ge=1, description="CPU cores per rank; a rank without a GPU is pinned to them")


class SftSettings(Settings):
    """The warm start: supervised steps before RL, loss on answers only."""

    steps: int = Field(default=400, ge=1, description="optimiser updates")
    batch_size: int = Field(default=32, ge=1, description="conversations per update, over all ranks")
    learning_rate: float = Field(default=1e-5, gt=0.0, description="AdamW's peak learning rate; the paper's for 8B")
    lr_schedule: Schedule = Field(default="cosine", description="after the warm-up: constant, or cosine down to 0")
    warmup_steps: int = Field(default=20, ge=0, description="steps of linear warm-up to the peak")

    def learner_settings(self, base: LearnerSettings) -> LearnerSettings:
        """``base`` with this stage's learning rate and schedule, one update a step, and no reference policy."""
        return base.model_copy(
            update={
                "learning_rate": self.learning_rate,
                "lr_schedule": self.lr_schedule,
                "warmup_steps": self.warmup_steps,
                "updates_per_step": 1,
                "kl_coefficient": 0.0,
            }
        )
