"""green: a judge's count of matched findings against clinically significant errors.

Role: GREEN (Ostmeier et al., EMNLP Findings 2024, arXiv 2405.03595), asked of its own 7B model through an endpoint.
Input: answer and reference report. Output: matched / (matched + significant errors), 0-1, and every count.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from pydantic import Field

from rewards.judging import Judgement, UnparsableError, judged, settings_of
from rewards.quoting import harmless
from rewards.resources import Resources
from rewards.scorer import ScoreItem, Scorer
from schemas.base import Settings
from schemas.group import Score, ScoreError

# The categories (a) to (f) of the paper.
ERRORS = (
    "false_finding",
    "missing_finding",
    "wrong_location",
    "wrong_severity",
    "false_comparison",
    "missing_comparison",
)
_SIGNIFICANT = "Clinically Significant Errors"
_INSIGNIFICANT = "Clinically Insignificant Errors"
_MATCHED = "Matched Findings"

_CHAT_TEMPLATE = Path(__file__).parents[1] / "green_chat_template.jinja"
_EXAMPLE = f"vllm serve StanfordAIMI/GREEN-radllama2-7b --max-model-len 4096 --chat-template {_CHAT_TEMPLATE}"

_HEADING = re.compile(rf"^[ \t]*\[(?:Explanation|{_SIGNIFICANT}|{_INSIGNIFICANT}|{_MATCHED})\]", re.MULTILINE)
_ERROR_LINE = re.compile(r"\(([a-f1-6])\)(.*)", re.DOTALL)
# A category's mark, however it is written ("segment 6)" is none), and any count.
_MARK = re.compile(r"\([a-f1-6]\)|(?<!\w)[a-f]\)", re.IGNORECASE)
_ANY_COUNT = re.compile(r":[ \t]*[0-9]")
_ERROR_COUNT = re.compile(r":[ \t]*([0-9]{1,3})(?:\.(?![0-9])|[ \t]*$)")
_MATCHED_COUNT = re.compile(r"^[ \t]*([0-9]{1,3})(?:\.(?![0-9])|[ \t]*$)", re.MULTILINE)
_NONE = re.compile(r"(?:None|No)\b\D*\Z")


class GreenParams(Settings):
    """Parameters of green."""

    max_words: int = Field(
        default=300,
        ge=1,
        le=10_000,
        description="words of each report that the judge reads; 300 as published, more needs a judge of longer context",
    )


@cache
def _prompt() -> str:
    # The words are the model's training format (the GREEN package's prompt): it answers in the form that is parsed
    # below because it was trained on exactly these.
    return (Path(__file__).parents[1] / "green_prompt.txt").read_text()


def one_line(text: str, max_words: int) -> tuple[str, int]:
    """A report as the model was trained to read it, and how many of its words were left out.

    In this prompt a line break and a heading in square brackets are what separates data from instructions. So the text
    gets neither: all of it is one line, and its square brackets become round ones, which also keeps it from being
    quoted into the reply as a section of its own.
    """
    words = harmless(text).translate({ord("["): "(", ord("]"): ")"}).split()
    return " ".join(words[:max_words]), max(0, len(words) - max_words)


def _section(reply: str, name: str) -> str | None:
    """What follows a heading, up to the next heading; None where the reply has no such heading."""
    parts = reply.split(f"[{name}]:")
    if len(parts) > 2:
        raise UnparsableError(f"the section {name} comes {len(parts) - 1} times")
    return None if len(parts) == 1 else _HEADING.split(parts[1], maxsplit=1)[0].strip()


def _required(reply: str, name: str) -> str:
    section = _section(reply, name)
    if section is None:
        raise UnparsableError(f"the section {name} is missing")
    return section


def _says_none(section: str) -> bool:
    """Whether a section is "None." or "No errors.": one that goes on with a number or a category says more."""
    return _NONE.match(section) is not None and _MARK.search(section) is None


def _error_counts(section: str, name: str) -> dict[str, int]:
    """Errors by category; one that is not listed has none.

    Every line has to be understood: an error that is not counted makes the reward higher.
    """
    if _says_none(section):
        return dict.fromkeys(ERRORS, 0)
    counts: dict[str, int] = {}
    for line in filter(None, map(str.strip, section.split("\n"))):
        match = _ERROR_LINE.fullmatch(line)
        if match is None:
            raise UnparsableError(f"a line of {name} is no category")
        letter, text = match.groups()
        mark = _MARK.search(text)
        if mark is not None and _ANY_COUNT.search(text, mark.end()):
            raise UnparsableError(f"a line of {name} has two categories")
        category = ERRORS["abcdef".find(letter) if letter.isalpha() else int(letter) - 1]
        count = _ERROR_COUNT.search(text)
        if count is None:
            raise UnparsableError(f"a category of {name} has no count")
        if category in counts:
            raise UnparsableError(f"a category of {name} comes twice")
        counts[category] = int(count[1])
    if not counts:
        raise UnparsableError(f"the section {name} has no category")
    return dict.fromkeys(ERRORS, 0) | counts


def parse_reply(reply: str) -> Score:
    """GREEN of a judge's assessment: matched / (matched + significant errors), and 0 where nothing matched.

    Raises:
        UnparsableError: a section or a count is missing or comes twice, or a line of errors is in no known form. The
            published parser counts those as 0, which makes a cut-off reply a perfect one.
    """
    significant = _error_counts(_required(reply, _SIGNIFICANT), _SIGNIFICANT)
    section = _required(reply, _MATCHED)
    count = _MATCHED_COUNT.match(section)
    if count is None and not _says_none(section):
        raise UnparsableError(f"the section {_MATCHED} has no count")
    matched = int(count[1]) if count else 0
    errors = sum(significant.values())
    details = {"matched": float(matched), "significant": float(errors)}
    details.update({name: float(number) for name, number in significant.items()})
    insignificant = _section(reply, _INSIGNIFICANT)
    if insignificant is not None:
        details["insignificant"] = float(sum(_error_counts(insignificant, _INSIGNIFICANT).values()))
    return Score(value=matched / (matched + errors) if matched else 0.0, details=details)


async def judge(item: ScoreItem, params: GreenParams, resources: Resources) -> Score | ScoreError:
    """The judge's score of one item."""
    if not item.answer.strip():
        return Score(value=0.0)  # nothing matched; no judge is needed to see that
    candidate, unread = one_line(item.answer, params.max_words)
    reference, reference_unread = one_line(item.reference.report or "", params.max_words)
    prompt = _prompt().format(reference=reference, candidate=candidate)
    result = await judged("green", resources, Judgement(prompt, parse_reply))
    if isinstance(result, ScoreError):
        return result
    unread_words = {"unread_words": float(unread), "reference_unread_words": float(reference_unread)}
    return Score(value=result.value, details=result.details | unread_words)


def _load(resources: Resources) -> None:
    settings_of("green", resources, _EXAMPLE)


SCORER = Scorer(
    name="green",
    version="2",  # 2: every line of errors has to be understood
    tasks=frozenset({"report"}),
    range=(0.0, 1.0),
    direction="higher",
    needs=("reference.report",),
    params=GreenParams,
    judge=judge,
    tier="judge",
    load=_load,
    summary="matched findings / (matched findings + clinically significant errors), as the GREEN model counts them",
)
