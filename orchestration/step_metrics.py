"""One step's line of metrics.jsonl, from the groups' numbers, the learner's metrics and the clock."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from orchestration.cluster import Push
from orchestration.groups import GroupSummary, all_scores


@dataclass(frozen=True)
class StepTimes:
    """Seconds of one step: waiting for groups, training, pushing, and from the end of the last step to its own."""

    wait_for_groups_s: float
    train_s: float
    push_s: float
    step_s: float


def metrics_line(
    step: int,
    groups: Sequence[GroupSummary],
    drops: Counter[str],
    learner: Mapping[str, float | None],
    push: Push,
    times: StepTimes,
) -> dict[str, float | int | None]:
    """The line; keys as fixed in docs/architecture.md (rates in tokens per second, times in seconds, gaps in nats)."""
    rewards = [reward for group in groups for reward in group.rewards if reward is not None]
    tokens = [count for group in groups for count in group.token_counts]
    line: dict[str, float | int | None] = {
        "step": step,
        "policy_version": push.version,
        "reward/mean": float(np.mean(rewards)),
        "reward/std": float(np.std(rewards)),
        "groups/trained": len(groups),
        "groups/dropped": drops.total(),
        "groups/zero_advantage": sum(not group.has_signal for group in groups),
        "completions/unscored": sum(len(group.rewards) - group.scored for group in groups),
        "completion/tokens_mean": float(np.mean(tokens)),
        "rollout/tokens_per_s": sum(tokens) / times.step_s,
        "rollout/completions_per_s": len(tokens) / times.step_s,
        "push/canary_gap": push.canary_gap,
        "push/canary_s": push.canary_s,
        "push/pause_s": push.pause_s,
        "time/step_s": times.step_s,
        "time/wait_for_groups_s": times.wait_for_groups_s,
        "time/train_s": times.train_s,
        "time/push_s": times.push_s,
        "time/reward_s": float(np.mean([group.score_s for group in groups])),
    }
    for name, values in sorted(all_scores(groups).items()):
        line[f"score/{name}/mean"] = float(np.mean(values))
    return {**line, **learner}
