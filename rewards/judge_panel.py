"""JudgePanel: the judges of a service, asked from its event loop.

Role: the judges' counterpart of a worker pool: they only wait for an endpoint, so they need no process.
Input: a Slice. Output: an Answer that fills; one that is given up cancels its judgements.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

from rewards.answer import Answer
from rewards.judging import close_judges
from rewards.metrics import ServiceMetrics
from rewards.resources import Resources
from rewards.scorer import ScoreItem, Scorer
from rewards.scoring import Cost, Outcome, Slice, failure, refusal
from rewards.wire import ScorerState
from rewards.worker import item_json, load_scorer
from schemas.base import Settings
from schemas.group import Score, ScoreError


class JudgePanel:
    """The judges by name, with their endpoints."""

    def __init__(self, judges: Mapping[str, Scorer[Any]], resources: Resources) -> None:
        self._judges = judges
        self._resources = resources
        self.names = frozenset(judges)
        self.items = 0  # waiting or being judged
        self._tasks: set[asyncio.Task[None]] = set()

    def load(self) -> dict[str, ScorerState]:
        """Each judge's state: a judge without an endpoint is not ready."""
        return {name: load_scorer(judge, self._resources) for name, judge in self._judges.items()}

    def submit(self, part: Slice, metrics: ServiceMetrics) -> Answer:
        """Asks the judges about a slice; they bound their own requests in flight. Given up, the rest is not asked."""
        answer = Answer(len(part.items))
        task = asyncio.create_task(self._score(answer, part, metrics))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        answer.done.add_done_callback(lambda _: task.cancel())
        return answer

    async def close(self) -> None:
        """Ends what is under way."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await close_judges()

    async def _score(self, answer: Answer, part: Slice, metrics: ServiceMetrics) -> None:
        async def ask(index: int) -> None:
            outcome = await self._score_item(part.items[index], part.names[index], part.params, metrics)
            answer.put(index, item_json(outcome))

        self.items += len(part.items)
        try:
            async with asyncio.TaskGroup() as group:
                for index in range(len(part.items)):
                    group.create_task(ask(index))
        finally:
            self.items -= len(part.items)

    async def _score_item(
        self, item: ScoreItem, names: tuple[str, ...], params: Mapping[str, Settings], metrics: ServiceMetrics
    ) -> Outcome:
        outcome = Outcome()
        for name in names:
            started = time.perf_counter()
            result = await self._judge(self._judges[name], item, params[name])
            outcome.add(name, result)
            failed = {(name, result.code): 1} if isinstance(result, ScoreError) else {}
            metrics.count_results({name: Cost(time.perf_counter() - started, 1)}, failed)
        return outcome

    async def _judge(self, judge: Scorer[Any], item: ScoreItem, params: Settings) -> Score | ScoreError:
        refused = refusal(judge, item)
        if refused is not None:
            return refused
        assert judge.judge is not None
        try:
            return await judge.judge(item, params, self._resources)
        except Exception as error:  # noqa: BLE001 - the border: any bug of any judge is an error entry, never a number
            return failure(judge, item, error)
