"""RewardService: from a request to its reply.

Role: everything between the routes and the scorers: readiness, limits, back-pressure, deadlines; scores in worker pools
(one a tier) and judges on the event loop. Input: wire.ScoreRequest. Output: the reply's JSON, or a ProblemError.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from rewards.answer import Answer
from rewards.judge_panel import JudgePanel
from rewards.metrics import ServiceMetrics
from rewards.plan import Plan, check_sizes, make_plan
from rewards.problem import ProblemError
from rewards.reply import reply_json
from rewards.scorer import Scorer, Tier
from rewards.scoring import Outcome, Slice
from rewards.settings import RewardServiceSettings
from rewards.wire import Readiness, ScoreRequest, ScorerState
from rewards.worker import item_json
from rewards.worker_messages import ItemJson, Start
from rewards.worker_pool import WorkerPool
from schemas.group import ScoreError

_MOST_WORKERS = 8  # by default
_RETRY_AFTER_S = 1
_LONGEST_RETRY_AFTER_S = 30


def worker_count(settings: RewardServiceSettings) -> int:
    """Processes for embedded scorers: the setting, or one for every core that this process may use, at most 8."""
    return settings.workers or min(len(os.sched_getaffinity(0)), _MOST_WORKERS)


class RewardService:
    """One service. ``start`` and ``close`` bracket its life; both run on the event loop.

    Args:
        on_ready: called once, when requests are answered.
    """

    def __init__(self, settings: RewardServiceSettings, on_ready: Callable[[], None] | None = None) -> None:
        self.metrics = ServiceMetrics()
        known = settings.known_scorers
        self.scorers: Mapping[str, Scorer[Any]] = {name: known[name] for name in settings.scorers or known}
        self.states = {name: ScorerState(state="loading") for name in self.scorers}
        self._settings = settings
        self._on_ready = on_ready
        self._pools: list[tuple[frozenset[str], WorkerPool]] = []
        self._judges = JudgePanel({n: s for n, s in self.scorers.items() if s.tier == "judge"}, settings.resources)
        self.metrics.pending_items.set_function(lambda: self.pending_items)

    def start(self) -> None:
        """Begins to load the scorers; the service answers ``/healthz`` at once."""
        self._add_pool("embedded", worker_count(self._settings), threads=1)
        self._add_pool("clinical", 1, threads=len(os.sched_getaffinity(0)))
        self._set_states(self._judges.load())
        for _, pool in self._pools:
            pool.start()

    async def close(self) -> None:
        """Ends the workers. Requests in flight should be done by then (the server drains first)."""
        await asyncio.gather(*(pool.close() for _, pool in self._pools), self._judges.close())

    def _add_pool(self, tier: Tier, workers: int, threads: int) -> None:
        settings = self._settings
        names = tuple(name for name, scorer in self.scorers.items() if scorer.tier == tier)
        if not names:
            return
        message = Start(names, settings.plugins, settings.resources, settings.reference_cache_mib * 2**20)
        pool = WorkerPool(
            tier,
            message,
            self.metrics,
            workers=workers,
            threads=threads,
            batch_items=settings.batch_items,
            batch_wait_s=settings.batch_wait_s,
            batch_deadline_s=settings.batch_deadline_s,
            on_states=self._set_states,
        )
        self._pools.append((frozenset(names), pool))

    def _set_states(self, states: Mapping[str, ScorerState]) -> None:
        self.states.update(states)
        if self._on_ready is not None and self.readiness().ready:
            self._on_ready()
            self._on_ready = None

    @property
    def worker_pids(self) -> list[int]:
        """The scorer processes that serve now."""
        return [pid for _, pool in self._pools for pid in pool.pids]

    def readiness(self) -> Readiness:
        """Ready when nothing is loading and every scorer without weights works."""
        ready = all(
            state.state == "ready" or (state.state != "loading" and self.scorers[name].tier != "embedded")
            for name, state in self.states.items()
        )
        return Readiness(ready=ready, scorers=dict(self.states))

    def check_ready(self) -> None:
        """Raises ProblemError 503 while scorers load."""
        if not self.readiness().ready:
            raise ProblemError(503, "not_ready", "see /readyz", retry_after_s=_RETRY_AFTER_S)

    @property
    def pending_items(self) -> int:
        """Items waiting or being scored."""
        return sum(pool.items for _, pool in self._pools) + self._judges.items

    async def score(self, request: ScoreRequest) -> bytes:
        """The reply's JSON.

        Cancelled, it takes what is not yet being scored out of the queues.

        Raises:
            ProblemError: 413 over a limit, 422 unknown scorer or parameter, 429 full, 503 not ready.
        """
        self.check_ready()
        check_sizes(request, self._settings)
        plan = make_plan(request, self.scorers, self._settings)
        self._check_room(plan)
        longest = self._settings.request_deadline_s
        with self.metrics.request_seconds.time():
            parts = await self._score_parts(plan, min(request.deadline_s or longest, longest))
        versions = {name: self.scorers[name].version for name in plan.used}
        return reply_json([item.id for item in request.items], parts, versions)

    def _check_room(self, plan: Plan) -> None:
        pending = self.pending_items
        places = sum(1 for names in (*(n for n, _ in self._pools), self._judges.names) if names & set(plan.used))
        # A request that alone is larger than the queue is taken when nothing waits: else it could never be.
        if pending and pending + len(plan.items) * places > self._settings.max_pending_items:
            drain_s = max((pool.drain_s for _, pool in self._pools), default=0.0)
            retry_after_s = min(max(round(drain_s), _RETRY_AFTER_S), _LONGEST_RETRY_AFTER_S)
            raise ProblemError(429, "full", f"{pending} items are waiting", retry_after_s=retry_after_s)

    async def _score_parts(self, plan: Plan, deadline_s: float) -> list[Sequence[ItemJson]]:
        """The results of each place that scores, each with one entry an item."""
        plan, too_long = plan.split()
        ready = frozenset(name for name, state in self.states.items() if state.state == "ready")
        parts: list[Sequence[ItemJson]] = []
        if too_long is not None:
            rule = f"the completion is over {self._settings.max_text_chars} characters"
            parts.append(self._failed(too_long, lambda _: ScoreError(code="too_long", message=rule)))
        unready = plan.slice_of(frozenset(plan.used) - ready)
        if unready is not None:
            parts.append(self._failed(unready, self._not_ready))
        answers: list[tuple[Slice, Answer]] = []
        for names, pool in self._pools:
            part = plan.slice_of(names & ready)
            if part is not None:
                answers.append((part, pool.submit(part)))
        part = plan.slice_of(self._judges.names & ready)
        if part is not None:
            answers.append((part, self._judges.submit(part, self.metrics)))
        late = ScoreError(code="deadline", message=f"not scored within {deadline_s:g} s")
        try:
            if answers:
                await asyncio.wait([answer.done for _, answer in answers], timeout=deadline_s)
            for part, answer in answers:
                parts.append(answer.results(partial(self._late, part, late)))
        finally:
            for _, answer in answers:
                answer.give_up()
        return parts

    def _late(self, part: Slice, error: ScoreError, index: int) -> ItemJson:
        return self._error(part.names[index], lambda _: error)

    def _not_ready(self, name: str) -> ScoreError:
        state = self.states[name]
        return ScoreError(code="not_ready", message=state.remedy or "the scorer is loading")

    def _failed(self, part: Slice, error_of: Callable[[str], ScoreError]) -> list[ItemJson]:
        return [self._error(names, error_of) for names in part.names]

    def _error(self, names: Sequence[str], error_of: Callable[[str], ScoreError]) -> ItemJson:
        errors = {name: error_of(name) for name in names}
        self.metrics.count_failures({(name, error.code): 1 for name, error in errors.items()})
        return item_json(Outcome(errors=errors))
