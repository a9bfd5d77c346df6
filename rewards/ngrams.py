"""N-grams of words, 1 to 4 words long, as BLEU and GLEU count them.

Role: sacrebleu's 13a tokens and n-grams, shared by the scorers so that a reference is counted once.
Input: a text. Output: how often each n-gram occurs in it; the clipped matches of two texts by order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

from rewards.references import REFERENCES
from rewards.scorer import ScoreItem

ORDER = 4
_BYTES = 200  # of one n-gram: its tuple, its place in the dictionary, its share of the words


@dataclass(frozen=True, slots=True)
class Ngrams:
    """The n-grams of a text, and its number of tokens."""

    counts: Counter[tuple[str, ...]]
    tokens: int

    def __sizeof__(self) -> int:
        # For the reference cache: visiting every n-gram to weigh it would take longer than counting them.
        return _BYTES * len(self.counts)

    def totals(self) -> list[int]:
        """How many n-grams of 1, 2, 3 and 4 tokens the text has."""
        return [max(0, self.tokens - order) for order in range(ORDER)]


@cache
def _count() -> Callable[[str], Ngrams]:
    from sacrebleu.metrics.helpers import extract_all_word_ngrams
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a
    from sacrebleu.tokenizers.tokenizer_re import TokenizerRegexp

    tokenizer = Tokenizer13a()  # type: ignore[no-untyped-call]
    # Both keep their last 65,536 texts. Answers are seldom written twice, and a process would fill up with them.
    caches = (Tokenizer13a.__call__, TokenizerRegexp.__call__)

    def count(text: str) -> Ngrams:
        tokenized = tokenizer(text.rstrip())
        for kept in caches:
            kept.cache_clear()
        return Ngrams(*extract_all_word_ngrams(tokenized, 1, ORDER))

    return count


def load() -> None:
    """Imports what counts, so that the first request does not wait for it."""
    _count()


def ngrams(text: str) -> Ngrams:
    """The n-grams of a text, case kept, punctuation apart from words."""
    return _count()(text)


def reference_ngrams(item: ScoreItem) -> Ngrams:
    """The n-grams of an item's reference report, counted once a process."""
    return REFERENCES.get("ngrams", item.reference.report or "", ngrams)


def matches(prediction: Ngrams, reference: Ngrams) -> Sequence[int]:
    """How many n-grams of 1, 2, 3 and 4 tokens the texts share; each counts as often as both have it."""
    shared = [0] * ORDER
    for ngram, count in prediction.counts.items():
        in_reference = reference.counts.get(ngram)
        if in_reference is not None:
            shared[len(ngram) - 1] += min(count, in_reference)
    return shared
