"""What a training step reports: the learner's keys of metrics.jsonl.

Input: each update's sums, and each group's log-probabilities before the step. Output: numbers over all ranks.
A number that isn't finite, or that the step doesn't have, is None: JSON has no NaN.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from learner.collectives import max_over_ranks, sum_over_ranks
from schemas.group import RolloutGroup


@dataclass(frozen=True)
class UpdateSums:
    """One update's sums over the trained tokens of this rank.

    Attributes:
        loss, kl, clipped: summed over tokens.
        tokens: trained tokens of all ranks (the normaliser).
        grad_norm: global, before clipping; not finite where the update was skipped.
        applied: False where DeepSpeed skipped it.
    """

    loss: float
    kl: float
    clipped: float
    tokens: float
    grad_norm: float
    applied: bool


def finite(value: float) -> float | None:
    """The number itself, or None for NaN and infinities."""
    return value if math.isfinite(value) else None


def update_metrics(updates: Sequence[UpdateSums], device: torch.device) -> dict[str, float | None]:
    """Collective: loss, kl, clip_fraction and grad_norm as means over the updates of token means; skipped updates."""
    sums = sum_over_ranks([x for u in updates for x in (u.loss, u.kl, u.clipped)], device)
    token_means = np.array(sums).reshape(len(updates), 3) / np.array([[u.tokens] for u in updates])
    loss, kl, clip_fraction = token_means.mean(axis=0).tolist()
    applied = [u.grad_norm for u in updates if u.applied]
    return {
        "loss": finite(loss),
        "kl": finite(kl),
        "clip_fraction": finite(clip_fraction),
        "grad_norm": finite(float(np.mean(applied))) if applied else None,
        "updates_skipped": float(len(updates) - len(applied)),
    }


def token_metrics(
    groups: Sequence[RolloutGroup], logprobs: Mapping[int, Tensor], version: int, device: torch.device
) -> dict[str, float | None]:
    """Collective: staleness, and the largest |learner - rollout| log-probability of own and of older tokens.

    Args:
        groups: this rank's.
        logprobs: per index into ``groups``, the learner's log-probabilities before the step, one a token.
        version: policy version of the weights before the step.
    """
    own_gap, older_gap, oldest = -math.inf, -math.inf, -math.inf
    staleness_sum, tokens, bad = 0.0, 0, 0
    for index, group in enumerate(groups):
        if not group.token_count:
            continue
        rollout_T = np.concatenate([c.rollout_logprobs for c in group.completions])
        staleness_T = version - np.concatenate([c.version_of_tokens() for c in group.completions])
        gap_T = np.abs(logprobs[index].double().numpy() - rollout_T)
        bad += int(np.isnan(gap_T).sum())
        own_gap = max(own_gap, gap_T.max(initial=-math.inf, where=staleness_T == 0))
        older_gap = max(older_gap, gap_T.max(initial=-math.inf, where=staleness_T > 0))
        oldest = max(oldest, float(staleness_T.max()))
        staleness_sum += float(staleness_T.sum())
        tokens += len(gap_T)
    own_gap, older_gap, oldest = max_over_ranks([own_gap, older_gap, oldest], device)
    staleness_sum, all_tokens, bad_tokens = sum_over_ranks([staleness_sum, float(tokens), float(bad)], device)
    # max() may skip a NaN, and a skipped NaN would look like agreement.
    return {
        "logprob_gap/max": None if bad_tokens else finite(own_gap),
        "policy_gap/max": None if bad_tokens else finite(older_gap),
        "staleness/mean": staleness_sum / all_tokens if all_tokens else None,
        "staleness/max": finite(oldest),
    }
