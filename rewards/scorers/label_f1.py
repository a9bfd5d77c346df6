"""label_f1: does an answer name the reference's labels, and no others?

Role: the classification score. Labels are what the answer lists, compared as words: no synonyms, no vocabulary.
Input: an answer that lists findings, reference labels. Output: F1 = 2tp / (2tp + fp + fn), 0-1; tp, fp and fn are in
the details, their sums over samples give the corpus's micro F1.

How an answer (and, alike, each reference label) is read:

- Sentences and lines are read one by one; what stands before the last colon of one is a lead-in ("The following
  abnormalities are present:") and not read.
- A code fence's line is passed over.
- Comma, semicolon, "&" and "and" separate labels. Not "or" and not "/": "Nodule/Mass" is one label.
- Case, punctuation, underscores, quotes, brackets, list marks, a leading article and repeats do not matter.
- "No finding" (also "no abnormalities", "clear of any abnormalities", "none", "normal") stands for the empty set.
  Beside other labels, as in ("No Finding", "Support Devices"), it says nothing.
- A denial ("no edema", "without effusion") claims nothing and is passed over, unless it is in the reference's own
  words: a label may hold a "no" ("Nodule without calcification").
- Everything else is a label that is claimed; what the reference does not have is a false positive, prose included.

Neither side with a label: ``empty_match_value`` if the answer says "no finding", 0 if it only says nothing.
Longer lists cost precision, so naming every label does not pay; always answering "No finding" earns the share of films
without one, so a training set needs both kinds.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence, Set
from typing import NamedTuple

from rewards.grounding import EmptyMatchParams
from rewards.references import REFERENCES
from rewards.scorer import ScoreItem, Scorer
from schemas.group import Score, ScoreError

_FENCE = "```"
_STATEMENT_END = re.compile(r"\n|(?<=[.!?])\s+")
_SEPARATOR = re.compile(r"[,;&]|\band\b")
_WORD = re.compile(r"[^\W_]+")
_ARTICLES = frozenset({"a", "an", "the"})
_DENIALS = frozenset({"no", "not", "without"})
_NO_FINDING = re.compile(
    r"(?:none|nothing|normal(?: chest)?(?: x ray| radiograph| film| study| image)?)$|"
    r".*\b(?:no|without|clear of|free of)"
    r"(?: (?:any|other|acute|significant|detectable|visible|relevant|cardiopulmonary|signs?|evidence|of)){0,4}"
    r" (?:findings?|abnormalit(?:y|ies))\b"
)


class Labels(NamedTuple):
    """What a text claims: labels, and whether it says that there is nothing to find."""

    names: frozenset[str]
    says_none: bool


def _name(part: str) -> str:
    """A lower-case label as it is compared: its words, without list number and article."""
    words = _WORD.findall(part)
    start = 0
    while start < len(words) and (words[start].isdigit() or words[start] in _ARTICLES):
        start += 1
    return " ".join(words[start:])


def _parts(text: str) -> Iterator[str]:
    """The parts of a text's lists, as they are compared."""
    for statement in _STATEMENT_END.split(text.lower()):
        if not statement.startswith(_FENCE):
            yield from filter(None, map(_name, _SEPARATOR.split(statement.rpartition(":")[2])))


def read_labels(text: str, reference: Set[str] = frozenset()) -> Labels:
    """The labels that a text lists, by the rules above; any string is fine. Linear in its length.

    Args:
        text: an answer.
        reference: the names of the reference's labels, which are no denials.
    """
    names: set[str] = set()
    says_none = False
    for name in _parts(text):
        if _NO_FINDING.match(name):
            says_none = True
        elif name in reference or _DENIALS.isdisjoint(name.split()):
            names.add(name)
    return Labels(frozenset(names), says_none)


def _reference_names(labels: tuple[str, ...]) -> frozenset[str]:
    return frozenset(name for name in _parts("\n".join(labels)) if not _NO_FINDING.match(name))


def f1(true_positives: int, false_positives: int, false_negatives: int) -> float:
    """2tp / (2tp + fp + fn), 0-1; one side has a label."""
    return 2.0 * true_positives / (2 * true_positives + false_positives + false_negatives)


def _score(item: ScoreItem, params: EmptyMatchParams) -> Score:
    reference = REFERENCES.get("label_names", item.reference.labels or (), _reference_names)
    predicted = read_labels(item.answer, reference)
    hits = len(predicted.names & reference)
    false_positives, false_negatives = len(predicted.names) - hits, len(reference) - hits
    if predicted.names or reference:
        value = f1(hits, false_positives, false_negatives)
    else:
        value = params.empty_match_value if predicted.says_none else 0.0
    details = {
        "true_positives": hits,
        "false_positives": false_positives,
        "false_negatives": false_negatives,
    }
    return Score(value=value, details=details)


def score(items: Sequence[ScoreItem], params: EmptyMatchParams) -> list[Score | ScoreError]:
    """One score an item."""
    return [_score(item, params) for item in items]


SCORER = Scorer(
    name="label_f1",
    version="2",  # 2: a reference label may hold a "no"
    tasks=frozenset({"classification"}),
    range=(0.0, 1.0),
    direction="higher",
    needs=("reference.labels",),
    params=EmptyMatchParams,
    score=score,
    summary="F1 of the labels that an answer lists; 'No finding' is the empty set",
)
