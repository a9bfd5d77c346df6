"""Reports: what is said and asked about a phantom film, in a small vocabulary.

Role: report sentences, questions and box answers. Input: findings, boxes, a seeded generator.
Output: text. Every sentence uses terms that a CheXpert-style labeller knows. The first wording of each is the
commonest, so that a policy can learn which one to prefer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby, product

import numpy as np

from prompts.anatomy import SIDES
from prompts.findings import Finding, Kind
from schemas.prompt import Box

_WORDING_SHARES = (0.6, 0.25, 0.15)

_NORMAL_HEART = ("The heart size is normal.", "The heart is normal in size.", "No cardiomegaly.")
_CLEAR_LUNGS = ("The lungs are clear.", "No focal consolidation.", "There is no focal consolidation.")
_NO_EFFUSION_OR_PNEUMOTHORAX = (
    "No pleural effusion or pneumothorax.",
    "There is no pleural effusion or pneumothorax.",
    "No effusion or pneumothorax.",
)
_NO_EFFUSION = ("No pleural effusion.", "There is no pleural effusion.", "No effusion.")
_NO_PNEUMOTHORAX = ("No pneumothorax.", "There is no pneumothorax.", "No evidence of pneumothorax.")
_BILATERAL = (
    "There are bilateral pleural effusions.",
    "Bilateral pleural effusions are present.",
    "Bilateral pleural effusions.",
)
_PRESENT: dict[Kind, tuple[str, str, str]] = {
    "cardiomegaly": ("There is cardiomegaly.", "Cardiomegaly is present.", "The heart is enlarged with cardiomegaly."),
    "consolidation": (
        "There is consolidation in the {side} {zone} lung.",
        "Consolidation is present in the {side} {zone} lung.",
        "Focal consolidation in the {side} {zone} lung.",
    ),
    "nodule": (
        "There is a nodule in the {side} {zone} lung.",
        "A nodule is present in the {side} {zone} lung.",
        "Nodule in the {side} {zone} lung.",
    ),
    "pleural effusion": (
        "There is a {size} {side} pleural effusion.",
        "A {size} {side} pleural effusion is present.",
        "{Size} {side} pleural effusion.",
    ),
    "pneumothorax": (
        "There is a {size} {side} pneumothorax.",
        "A {size} {side} pneumothorax is present.",
        "{Size} {side} pneumothorax.",
    ),
    "pacemaker": ("There is a {side} pacemaker.", "A {side} pacemaker is present.", "{Side} pacemaker."),
}

REPORT_QUESTIONS = (
    "Write a report of this chest film.",
    "Describe the findings of this chest film.",
    "What does this chest film show?",
)
_ONE_BOX_QUESTIONS = ("Where is the {noun}?", "Locate the {noun}.", "Show the {noun} with a box.")
_MANY_BOXES_QUESTIONS = ("Where are the {noun}?", "Locate the {noun}.", "Show the {noun} with boxes.")
ANATOMY_NOUNS = ("heart", "left lung", "right lung", "lungs")


def report_sentences(findings: Sequence[Finding], rng: np.random.Generator) -> list[str]:
    """The true report in a fixed order: heart, lungs, pleura, devices; 3-5 sentences, wordings drawn at random."""
    said = {kind: _positive(kind, list(same), rng) for kind, same in groupby(findings, key=lambda f: f.kind)}
    heart = said.get("cardiomegaly") or _pick(_NORMAL_HEART, rng)
    lungs = [said[kind] for kind in ("consolidation", "nodule") if kind in said] or [_pick(_CLEAR_LUNGS, rng)]
    effusion, pneumothorax = said.get("pleural effusion"), said.get("pneumothorax")
    if effusion is None and pneumothorax is None:
        pleura = [_pick(_NO_EFFUSION_OR_PNEUMOTHORAX, rng)]
    else:
        pleura = [effusion or _pick(_NO_EFFUSION, rng), pneumothorax or _pick(_NO_PNEUMOTHORAX, rng)]
    devices = [said["pacemaker"]] if "pacemaker" in said else []
    return [heart, *lungs, *pleura, *devices]


def _positive(kind: Kind, same: Sequence[Finding], rng: np.random.Generator) -> str:
    if len(same) > 1:
        return _pick(_BILATERAL, rng)
    side, zone = same[0].slot or ("", "")
    return _fill(_pick(_PRESENT[kind], rng), side, zone, same[0].size)


def _fill(pattern: str, side: str, zone: str, size: str) -> str:
    return pattern.format(side=side, zone=zone, size=size, Side=side.capitalize(), Size=size.capitalize())


def _pick(wordings: Sequence[str], rng: np.random.Generator) -> str:
    return wordings[int(rng.choice(len(wordings), p=_WORDING_SHARES))]


def finding_noun(kind: Kind, sides: Sequence[str | None]) -> str:
    """How a question names all findings of one kind, e.g. ``left pleural effusion`` or ``pleural effusions``."""
    if len(sides) > 1:
        return f"{kind}s"
    return f"{sides[0]} {kind}" if kind in ("pleural effusion", "pneumothorax") else kind


def grounding_question(noun: str, box_count: int, rng: np.random.Generator) -> str:
    """A question after the boxes of ``noun``."""
    wordings = _ONE_BOX_QUESTIONS if box_count == 1 else _MANY_BOXES_QUESTIONS
    return _pick(wordings, rng).format(noun=noun)


def grounding_answer(noun: str, boxes: Sequence[Box]) -> str:
    """The answer in ``radvlm`` format, e.g. ``The heart is located at [0.35, 0.45, 0.70, 0.80].``"""
    written = [format_box(box) for box in boxes]
    listed = written[0] if len(written) == 1 else f"{', '.join(written[:-1])} and {written[-1]}"
    return f"The {noun} {'is' if len(written) == 1 else 'are'} located at {listed}."


def format_box(box: Box) -> str:
    """``[x1, y1, x2, y2]``, 0-1, two decimals."""
    return f"[{', '.join(f'{value:.2f}' for value in box.corners)}]"


def truth_corpus() -> Iterator[str]:
    """Every question, every true sentence, and box answers in which each of the 101 coordinates occurs."""
    yield from REPORT_QUESTIONS
    fixed = (_NORMAL_HEART, _CLEAR_LUNGS, _NO_EFFUSION_OR_PNEUMOTHORAX, _NO_EFFUSION, _NO_PNEUMOTHORAX, _BILATERAL)
    for wordings in fixed:
        yield from wordings
    for patterns in _PRESENT.values():
        for pattern, side, zone, size in product(patterns, SIDES, ("upper", "lower"), ("small", "large")):
            yield _fill(pattern, side, zone, size)
    one = [*ANATOMY_NOUNS[:3], *(finding_noun(kind, [side]) for kind, side in product(_PRESENT, SIDES))]
    many = ["lungs", "pleural effusions"]
    for noun in one:
        yield from (question.format(noun=noun) for question in _ONE_BOX_QUESTIONS)
    for noun in many:
        yield from (question.format(noun=noun) for question in _MANY_BOXES_QUESTIONS)
    for step in range(100):
        box = Box(x1=step / 100, y1=step / 100, x2=(step + 1) / 100, y2=1.0)
        yield grounding_answer(one[step % len(one)], [box])
        yield grounding_answer(many[step % len(many)], [box, box])
