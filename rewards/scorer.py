"""Scorer and ScoreItem: what a scorer is, and what it sees of one completion.

Role: the small contract between the service and ``scorers/`` (one file a scorer).
Input: a batch of ScoreItem and the scorer's own parameters. Output: one Score or ScoreError an item, in order.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, NamedTuple, TypeVar

from rewards.resources import Resources
from schemas.base import Settings
from schemas.group import FinishReason, Score, ScoreError
from schemas.prompt import BoxFormat, Reference, Task

Direction = Literal["higher", "lower"]
Tier = Literal["embedded", "clinical", "judge"]
Need = Literal["reference.boxes", "reference.report", "reference.labels", "box_format", "question", "token_count"]


class ScoreItem(NamedTuple):
    """One completion with its truth. A tuple: a batch of them travels to a worker process ten times faster so.

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
        """Whether the item does not carry what a scorer needs. A blank reference report counts as none."""
        if need == "reference.report":
            return not (self.reference.report or "").strip()
        owner = self.reference if need.startswith("reference.") else self
        return getattr(owner, need.removeprefix("reference.")) is None


class NoParams(Settings):
    """The parameters of a scorer that has none."""


P = TypeVar("P", bound=Settings)
Results = list[Score | ScoreError]


def nothing_to_load(_: Resources) -> None:
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
        params: the model of its parameters (numbers, booleans, short strings; hashable); their defaults live there.
        score: one Score or ScoreError an item, in order. It runs in a worker process, and may raise: the service turns
            that into errors. None for a judge.
        judge: a judge's counterpart: one item, awaited on the event loop, since it only waits for an endpoint.
        tier: where it runs. ``embedded``: any worker process. ``clinical``: the process that holds the weights.
            ``judge``: the event loop.
        evaluation_only: never a training reward, e.g. because flooding the answer raises it; recipes are refused.
        load: called once before the first ``score``, in the process that scores; slow imports and weights belong here.
            Raises ``rewards.resources.NotReadyError`` with the remedy where something of the user's is missing.
        remedy: what a user can do when ``load`` fails in another way.
    """

    name: str
    version: str
    tasks: frozenset[Task]
    range: tuple[float | None, float | None]
    direction: Direction
    needs: tuple[Need, ...]
    params: type[P]
    summary: str
    score: Callable[[Sequence[ScoreItem], P], Results] | None = None
    judge: Callable[[ScoreItem, P, Resources], Awaitable[Score | ScoreError]] | None = None
    tier: Tier = "embedded"
    evaluation_only: bool = False
    load: Callable[[Resources], object] = nothing_to_load
    remedy: str = "install the extra: pip install 'overread[rewards]'"
