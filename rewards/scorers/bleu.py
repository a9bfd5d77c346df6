"""bleu: n-grams of one to four words that a report shares with its reference.

Role: sacrebleu's sentence BLEU (13a tokens, case kept, exponential smoothing, effective order), reference counted once.
Input: answer and reference report. Output: BLEU (Papineni et al. 2002) of one text, 0-1.
"""

from __future__ import annotations

from collections.abc import Sequence

from rewards import ngrams
from rewards.resources import Resources
from rewards.scorer import NoParams, Results, ScoreItem, Scorer
from schemas.group import Score


def _score(item: ScoreItem) -> Score:
    from sacrebleu.metrics.bleu import BLEU

    prediction, reference = ngrams.ngrams(item.answer), ngrams.reference_ngrams(item)
    bleu = BLEU.compute_bleu(
        correct=list(ngrams.matches(prediction, reference)),
        total=prediction.totals(),
        sys_len=prediction.tokens,
        ref_len=reference.tokens,
        smooth_method="exp",
        effective_order=True,
        max_ngram_order=ngrams.ORDER,
    )
    # Equal texts get 100.00000000000004: exp and log are rounded.
    return Score(value=min(1.0, bleu.score / 100.0), details={"brevity_penalty": bleu.bp})


def score(items: Sequence[ScoreItem], _: NoParams) -> Results:
    """One score an item."""
    return [_score(item) for item in items]


def _load(_: Resources) -> None:
    import sacrebleu.metrics.bleu  # noqa: F401 - so that the first request does not wait for it

    ngrams.load()


SCORER = Scorer(
    name="bleu",
    version="1",
    tasks=frozenset({"report", "conversation"}),
    range=(0.0, 1.0),
    direction="higher",
    needs=("reference.report",),
    params=NoParams,
    score=score,
    load=_load,
    summary="sacrebleu's sentence BLEU with effective order, divided by 100",
)
