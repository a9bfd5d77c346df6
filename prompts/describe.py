"""Describe: what a prompts file holds, in numbers.

Role: the summary behind ``overread data show``. Input: a folder or parquet file of prompts.
Output: a typed summary with counts, sizes and a leak check; never a question's or report's text.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from pydantic import Field

from prompts.store import CONVERSATIONS_FILE, read_conversations, read_prompts
from schemas.base import Noun
from schemas.prompt import Prompt


class Spread(Noun):
    """Least, middle and greatest of some numbers."""

    least: float
    median: float
    greatest: float


class SplitSummary(Noun):
    """One split."""

    prompts: int
    patients: int
    studies: int
    conversations: int = Field(description="SFT conversations beside the prompts")
    tasks: dict[str, int] = Field(description="prompts by task")
    datasets: dict[str, int] = Field(description="prompts by data set")


class BoxSummary(Noun):
    """All reference boxes; sizes are shares of the picture's."""

    boxes: int
    per_prompt: Spread = Field(description="boxes a prompt, over the prompts with a box reference")
    width: Spread | None
    height: Spread | None
    labels: dict[str, int] = Field(description="boxes by label, commonest first; '' = no label")


class DataSummary(Noun):
    """A prompts file."""

    prompts: int
    splits: dict[str, SplitSummary]
    picture_sizes: dict[str, int] = Field(description="pictures by 'width x height', commonest first, each file once")
    prompts_without_picture: int
    boxes: BoxSummary | None = Field(description="None if no prompt has a box reference")
    question_characters: Spread
    report_words: Spread | None = Field(description="None if no prompt has a report")
    patients_in_several_splits: int = Field(description="must be 0: else the evaluation sees training patients")


def describe(path: Path) -> DataSummary:
    """Summarise the prompts (and conversations, if any) at ``path``.

    Raises:
        DataError: as ``read_prompts``.
    """
    prompts = read_prompts(path)
    conversation_counts: Counter[str] = Counter()
    if path.is_dir() and (path / CONVERSATIONS_FILE).exists():
        conversation_counts.update(conversation.split for conversation in read_conversations(path))
    by_split: dict[str, list[Prompt]] = defaultdict(list)
    splits_of_patient: dict[tuple[str, str], set[str]] = defaultdict(set)
    for prompt in prompts:
        by_split[prompt.split].append(prompt)
        splits_of_patient[_patient(prompt)].add(prompt.split)
    reports = [prompt.reference.report for prompt in prompts if prompt.reference.report is not None]
    return DataSummary(
        prompts=len(prompts),
        splits={split: _describe_split(rows, conversation_counts[split]) for split, rows in by_split.items()},
        picture_sizes=_picture_sizes(prompts),
        prompts_without_picture=sum(not prompt.images for prompt in prompts),
        boxes=_describe_boxes(prompts),
        question_characters=_spread(len(prompt.question) for prompt in prompts),
        report_words=_spread(len(report.split()) for report in reports) if reports else None,
        patients_in_several_splits=sum(len(splits) > 1 for splits in splits_of_patient.values()),
    )


def _patient(prompt: Prompt) -> tuple[str, str]:
    # Two data sets may number their patients alike.
    return prompt.dataset, prompt.patient_id


def _describe_split(prompts: Sequence[Prompt], conversations: int) -> SplitSummary:
    return SplitSummary(
        prompts=len(prompts),
        patients=len({_patient(prompt) for prompt in prompts}),
        studies=len({(prompt.dataset, prompt.study_id) for prompt in prompts}),
        conversations=conversations,
        tasks=_commonest(prompt.task for prompt in prompts),
        datasets=_commonest(prompt.dataset for prompt in prompts),
    )


def _picture_sizes(prompts: Sequence[Prompt]) -> dict[str, int]:
    sizes = {image.path or image.data: f"{image.width} x {image.height}" for p in prompts for image in p.images}
    return _commonest(sizes.values())


def _describe_boxes(prompts: Sequence[Prompt]) -> BoxSummary | None:
    references = [prompt.reference.boxes for prompt in prompts if prompt.reference.boxes is not None]
    if not references:
        return None
    boxes = [box for reference in references for box in reference]
    return BoxSummary(
        boxes=len(boxes),
        per_prompt=_spread(len(reference) for reference in references),
        width=_spread(box.x2 - box.x1 for box in boxes) if boxes else None,
        height=_spread(box.y2 - box.y1 for box in boxes) if boxes else None,
        labels=_commonest(box.label or "" for box in boxes),
    )


def _commonest(values: Iterable[str]) -> dict[str, int]:
    return dict(Counter(values).most_common())


def _spread(values: Iterable[float]) -> Spread:
    numbers = np.fromiter(values, dtype=np.float64)
    return Spread(least=float(numbers.min()), median=float(np.median(numbers)), greatest=float(numbers.max()))
