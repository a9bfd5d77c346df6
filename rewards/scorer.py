"""Scorer and ScoreItem: what a scorer is, and what it sees of one completion.

Role: the small contract between the service and ``scorers/`` (one file a scorer).
Input: a batch of ScoreItem and the scorer's own parameters. Output: one Score or ScoreError an item, in order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from schemas.base import Settings
from schemas.group import FinishReason, Score, ScoreError
from schemas.prompt import BoxFormat, Reference, Task

Direction = Literal["higher", "lower"]
Tier = Literal["embedded", "clinical", "judge"]
Need = Literal["reference.boxes", "reference.report", "reference.labels", "box_format", "question", "token_count"]


@dataclass(frozen=True, slots=True)
class ScoreItem:
    """One completion with its truth.

    Attributes:
        completion: everything that the policy wrote, thinking included.
        answer: the part of it that is scored (``rewards.text.answer_of``).
        thinking: the run asks for a reasoning trace that ends in ``</think>``.
    """

    task: Task
    completion: str
    answer: str
    reference: Reference
    box_format: BoxFormat | None = None
    question: str | None = None
    thinking: bool = False
    token_count: int | None = None
    finish_reason: FinishReason | None = None

    def lacks(self, need: Need) -> bool:
        """Whether the item does not carry what a scorer needs."""
        owner = self.reference if need.startswith("reference.") else self
        return getattr(owner, need.removeprefix("reference.")) is None


class NoParams(Settings):
    """The parameters of a scorer that has none."""


P = TypeVar("P", bound=Settings)


def nothing_to_load() -> None:
    """The ``load`` of a scorer that needs no weights and no slow import."""


@dataclass(frozen=True)
class Scorer(Generic[P]):
    """A scorer: one file in ``rewards/scorers/`` makes one, named ``SCORER``; the file is called like the scorer.

    Attributes:
        name: the key under which its scores travel.
        version: raised by every change that can change a value.
        tasks: what it can score; asked for another task it gives an error, not a number.
        range: lowest and highest value, None where unbounded.
        direction: whether a higher or a lower value is the better one.
        needs: what an item must carry; an item without it gets an error.
        params: the model of its parameters; their defaults live there.
        score: one Score or ScoreError an item, in order. It may raise: the service turns that into errors.
        load: called once before the first ``score``, off the event loop; slow imports and weights belong here.
        remedy: what a user can do when ``load`` fails.
    """

    name: str
    version: str
    tasks: frozenset[Task]
    range: tuple[float | None, float | None]
    direction: Direction
    needs: tuple[Need, ...]
    params: type[P]
    score: Callable[[Sequence[ScoreItem], P], list[Score | ScoreError]]
    summary: str
    tier: Tier = "embedded"
    load: Callable[[], object] = nothing_to_load
    remedy: str = "install the extra: pip install 'overread[rewards]'"
