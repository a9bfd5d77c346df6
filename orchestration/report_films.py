"""The report's examples: a few films with the truth, the answer before and the answer after.

Role: chooses the films without looking at any score, draws their boxes, sets the answers side by side.
Input: the groups of the two evaluations (one greedy completion each). Output: ``Film`` values for the template.
"""

from __future__ import annotations

import base64
import hashlib
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup
from PIL import Image

from prompts.images import load_image
from rewards.boxes import parse_boxes
from schemas.errors import DataError
from schemas.group import RolloutGroup
from schemas.prompt import Box, Prompt

MAX_FILMS = 8
MAX_PIXELS = 384  # longest side of an embedded picture; 8 of them stay below 0.5 MB
_JPEG_QUALITY = 86
_TEXT_LIMIT = 2000  # characters shown of one answer
_BOX_LIMIT = 20  # boxes drawn of one answer; a flood of boxes would hide the film
_WORD_LIMIT = 400  # words a side compared: the comparison's time grows with their product
_CHOICE_SEED = 0
# Their colours and dash patterns are the style sheet's: .box.reference, .box.before, .box.after.
_SOURCES = ("reference", "before", "after")

Key = tuple[str, str]


@dataclass(frozen=True)
class Answer:
    """One text with its scores. ``html`` marks the words that the reference doesn't have."""

    source: str
    html: Markup
    scores: tuple[tuple[str, float], ...] = ()
    errors: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Question:
    """One prompt about a film: its question, the truth, the answers."""

    task: str
    prompt_id: str
    text: str
    answers: tuple[Answer, ...]


@dataclass(frozen=True)
class Film:
    """One picture with its boxes, and what was asked about it. ``picture`` is a data URI, None where ``problem`` is."""

    study_id: str
    picture: str | None
    problem: str | None
    caption: str
    overlay: Markup
    questions: tuple[Question, ...]


@dataclass(frozen=True)
class _Pair:
    prompt: Prompt
    before: RolloutGroup | None
    after: RolloutGroup | None


def choose_films(before: Sequence[RolloutGroup], after: Sequence[RolloutGroup], count: int = MAX_FILMS) -> list[Film]:
    """The first ``count`` studies of an order drawn from their ids alone.

    Studies that hold every task of the evaluation come first, so that each example shows boxes and report where it
    can; of each task a study's first prompt in the same order is shown. No score takes part in the choice.
    """
    studies: dict[Key, dict[str, _Pair]] = {}
    for pair in sorted(_pairs(before, after), key=lambda pair: _draw(pair.prompt.prompt_id)):
        by_task = studies.setdefault((pair.prompt.dataset, pair.prompt.study_id), {})
        by_task.setdefault(pair.prompt.task, pair)
    tasks = {task for by_task in studies.values() for task in by_task}
    order = sorted(studies, key=lambda key: (set(studies[key]) != tasks, _draw("\n".join(key))))
    return [_film(key[1], list(studies[key].values())) for key in order[:count]]


def _draw(name: str) -> str:
    return hashlib.blake2b(f"{_CHOICE_SEED}\n{name}".encode(), digest_size=8).hexdigest()


def _pairs(before: Sequence[RolloutGroup], after: Sequence[RolloutGroup]) -> list[_Pair]:
    early = {group.prompt.prompt_id: group for group in before}
    late = {group.prompt.prompt_id: group for group in after}
    prompts = {group.prompt.prompt_id: group.prompt for group in (*before, *after)}
    return [_Pair(prompt, early.get(name), late.get(name)) for name, prompt in prompts.items()]


def _film(study_id: str, pairs: list[_Pair]) -> Film:
    pairs = sorted(pairs, key=lambda pair: (not _has_boxes(pair.prompt), pair.prompt.task))
    shown = next((pair for pair in pairs if pair.prompt.images), None)
    questions = tuple(_question(pair) for pair in pairs)
    if shown is None:
        return Film(study_id, None, "This prompt has no picture.", "", Markup(""), questions)
    images = shown.prompt.images
    caption = "" if len(images) == 1 else f"Picture 1 of {len(images)}."
    try:
        picture, width, height = _picture(shown.prompt)
    except DataError:
        # The data set may have moved since; its texts and scores are still worth showing.
        return Film(study_id, None, "The picture can't be read any more.", caption, Markup(""), questions)
    overlay = _overlay(shown, width, height) if _has_boxes(shown.prompt) else Markup("")
    return Film(study_id, picture, None, caption, overlay, questions)


def _has_boxes(prompt: Prompt) -> bool:
    return prompt.box_format is not None and prompt.task == "grounding"


def _picture(prompt: Prompt) -> tuple[str, int, int]:
    """The prompt's first picture as a data URI, and its width and height as embedded."""
    picture = Image.fromarray(load_image(prompt.images[0]))
    picture.thumbnail((MAX_PIXELS, MAX_PIXELS), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, format="JPEG", quality=_JPEG_QUALITY)
    code = base64.b64encode(buffer.getvalue()).decode("ascii")
    return f"data:image/jpeg;base64,{code}", picture.width, picture.height


def _boxes_of(group: RolloutGroup | None) -> tuple[Box, ...]:
    if group is None or not group.completions or group.prompt.box_format is None:
        return ()
    return tuple(parse_boxes(group.completions[0].text, group.prompt.box_format).boxes[:_BOX_LIMIT])


def _overlay(pair: _Pair, width: int, height: int) -> Markup:
    """Boxes over the picture, an SVG with the picture's own proportions, 400 units wide."""
    unit_height = 400.0 * height / width
    boxes = (pair.prompt.reference.boxes or (), _boxes_of(pair.before), _boxes_of(pair.after))
    drawn = [(source, box) for source, of_source in zip(_SOURCES, boxes, strict=True) for box in of_source]
    # All words after all strokes: a label must stay readable where boxes cross it.
    marks = [_outline(source, box, unit_height) for source, box in drawn]
    marks += [_label(source, box, unit_height) for source, box in drawn]
    counts = ", ".join(f"{len(of_source)} {source}" for source, of_source in zip(_SOURCES, boxes, strict=True))
    return Markup('<svg viewBox="0 0 400 {:.0f}" role="img" aria-label="{}">{}</svg>').format(
        unit_height, f"Boxes on the film: {counts}", Markup("").join(marks)
    )


def _outline(source: str, box: Box, unit_height: float) -> Markup:
    place = (400.0 * box.x1, unit_height * box.y1, 400.0 * (box.x2 - box.x1), unit_height * (box.y2 - box.y1))
    rect = Markup('<rect class="{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"/>')
    return Markup('<g class="box {}">{}{}</g>').format(
        source, rect.format("casing", *place), rect.format("stroke", *place)
    )


def _label(source: str, box: Box, unit_height: float) -> Markup:
    # Each source writes at its own corner, so that labels of boxes that agree don't cover each other.
    x, y, anchor = {
        "reference": (400.0 * box.x1, unit_height * box.y1 - 6.0, "start"),
        "before": (400.0 * box.x1, unit_height * box.y2 + 15.0, "start"),
        "after": (400.0 * box.x2, unit_height * box.y2 + 15.0, "end"),
    }[source]
    return Markup('<text class="box {}" x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(
        source, min(max(x, 4.0), 396.0), min(max(y, 13.0), unit_height - 5.0), anchor, box.label or source
    )


def _question(pair: _Pair) -> Question:
    truth = _truth(pair.prompt)
    answers = [Answer("reference", Markup("{}").format(_cut(truth)))]
    for source, group in (("before", pair.before), ("after", pair.after)):
        if group is None or not group.completions:
            answers.append(Answer(source, Markup('<span class="missing">not evaluated</span>')))
            continue
        completion = group.completions[0]
        answers.append(
            Answer(
                source,
                marked(completion.text, truth)
                if pair.prompt.task == "report"
                else Markup("{}").format(_cut(completion.text)),
                tuple((name, score.value) for name, score in sorted(completion.scores.items())),
                tuple((name, error.code) for name, error in sorted(completion.errors.items())),
            )
        )
    return Question(pair.prompt.task, pair.prompt.prompt_id, pair.prompt.question, tuple(answers))


def _truth(prompt: Prompt) -> str:
    """The reference in words: its report, else its boxes, else its labels."""
    reference = prompt.reference
    if reference.report is not None:
        return reference.report
    if reference.boxes is not None:
        named = [f"{box.label or 'box'} [{', '.join(f'{c:.2f}' for c in box.corners)}]" for box in reference.boxes]
        return "; ".join(named) or "no box"
    return ", ".join(reference.labels or ()) or "none recorded"


def _cut(text: str) -> str:
    rest = len(text) - _TEXT_LIMIT
    return text if rest <= 0 else f"{text[:_TEXT_LIMIT]} … ({rest} more characters)"


def marked(text: str, reference: str) -> Markup:
    """``text`` with the words marked that aren't in its longest common subsequence with ``reference``.

    That subsequence is what ROUGE-L counts (here on whole lower-case words, without stemming).
    """
    shown = _cut(text)
    pieces = re.findall(r"\w+|\W+", shown)
    # Words and what lies between them alternate.
    first = 0 if re.match(r"\w", shown) else 1
    places = list(range(first, len(pieces), 2))
    theirs = [word.lower() for word in re.findall(r"\w+", reference)]
    if max(len(places), len(theirs)) > _WORD_LIMIT:
        return Markup("{}").format(shown)
    extra = set(places) - {
        places[index] for index in _common_subsequence([pieces[place].lower() for place in places], theirs)
    }
    return Markup("").join(
        Markup('<span class="extra">{}</span>').format(piece) if index in extra else piece
        for index, piece in enumerate(pieces)
    )


def _common_subsequence(ours: Sequence[str], theirs: Sequence[str]) -> set[int]:
    """Indices into ``ours`` of a longest common subsequence."""
    length = [[0] * (len(theirs) + 1) for _ in range(len(ours) + 1)]
    for i in reversed(range(len(ours))):
        for j in reversed(range(len(theirs))):
            same = length[i + 1][j + 1] + 1 if ours[i] == theirs[j] else 0
            length[i][j] = max(same, length[i + 1][j], length[i][j + 1])
    kept: set[int] = set()
    i = j = 0
    while i < len(ours) and j < len(theirs):
        if ours[i] == theirs[j] and length[i][j] == length[i + 1][j + 1] + 1:
            kept.add(i)
            i, j = i + 1, j + 1
        elif length[i + 1][j] >= length[i][j + 1]:
            i += 1
        else:
            j += 1
    return kept
