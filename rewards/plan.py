"""Plan: what a request asks of which scorers, checked.

Role: limits, scorer names and parameters of one request; pure.
Input: wire.ScoreRequest, the service's scorers and settings. Output: a Plan, or a ProblemError 413 or 422.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Set
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from rewards.problem import bad_request, too_large
from rewards.scorer import ScoreItem, Scorer
from rewards.scoring import Slice
from rewards.settings import RewardServiceSettings
from rewards.wire import MOST_FIELDS, FieldProblem, ScoreRequest, field_problems
from schemas.base import Settings
from schemas.prompt import Task


@dataclass(frozen=True)
class Plan:
    """One request's items, the scorers that each gets, and the parameters of every scorer that is used.

    Attributes:
        too_long: indexes of items whose completion is over the limit. They get errors: the policy wrote that, and its
            group's other completions must not be lost for it.
    """

    items: list[ScoreItem]
    names: list[tuple[str, ...]]  # per item
    params: dict[str, Settings]
    too_long: frozenset[int] = frozenset()

    @property
    def used(self) -> list[str]:
        """Every scorer that some item gets, sorted."""
        return sorted({name for names in set(self.names) for name in names})

    def split(self) -> tuple[Plan, Slice | None]:
        """What can be scored, and the part that is too long; every item in its place in both."""
        if not self.too_long:
            return self, None
        names = [() if index in self.too_long else asked for index, asked in enumerate(self.names)]
        refused = [asked if index in self.too_long else () for index, asked in enumerate(self.names)]
        return replace(self, names=names, too_long=frozenset()), Slice(self.items, refused, self.params)

    def slice_of(self, names: Set[str]) -> Slice | None:
        """The request as far as these scorers go, every item in its place; None where they are not asked."""
        chosen = {asked: tuple(name for name in asked if name in names) for asked in set(self.names)}
        if not any(chosen.values()):
            return None
        params = {name: self.params[name] for kept in chosen.values() for name in kept}
        return Slice(self.items, [chosen[asked] for asked in self.names], params)


def check_sizes(request: ScoreRequest, settings: RewardServiceSettings) -> None:
    """Raises ProblemError 413 for too many items, too long a question or reference, or too many reference boxes."""
    if len(request.items) > settings.max_items:
        raise too_large("items", settings.max_items, "items", len(request.items))
    longest, most_boxes = settings.max_text_chars, settings.max_reference_boxes
    for index, item in enumerate(request.items):
        reference = item.reference
        if item.question is not None and len(item.question) > longest:
            raise too_large(f"items[{index}].question", longest, "characters", len(item.question))
        if reference.report is not None and len(reference.report) > longest:
            raise too_large(f"items[{index}].reference.report", longest, "characters", len(reference.report))
        if reference.boxes is not None and len(reference.boxes) > most_boxes:
            raise too_large(f"items[{index}].reference.boxes", most_boxes, "boxes", len(reference.boxes))


def default_scorers(task: Task, scorers: Mapping[str, Scorer[Any]]) -> tuple[str, ...]:
    """What an item gets when the request names no scorers: those of its task that need no weights, only a truth.

    One that also needs e.g. ``token_count`` must be asked for: most clients don't send it.
    """
    return tuple(
        name
        for name, scorer in scorers.items()
        if scorer.tier == "embedded" and task in scorer.tasks and not {"token_count", "question"} & set(scorer.needs)
    )


def make_plan(request: ScoreRequest, scorers: Mapping[str, Scorer[Any]], settings: RewardServiceSettings) -> Plan:
    """The request's plan. Raises ProblemError 422 for an unknown scorer or a wrong parameter."""
    if request.scorers is None:
        default_of: dict[Task, tuple[str, ...]] = {}
        for task in {item.task for item in request.items}:
            default_of[task] = default_scorers(task, scorers)
        names = [default_of[item.task] for item in request.items]
    else:
        asked = tuple(dict.fromkeys(request.scorers))
        unknown = [index for index, name in enumerate(request.scorers) if name not in scorers]
        if unknown:
            raise bad_request([_unknown(f"scorers[{i}]", request.scorers[i], scorers) for i in unknown[:MOST_FIELDS]])
        names = [asked] * len(request.items)
    used = {name for item_names in set(names) for name in item_names}
    items = request.score_items()
    if settings.answer_chars is not None:
        items = [item._replace(answer=item.answer[: settings.answer_chars]) for item in items]
    longest = settings.max_text_chars
    too_long = frozenset(index for index, item in enumerate(items) if len(item.completion) > longest)
    return Plan(items, names, _params(request, used, scorers, settings), too_long)


def _params(
    request: ScoreRequest, used: Set[str], scorers: Mapping[str, Scorer[Any]], settings: RewardServiceSettings
) -> dict[str, Settings]:
    """Each scorer's parameters: its defaults, then the service's settings, then the request."""
    given = request.params
    wrong = [_unknown("params", name, scorers) for name in given if name not in scorers][:MOST_FIELDS]
    params: dict[str, Settings] = {}
    for name in used | (given.keys() & scorers.keys()):
        values = {**settings.params.get(name, {}), **given.get(name, {})}
        try:
            params[name] = scorers[name].params.model_validate(values)
        except ValidationError as error:
            wrong.extend(field_problems(error, prefix=("params", name)))
    if wrong:
        raise bad_request(wrong)
    return params


def _unknown(field: str, name: str, scorers: Mapping[str, Scorer[Any]]) -> FieldProblem:
    nearest = difflib.get_close_matches(name[:100], scorers, n=1)
    hint = f"did you mean {nearest[0]}?" if nearest else f"known are {', '.join(scorers)}"
    return FieldProblem(field=field, rule=f"names a scorer that there is not; {hint}")
