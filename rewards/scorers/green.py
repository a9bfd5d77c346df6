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

_ERROR_LINE = re.compile(r"^[ \t]*\(([a-f1-6])\)(.*)$", re.MULTILINE)
_ERROR_COUNT = re.compile(r":[ \t]*([0-9]{1,3})(?:\.(?![0-9])|[ \t]*$)")
_MATCHED_COUNT = re.compile(r"^[ \t]*([0-9]{1,3})(?:\.(?![0-9])|[ \t]*$)", re.MULTILINE)
_NONE = re.compile(r"None\b|No\b")


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
    """What follows a heading, up to the next blank line; None where the reply has no such heading."""
    parts = reply.split(f"[{name}]:")
    if len(parts) > 2:
        raise UnparsableError(f"the section {name} comes {len(parts) - 1} times")
    return None if len(parts) == 1 else re.split(r"\n[ \t]*\n|\n[ \t]*\[", parts[1].strip(), maxsplit=1)[0]


def _required(reply: str, name: str) -> str:
    section = _section(reply, name)
    if section is None:
        raise UnparsableError(f"the section {name} is missing")
    return section


def _error_counts(section: str, name: str) -> dict[str, int]:
    """Errors by category; one that is not listed has none."""
    if _NONE.match(section):
        return dict.fromkeys(ERRORS, 0)
    counts: dict[str, int] = {}
    for letter, text in _ERROR_LINE.findall(section):
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
        UnparsableError: a section or a count is missing, or comes twice. The published parser counts those as 0, which
            makes a cut-off reply a perfect one.
    """
    significant = _error_counts(_required(reply, _SIGNIFICANT), _SIGNIFICANT)
    section = _required(reply, _MATCHED)
    count = _MATCHED_COUNT.match(section)
    if count is None and not _NONE.match(section):
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
    reference, _ = one_line(item.reference.report or "", params.max_words)
    prompt = _prompt().format(reference=reference, candidate=candidate)
    result = await judged("green", resources, Judgement(prompt, parse_reply))
    if isinstance(result, ScoreError):
        return result
    return Score(value=result.value, details={**result.details, "unread_words": float(unread)})


def _load(resources: Resources) -> None:
    settings_of("green", resources, _EXAMPLE)


SCORER = Scorer(
    name="green",
    version="1",
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
