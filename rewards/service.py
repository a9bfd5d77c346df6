"""RewardService: loads the scorers, plans requests, scores them off the event loop.

Role: everything between the routes and the scorers: readiness, limits, back-pressure, worker threads.
Input: wire.ScoreRequest. Output: wire.ScoreResponse, or a ProblemError with its status.
"""

from __future__ import annotations

import asyncio
import difflib
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from pydantic import ValidationError

from rewards.metrics import ServiceMetrics
from rewards.problem import ProblemError, bad_request, too_large
from rewards.resources import Resources
from rewards.scorer import ScoreItem, Scorer
from rewards.scorers.registry import default_scorers, scorers
from rewards.scoring import Outcome, score_items
from rewards.settings import RewardServiceSettings
from rewards.wire import FieldProblem, ItemResult, Readiness, ScoreRequest, ScoreResponse, ScorerState, field_problems
from schemas.base import Settings
from schemas.group import ScoreError
from schemas.prompt import Task

# Two, so that one huge request does not stop the small ones; the scorers are Python and share its lock anyway.
_THREADS = 2
_RETRY_AFTER_S = 1

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Plan:
    items: list[ScoreItem]
    names: list[tuple[str, ...]]  # per item
    params: dict[str, Settings]


class RewardService:
    """One service. ``start`` and ``close`` bracket its life; both run on the event loop."""

    def __init__(
        self,
        settings: RewardServiceSettings,
        available: Mapping[str, Scorer[Settings]] | None = None,
        on_ready: Callable[[], None] | None = None,
    ) -> None:
        self.metrics = ServiceMetrics()
        self.scorers = scorers() if available is None else available
        self._settings = settings
        self._states = {name: ScorerState(state="loading") for name in self.scorers}
        self._on_ready = on_ready
        self._executor = ThreadPoolExecutor(_THREADS, thread_name_prefix="scorer")
        self._loading: asyncio.Task[None] | None = None
        self._pending = 0

    def start(self) -> None:
        """Begins to load the scorers; the service answers ``/healthz`` at once."""
        self._loading = asyncio.create_task(self._load())

    async def close(self) -> None:
        """Waits for what is being scored."""
        if self._loading is not None:
            self._loading.cancel()
        await asyncio.to_thread(self._executor.shutdown)

    async def _load(self) -> None:
        loop = asyncio.get_running_loop()
        for name, scorer in self.scorers.items():
            self._states[name] = await loop.run_in_executor(self._executor, _load_scorer, scorer)
        if self._on_ready is not None and self.readiness().ready:
            self._on_ready()

    def readiness(self) -> Readiness:
        """Ready when nothing is loading and every scorer without weights works."""
        ready = all(
            state.state == "ready" or (state.state == "failed" and self.scorers[name].tier != "embedded")
            for name, state in self._states.items()
        )
        return Readiness(ready=ready, scorers=dict(self._states))

    async def score(self, request: ScoreRequest) -> ScoreResponse:
        """Scores a request.

        Raises:
            ProblemError: 413 over a limit, 422 unknown scorer or parameter, 429 full, 503 not ready.
        """
        self.check_ready()
        self._check_sizes(request)
        plan = self._plan(request)
        count = len(plan.items)
        # A request that alone is larger than the queue is taken when nothing waits: else it could never be.
        if self._pending and self._pending + count > self._settings.max_pending_items:
            raise ProblemError(429, "full", f"{self._pending} items are waiting", retry_after_s=_RETRY_AFTER_S)
        unavailable = {
            name: ScoreError(code="not_ready", message=state.remedy or "the scorer is loading")
            for name, state in self._states.items()
            if state.state != "ready"
        }
        self._move_pending(count)
        try:
            with self.metrics.request_seconds.time():
                outcomes = await asyncio.get_running_loop().run_in_executor(
                    self._executor, score_items, self.scorers, plan.items, plan.names, plan.params, unavailable
                )
        finally:
            self._move_pending(-count)
        self.metrics.count_outcomes(outcomes)
        return self._response(request, outcomes, plan)

    def check_ready(self) -> None:
        """Raises ProblemError 503 while scorers load."""
        if not self.readiness().ready:
            raise ProblemError(503, "not_ready", "see /readyz", retry_after_s=_RETRY_AFTER_S)

    def _move_pending(self, count: int) -> None:
        self._pending += count
        self.metrics.pending_items.set(self._pending)

    def _check_sizes(self, request: ScoreRequest) -> None:
        if len(request.items) > self._settings.max_items:
            raise too_large("items", self._settings.max_items, "items", len(request.items))
        limit = self._settings.max_text_chars
        for index, item in enumerate(request.items):
            texts = {
                "completion": item.completion,
                "question": item.question,
                "reference.report": item.reference.report,
            }
            for field, text in texts.items():
                if text is not None and len(text) > limit:
                    raise too_large(f"items[{index}].{field}", limit, "characters", len(text))

    def _plan(self, request: ScoreRequest) -> _Plan:
        asked = request.scorers
        if asked is not None:
            unknown = [(index, name) for index, name in enumerate(asked) if name not in self.scorers]
            if unknown:
                raise bad_request([self._unknown(f"scorers[{index}]", name) for index, name in unknown])
        names = [asked if asked is not None else self._defaults(item.task) for item in request.items]
        params = self._params(request.params, {name for item_names in names for name in item_names})
        return _Plan([item.to_score_item() for item in request.items], names, params)

    def _defaults(self, task: Task) -> tuple[str, ...]:
        return tuple(name for name in default_scorers(task) if name in self.scorers)

    def _params(self, given: Mapping[str, Mapping[str, float]], names: set[str]) -> dict[str, Settings]:
        """Each scorer's parameters: its defaults, then the service's settings, then the request."""
        wrong: list[FieldProblem] = [self._unknown("params", name) for name in given if name not in self.scorers]
        params: dict[str, Settings] = {}
        for name in names | (given.keys() & self.scorers.keys()):
            values = {**self._settings.params.get(name, {}), **given.get(name, {})}
            try:
                params[name] = self.scorers[name].params.model_validate(values)
            except ValidationError as error:
                wrong.extend(field_problems(error, prefix=("params", name)))
        if wrong:
            raise bad_request(wrong)
        return params

    def _unknown(self, field: str, name: str) -> FieldProblem:
        nearest = difflib.get_close_matches(name, self.scorers, n=1)
        hint = f"did you mean {nearest[0]}?" if nearest else f"known are {', '.join(self.scorers)}"
        return FieldProblem(field=field, rule=f"names a scorer that there is not; {hint}")

    def _response(self, request: ScoreRequest, outcomes: Sequence[Outcome], plan: _Plan) -> ScoreResponse:
        used = sorted({name for names in plan.names for name in names})
        return ScoreResponse(
            results=tuple(
                ItemResult(id=item.id, scores=outcome.scores, errors=outcome.errors)
                for item, outcome in zip(request.items, outcomes, strict=True)
            ),
            versions={name: self.scorers[name].version for name in used},
        )


def _load_scorer(scorer: Scorer[Settings]) -> ScorerState:
    try:
        scorer.load(Resources())
    except Exception as error:  # noqa: BLE001 - the border: a scorer that can't be loaded is a state, not a crash
        _log.warning("scorer %s could not be loaded: %s", scorer.name, type(error).__name__)
        return ScorerState(state="failed", remedy=scorer.remedy)
    return ScorerState(state="ready")
