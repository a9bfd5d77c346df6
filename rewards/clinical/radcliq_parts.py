"""RadCliQ's parts of a batch: RadGraph, BERTScore, CheXbert and BLEU-2, all of the reports in lower case.

Role: what radcliq_v1 and radcliq_v0 share; the arithmetic is in rewards/radcliq.py.
Input: ScoreItems. Output: one Score or ScoreError an item; a Score's details carry the four parts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rewards.clinical import bertscore, chexbert, radgraph, radgraph_archive
from rewards.clinical.weights import every, in_use
from rewards.radcliq import Parts, bigrams, bleu_2
from rewards.radgraph_match import reward_f1
from rewards.references import REFERENCES
from rewards.resources import Resources
from rewards.scorer import Results, ScoreItem
from schemas.group import Score, ScoreError

LOWEST = Parts(radgraph=0.0, bertscore=bertscore.LOWEST_F1, chexbert=-1.0, bleu=0.0)
HIGHEST = Parts(radgraph=1.0, bertscore=1.0, chexbert=1.0, bleu=1.0)


def load_parts(resources: Resources) -> None:
    """Loads all three models. Raises NotReadyError that names everything that is missing."""
    every(
        lambda: radgraph.load_radgraph(resources),
        lambda: chexbert.load_chexbert(resources),
        lambda: bertscore.load_bertscore(resources),
    )


def score_parts(name: str, items: Sequence[ScoreItem], combine: Callable[[Parts], float]) -> Results:
    """One Score an item: ``combine`` of its four parts.

    A blank answer has nothing in common with its reference: its parts are 0.
    """
    refusals = [_refusal(name, item) for item in items]
    asked = [item for item, refusal in zip(items, refusals, strict=True) if refusal is None]
    scores = iter(_scores(asked, combine))
    return [refusal or next(scores) for refusal in refusals]


def _refusal(name: str, item: ScoreItem) -> ScoreError | None:
    report = item.reference.report or ""
    if not report.strip():
        return ScoreError(code="missing_input", message=f"{name} needs a reference report that is not blank")
    return radgraph.too_long(name, item)


def _scores(items: Sequence[ScoreItem], combine: Callable[[Parts], float]) -> list[Score]:
    answers = [item.answer.lower() for item in items]
    reports = [(item.reference.report or "").lower() for item in items]
    graphs = in_use(radgraph_archive.MODEL, radgraph.RadGraph).graphs
    rows = zip(
        zip(graphs(answers), REFERENCES.get_many("radgraph", reports, graphs), strict=True),
        zip(bertscore.embed(answers), bertscore.reference_embeddings(reports), strict=True),
        zip(chexbert.find(answers), chexbert.reference_findings(reports), strict=True),
        zip(answers, reports, strict=True),
        strict=True,
    )
    scores = []
    for graph, embedded, finding, (answer, report) in rows:
        parts = Parts(
            radgraph=reward_f1(*graph),
            bertscore=bertscore.agreement(*embedded).f1,
            chexbert=chexbert.similarity(*finding),
            bleu=bleu_2(bigrams(answer), REFERENCES.get("bigrams", report, bigrams)),
        )
        cut, reference_cut = (max(embedded[side].truncated, finding[side].truncated) for side in (0, 1))
        details = {**parts._asdict(), "truncated": cut, "reference_truncated": reference_cut}
        scores.append(Score(value=combine(parts), details=details))
    return scores
