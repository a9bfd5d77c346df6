"""prior_references: how much of a report speaks of earlier films that the model was not shown?

Role: a guard against invented comparisons ("unchanged", "compared with the prior"), which annotators' reports teach.
Input: a report. Output: the share of its sentences that refer to an earlier film, 0-1; lower is better.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from rewards.scorer import NoParams, ScoreItem, Scorer
from rewards.text import sentences
from schemas.group import Score, ScoreError

_FILM = (
    r"(?:chest |frontal |portable |ap |pa |ct |comparison )*(?:study|studies|exams?|examinations?|films?|"
    r"radiographs?|x-?rays?|images?|imaging|ct|scans?)"
)
_PRIOR = re.compile(
    "|".join(
        (
            r"\bunchanged\b",
            r"\bno(?: \w+){0,3} change\b",
            r"\bnot(?: \w+)? changed\b",
            r"\bchanged? (?:since|from|in the interval)\b",
            r"\b(?:is|are|remains?|appears?|overall|grossly|relatively) (?:\w+ )?(?:stable|similar)\b",
            r"\bstable\b",
            r"\bsimilar (?:to|in)\b",
            r"\bcompar(?:ed|ing|able) (?:to|with)\b",
            r"\b(?:in|by|for|no|as) comparisons?\b",
            r"\bcomparison\b(?: is made| study| film|:)",
            r"\binterval\b",
            rf"\b(?:prior|previous|preceding|earlier|old|last|most recent) {_FILM}\b",
            r"\b(?:than|from|to|with|since|on|as) (?:(?:the|a) )?(?:most recent |last )?(?:prior|previous|before|"
            r"earlier|yesterday)\b",
            r"\b(?:previously|formerly|earlier) (?:seen|noted|described|identified|demonstrated|visualized|reported"
            r"|present|mentioned)\b",
            r"\b(?:again|re-?demonstrated|redemonstration)\b",
            r"\b(?:remains?|persists?|persistent|persisting|continued|continues?|still|no longer)\b",
            r"\b(?:new|newly)\b(?! york)",
            r"\b(?:improved|improving|improvement|worsened|worsening|progressed|progressing|progressive|progression)\b",
            r"\b(?:resolved|resolving|resolution)\b",
            r"\b(?:has|have|had) (?:\w+ )?(?:increased|decreased|enlarged|cleared|developed|grown)\b",
            r"\b(?:increased|decreased|increase|decrease|larger|smaller|better|worse) (?:\w+ ){0,3}?(?:since|than|"
            r"from|compared)\b",
            r"\b(?:increasing|decreasing)\b",
            r"\b(?:has|have) been (?:\w+ )?(?:removed|placed|repositioned|advanced|withdrawn|extubated)\b",
        )
    )
)


def refers_to_prior(sentence: str) -> bool:
    """Whether one sentence speaks of an earlier film or of a change since one."""
    return _PRIOR.search(" ".join(sentence.lower().split())) is not None


def score(items: Sequence[ScoreItem], _: NoParams) -> list[Score | ScoreError]:
    """One score an item."""
    results: list[Score | ScoreError] = []
    for item in items:
        parts = sentences(item.answer)
        count = sum(refers_to_prior(part) for part in parts)
        # No sentence, no reference: a blank report is punished by the other scores, not here.
        share = count / len(parts) if parts else 0.0
        results.append(Score(value=share, details={"references": count, "sentences": len(parts)}))
    return results


SCORER = Scorer(
    name="prior_references",
    version="1",
    tasks=frozenset({"report"}),
    range=(0.0, 1.0),
    direction="lower",
    needs=(),
    params=NoParams,
    score=score,
    summary="share of sentences that refer to earlier films",
)
