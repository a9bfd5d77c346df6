"""The load of benchmarks/rewards.py: GRPO-shaped groups of reports and of grounding answers.

Role: 512 references x 8 completions each, of real length: reports are OpenI's (from the torchxrayvision package),
completions are made of their sentences; grounding answers name one to three boxes near the reference's.
Input: a seed. Output: wire Items, group by group.
"""

from __future__ import annotations

import random
from functools import cache
from typing import Literal

from benchmarks.openi_reports import archive, read_reports
from rewards.text import sentences
from rewards.wire import Item, ItemReference, ReferenceBox

GROUPS, GROUP_SIZE = 512, 8
SCORERS: dict[str, tuple[str, ...]] = {
    "report": ("rouge_l", "bleu", "gleu", "chexpert_f1"),
    "grounding": ("soft_f1",),
}
Group = list[Item]
LoadTask = Literal["report", "grounding"]


@cache
def openi_reports() -> list[str]:
    """The OpenI reports of at least three sentences.

    Raises:
        FileNotFoundError: torchxrayvision, which holds them, is not installed.
    """
    path = archive()
    if path is None:
        raise FileNotFoundError("the OpenI reports: pip install 'overread[dev]'")
    return [report.text for report in read_reports(path) if len(sentences(report.text)) >= 3]


def _report_group(number: int, random_: random.Random) -> Group:
    reports = openi_reports()
    reference = reports[number % len(reports)]
    own = sentences(reference)
    group = []
    for index in range(GROUP_SIZE):
        other = sentences(random_.choice(reports))
        mixed = random_.sample(own, max(1, len(own) // 2)) + random_.sample(other, max(1, len(other) // 2))
        random_.shuffle(mixed)
        group.append(
            Item(
                id=f"{number}-{index}",
                task="report",
                completion=" ".join(mixed),
                reference=ItemReference(report=reference),
            )
        )
    return group


def _box(random_: random.Random) -> tuple[float, float, float, float]:
    x1, y1 = random_.uniform(0.0, 0.6), random_.uniform(0.0, 0.6)
    return (x1, y1, x1 + random_.uniform(0.05, 0.35), y1 + random_.uniform(0.05, 0.35))


def _grounding_group(number: int, random_: random.Random) -> Group:
    boxes = [_box(random_) for _ in range(random_.randint(1, 3))]
    reference = ItemReference(boxes=tuple(ReferenceBox(box=box) for box in boxes))
    group = []
    for index in range(GROUP_SIZE):
        near = [[min(1.0, max(0.0, c + random_.gauss(0.0, 0.03))) for c in box] for box in boxes]
        if random_.random() < 0.3:
            near.append(list(_box(random_)))
        answer = " and ".join(f"[{a:.2f}, {b:.2f}, {c:.2f}, {d:.2f}]" for a, b, c, d in near)
        group.append(
            Item(
                id=f"{number}-{index}",
                task="grounding",
                completion=f"The finding is at {answer}.",
                box_format="radvlm",
                reference=reference,
            )
        )
    return group


def groups(task: LoadTask, count: int = GROUPS, seed: int = 0) -> list[Group]:
    """``count`` groups of GROUP_SIZE completions."""
    random_ = random.Random(f"{task}{seed}")
    make = _report_group if task == "report" else _grounding_group
    return [make(number + seed * count, random_) for number in range(count)]
