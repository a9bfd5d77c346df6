"""Overreader: from a trainer's completions to rewards, the same way for every trainer.

Role: what the adapters share: checked options, items from data set columns, requests, weighted sums.
Input: rows (completion, reference, ...). Output: a Reward a row; None where a score is missing, never a made-up number.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

from pydantic import ValidationError

from rewards.client import RewardClient
from rewards.reward import combine
from rewards.rows import item_from_row
from rewards.settings import RewardServiceSettings
from rewards.tokens import find_tokens
from rewards.wire import Item, ItemResult, ParamValue, ScoreRequest, field_problems
from schemas.errors import ConfigError
from schemas.prompt import BoxFormat, Task

_ITEMS_AT_ONCE = 256  # of a request; the service merges requests and splits batches as it likes

Weights = Mapping[str, float] | Mapping[Task, Mapping[str, float]]


class Reward(NamedTuple):
    """One completion's reward, and what it was made of."""

    value: float | None
    result: ItemResult


def plain(value: Any) -> Any:
    """A value as plain Python: from numpy arrays (parquet columns) and OmegaConf containers (a trainer's config)."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(name): plain(part) for name, part in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [plain(part) for part in value]
    return value


class Overreader:
    """One run's way of asking for rewards.

    Args:
        addresses: base URLs of running reward services, one or a list.
        scorers: names; the reward is the sum of their scores. Give these or ``weights``.
        weights: scorer -> weight of its score in the reward (negative where a lower score is better, 0 = only
            recorded); or task -> scorer -> weight where the data set holds several tasks. Without ``scorers`` and
            ``weights``: those of a recipe that names none.
        task: of rows that do not name theirs.
        token: of the services; else the first one in ``token_file``, else in OVERREAD_REWARD_TOKENS.
        box_format: of rows that do not name theirs; grounding needs it.
        params: scorer -> parameter -> value.
        thinking: completions have to hold a trace that ends in ``</think>``.
        deadline_s: seconds until scores must be there, retries included.

    Raises:
        ConfigError: an option is wrong.
    """

    def __init__(
        self,
        addresses: str | Sequence[str],
        *,
        scorers: Sequence[str] | None = None,
        weights: Weights | None = None,
        task: Task = "report",
        token: str | None = None,
        token_file: str | Path | None = None,
        box_format: BoxFormat | None = None,
        params: Mapping[str, Mapping[str, ParamValue]] | None = None,
        thinking: bool = False,
        deadline_s: float = 120.0,
    ) -> None:
        values: dict[str, Any] = {
            "addresses": [addresses] if isinstance(addresses, str) else plain(addresses),
            "params": plain(params or {}),
            "deadline_s": deadline_s,
        }
        given = _weights_by_task(scorers, weights, task)
        if given is not None:
            values["weights"] = given
        try:
            self._settings = RewardServiceSettings.model_validate(values)
        except ValidationError as error:
            problem = field_problems(error)[0]
            names = ", ".join(sorted({*(scorers or ()), *plain(weights or {}), *values["params"]})) or "no scorers"
            raise ConfigError(
                f"options: {problem.field}".removesuffix(": body"), problem.rule, names, "see docs/rewards.md"
            ) from None
        if not self._settings.addresses:
            raise ConfigError("addresses", "must name a reward service", "none", "start one: overread rewards serve")
        self._task = task
        self._box_format = box_format
        self._thinking = thinking
        tokens = find_tokens(None if token_file is None else Path(token_file)) if token is None else (token,)
        self._token = tokens[0] if tokens else None

    @property
    def scorers(self) -> tuple[str, ...]:
        """Every scorer that some task gets, sorted."""
        return tuple(sorted({name for weights in self._settings.weights.values() for name in weights}))

    def client(self) -> RewardClient:
        """A client of the services; whoever asks for it closes it."""
        return RewardClient(self._settings.addresses, self._token, self._settings.deadline_s)

    def item(self, index: int, row: Mapping[str, Any]) -> Item:
        """A row as an item, its options filled in. Raises DataError for a row that breaks a rule."""
        values = {"task": self._task, "box_format": self._box_format, "thinking": self._thinking}
        values |= {name: value for name, value in row.items() if value is not None}
        item = item_from_row(values, f"completion {index}", str(index))
        if item.task not in self._settings.weights:
            known = ", ".join(self._settings.weights)
            remedy = "give weights as task -> scorer -> weight"
            raise ConfigError("weights", f"must name scorers for the task {item.task}", known, remedy)
        return item

    async def rewards(self, client: RewardClient, items: Sequence[Item]) -> list[Reward]:
        """One reward an item, in order.

        Raises:
            RewardError: the services can't be asked, or refuse the request.
        """
        by_task: dict[Task, list[int]] = {}
        for index, item in enumerate(items):
            by_task.setdefault(item.task, []).append(index)
        parts = [
            indexes[start : start + _ITEMS_AT_ONCE]
            for indexes in by_task.values()
            for start in range(0, len(indexes), _ITEMS_AT_ONCE)
        ]
        # Not a TaskGroup: its ExceptionGroup would hide the RewardError.
        asked = await asyncio.gather(*(self._ask(client, [items[index] for index in part]) for part in parts))
        made: dict[int, Reward] = {}
        for part, rewards in zip(parts, asked, strict=True):
            made.update(zip(part, rewards, strict=True))
        return [made[index] for index in range(len(items))]

    async def _ask(self, client: RewardClient, items: Sequence[Item]) -> list[Reward]:
        """The rewards of items of one task."""
        weights = self._settings.weights[items[0].task]
        params = {name: values for name, values in self._settings.params.items() if name in weights}
        response = await client.score(ScoreRequest(items=tuple(items), scorers=tuple(weights), params=params))
        return [Reward(combine(result.scores, result.errors, weights), result) for result in response.results]


def _weights_by_task(
    scorers: Sequence[str] | None, weights: Weights | None, task: Task
) -> dict[Task, dict[str, float]] | None:
    if scorers is not None and weights is not None:
        raise ConfigError("scorers", "must not stand beside weights", "both", "give weights alone")
    if scorers is not None:
        return {task: dict.fromkeys(plain(scorers), 1.0)}
    if weights is None:
        return None
    given = plain(weights)
    if all(isinstance(value, Mapping) for value in given.values()):
        return cast("dict[Task, dict[str, float]]", given)
    return {task: given}
