"""rouge_l: longest common subsequence of words between a report and its reference.

Role: the plainest report score. Words and stems are rouge-score's; the subsequence is counted in linear memory.
Input: answer and reference report, all of both. Output: ROUGE-L F1 (Lin 2004), 0-1.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache, lru_cache

from rewards.references import REFERENCES
from rewards.resources import Resources
from rewards.scorer import NoParams, ScoreItem, Scorer
from schemas.group import Score, ScoreError

_STEMS = 65_536  # words kept with their stems; the vocabulary of reports is smaller
_LONGEST_KEPT = 40  # characters; what is longer is no word, and would fill the memory
_WORD = re.compile(r"[a-z0-9]+")


@cache
def _stem() -> Callable[[str], str]:
    # Imported on first use: nltk takes seconds and 100 MB, which a process without scoring must not pay.
    from nltk.stem.porter import PorterStemmer  # type: ignore[import-untyped]

    stem: Callable[[str], str] = PorterStemmer().stem
    # Stemming would be most of this scorer's time, and most words have been seen before.
    cached = lru_cache(_STEMS)(stem)
    return lambda word: cached(word) if len(word) <= _LONGEST_KEPT else stem(word)


def _load(_: Resources) -> None:
    _stem()


def words(text: str) -> list[str]:
    """Lower-case alphanumeric words, stemmed where longer than three letters: rouge-score with ``use_stemmer=True``."""
    stem = _stem()
    return [stem(word) if len(word) > 3 else word for word in _WORD.findall(text.lower())]


def common_subsequence(first: Sequence[str], second: Sequence[str]) -> int:
    """Length of the longest common subsequence.

    Bit-parallel (Hyyrö 2004, "Bit-parallel LCS-length computation revisited"): a row of the table is one integer, so
    memory is linear. rouge-score's own table of two long texts would fill the memory.
    """
    positions: dict[str, int] = {}
    for index, word in enumerate(first):
        positions[word] = positions.get(word, 0) | 1 << index
    ones = (1 << len(first)) - 1
    row = ones
    for word in second:
        matches = row & positions.get(word, 0)
        row = ((row + matches) | (row - matches)) & ones
    return len(first) - row.bit_count()


def rouge_l(prediction: Sequence[str], reference: Sequence[str]) -> tuple[float, float, float]:
    """(F1, precision, recall) of two lists of words; 0 where either is empty."""
    common = common_subsequence(reference, prediction)
    if common == 0:
        return 0.0, 0.0, 0.0
    precision, recall = common / len(prediction), common / len(reference)
    return 2.0 * precision * recall / (precision + recall), precision, recall


def score(items: Sequence[ScoreItem], _: NoParams) -> list[Score | ScoreError]:
    """One score an item."""
    results: list[Score | ScoreError] = []
    for item in items:
        f1, precision, recall = rouge_l(words(item.answer), REFERENCES.get("words", item.reference.report or "", words))
        results.append(Score(value=f1, details={"precision": precision, "recall": recall}))
    return results


SCORER = Scorer(
    name="rouge_l",
    version="1",
    tasks=frozenset({"report", "conversation"}),
    range=(0.0, 1.0),
    direction="higher",
    needs=("reference.report",),
    params=NoParams,
    score=score,
    load=_load,
    summary="F1 of the longest common subsequence of stemmed words",
)
