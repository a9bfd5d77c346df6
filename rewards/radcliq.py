"""RadCliQ: four measures of agreement, weighed as radiologists' error counts weigh them (Yu et al. 2023).

Role: pure arithmetic, both published versions, and the BLEU-2 that they were fitted with.
Input: a pair's four parts. Output: RadCliQ; lower is better.
"""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise
from typing import NamedTuple


class Parts(NamedTuple):
    """How far a report agrees with its reference, four times; higher is better.

    Attributes:
        radgraph: mean of entity F1 and relation F1, 0-1.
        bertscore: rescaled F1, at most 1.
        chexbert: cosine of the embeddings, -1 to 1.
        bleu: BLEU-2, 0-1.
    """

    radgraph: float
    bertscore: float
    chexbert: float
    bleu: float


class _Model(NamedTuple):
    """A linear model of standardised parts."""

    means: Parts
    scales: Parts
    coefficients: Parts
    intercept: float

    def __call__(self, parts: Parts) -> float:
        terms = zip(parts, self.means, self.scales, self.coefficients, strict=True)
        return self.intercept + sum(weight * (part - mean) / scale for part, mean, scale, weight in terms)


# Fitted by the authors (rajpurkarlab/CXR-Report-Metric, radcliq-v1.pkl); BLEU has no weight left in it.
_V1 = _Model(
    means=Parts(0.53792312, 0.61757256, 0.76479421, 0.44738335),
    scales=Parts(0.30282584, 0.22430938, 0.25394391, 0.29892717),
    coefficients=Parts(-0.377083683, -0.370300100, -0.252616218, 4.31504841e-12),
    intercept=2.46655256e-10,
)
# The first version, its parameters rounded to five places. More BLEU makes it worse, all else being equal.
_V0 = _Model(
    means=Parts(0.53984, 0.63125, 0.77168, 0.46074),
    scales=Parts(0.30183, 0.22467, 0.24750, 0.30337),
    coefficients=Parts(-0.47963, -0.67622, -0.46367, 0.21659),
    intercept=1.64167,
)


def radcliq_v1(parts: Parts) -> float:
    """RadCliQ-v1: -1.4407 for two equal reports, 2.4501 for two that have nothing in common."""
    return _V1(parts)


def radcliq_v0(parts: Parts) -> float:
    """RadCliQ-v0: -0.2421 for two equal reports, 5.5162 for two that have nothing in common."""
    return _V0(parts)


class Bigrams(NamedTuple):
    """What BLEU-2 counts of a text: its words and its pairs of neighbours."""

    words: Counter[str]
    pairs: Counter[tuple[str, str]]


def bigrams(text: str) -> Bigrams:
    """A text as RadCliQ reads it for BLEU: in lower case, split at white space, each full stop a word of its own."""
    words = text.lower().replace(".", " .").split()
    return Bigrams(Counter(words), Counter(pairwise(words)))


def bleu_2(prediction: Bigrams, reference: Bigrams) -> float:
    """Sentence BLEU of words and pairs, weighed alike; 0 where no word is shared (Papineni et al. 2002).

    fast-bleu's defaults: a precision of nothing counts as 0.1 hits (Chen and Cherry 2014, smoothing 1), and the
    denominator is at least 1.
    """
    length, reference_length = prediction.words.total(), reference.words.total()
    shared_words = (prediction.words & reference.words).total()
    shared_pairs = (prediction.pairs & reference.pairs).total()
    if shared_words == 0:
        return 0.0
    precision = shared_words / length * max(shared_pairs, 0.1) / max(length - 1, 1)
    brevity = 1.0 if length > reference_length else math.exp(1.0 - reference_length / length)
    return brevity * math.sqrt(precision)
