"""Reward: the weighted sum of scores that the recipe names.

Role: the only place where scores become one number.
Input: a completion's scores and errors, weights by scorer. Output: the reward, or None where a score is missing.
"""

from __future__ import annotations

from collections.abc import Mapping

from schemas.group import Score, ScoreError


def combine(
    scores: Mapping[str, Score], errors: Mapping[str, ScoreError], weights: Mapping[str, float]
) -> float | None:
    """The reward: the sum of ``weight * value`` over the weighted scorers.

    None, never a stand-in number, where a scorer with a weight other than 0 has no score or an error, or where there
    is no such scorer.
    """
    names = [name for name, weight in weights.items() if weight != 0.0]
    if not names or any(name in errors or name not in scores for name in names):
        return None
    return sum(weights[name] * scores[name].value for name in names)
