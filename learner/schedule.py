"""The learning-rate schedule as a pure function of the update's number.

Input: peak, shape, warm-up, length. Output: the learning rate. No state: a resumed run only needs its counter.
"""

from __future__ import annotations

import math

from learner.settings import Schedule


def learning_rate_at(update: int, *, peak: float, schedule: Schedule, warmup_updates: int, total_updates: int) -> float:
    """The learning rate of update number ``update`` (0 = first).

    Linear warm-up: the first update already has ``peak / (warmup_updates + 1)``, since a rate of 0 would waste it.
    Cosine: from ``peak`` at the end of the warm-up to 0 at ``total_updates``; updates beyond the end stay at 0.
    """
    if update < warmup_updates:
        return peak * (update + 1) / (warmup_updates + 1)
    if schedule == "constant":
        return peak
    progress = (update - warmup_updates) / max(1, total_updates - warmup_updates)
    return peak * 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))
