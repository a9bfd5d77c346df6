"""Group-relative advantages (GRPO): each completion against its siblings.

Input: rewards of one group, None where a score is missing. Output: advantages, None where there is no reward.
Pure numpy: the process that computes them needs no torch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

EPSILON = 1e-6  # the paper's; keeps a group of equal rewards at exactly zero instead of 0/0
MIN_SCORED = 2  # one reward alone has no siblings to be compared with


def group_advantages(rewards: Sequence[float | None]) -> list[float | None]:
    """(reward - mean) / (std + 1e-6) over the scored completions, with the unbiased std (arXiv 2402.03300, eq. 3).

    Args:
        rewards: one per completion of a group; None = no reward, and no part in mean and std.

    Returns:
        One per completion; None stays None, and all are None where fewer than two completions have a reward.
    """
    scored = np.array([reward for reward in rewards if reward is not None], dtype=np.float64)
    if scored.size < MIN_SCORED:
        return [None] * len(rewards)
    mean = scored.mean()
    spread = scored.std(ddof=1) + EPSILON
    if np.all(scored == scored[0]):
        # The mean of equal numbers can be off by one ulp; divided by 1e-6 that would look like a signal.
        mean = scored[0]
    return [None if reward is None else float((reward - mean) / spread) for reward in rewards]
