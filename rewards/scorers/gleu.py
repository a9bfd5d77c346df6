"""gleu: the smaller of n-gram precision and n-gram recall.

Role: the score of one sentence that Wu et al. 2016 (arXiv 1609.08144, 5.2) train with; nltk's sentence_gleu over BLEU's
tokens, without the seconds that importing nltk takes.
Input: answer and reference report. Output: shared n-grams of 1 to 4 words / n-grams of the longer text, 0-1.
"""

from __future__ import annotations

from collections.abc import Sequence

from rewards import ngrams
from rewards.resources import Resources
from rewards.scorer import NoParams, Results, ScoreItem, Scorer
from schemas.group import Score


def gleu(prediction: ngrams.Ngrams, reference: ngrams.Ngrams) -> tuple[float, float, float]:
    """(GLEU, precision, recall); 0 where either side has no word."""
    shared = sum(ngrams.matches(prediction, reference))
    if shared == 0:
        return 0.0, 0.0, 0.0
    precision, recall = shared / sum(prediction.totals()), shared / sum(reference.totals())
    return min(precision, recall), precision, recall


def score(items: Sequence[ScoreItem], _: NoParams) -> Results:
    """One score an item."""
    results: Results = []
    for item in items:
        value, precision, recall = gleu(ngrams.ngrams(item.answer), ngrams.reference_ngrams(item))
        results.append(Score(value=value, details={"precision": precision, "recall": recall}))
    return results


def _load(_: Resources) -> None:
    ngrams.load()


SCORER = Scorer(
    name="gleu",
    version="1",
    tasks=frozenset({"report", "conversation"}),
    range=(0.0, 1.0),
    direction="higher",
    needs=("reference.report",),
    params=NoParams,
    score=score,
    load=_load,
    summary="smaller of precision and recall over n-grams of one to four words",
)
