"""RewardClient: asks the reward service for a group's scores, and waits out its outages.

Role: the only way from a RolloutGroup to its scores. One request a group, pooled connections.
Input: a group, scorer names, parameters. Output: the group with scores and errors filled in, or a RewardError.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import httpx
import stamina
from pydantic import ValidationError

from rewards.merging import RequestMerger
from rewards.wire import (
    Item,
    ItemReference,
    ItemResult,
    ParamValue,
    Problem,
    Readiness,
    ReferenceBox,
    ScoreRequest,
    ScoreResponse,
)
from schemas.errors import DeadlineError, RewardError
from schemas.group import Completion, RolloutGroup
from schemas.prompt import Reference

_SLOTS = 8  # requests in flight per address; more only queue in the service, and httpx's pool gets slow with them
_CONNECT_S = 5.0
_FIRST_WAIT_S = 0.1
_LONGEST_WAIT_S = 2.0  # between two attempts: an outage's end is noticed this soon
_JITTER_S = 0.5  # spreads the groups that wait for the same service
_LONGEST_RETRY_AFTER_S = 30.0
_READY_POLL_S = 0.1
_SERVICE_SHARE = 0.9  # of an attempt's time, for the service to answer in
_AVOID_S = 5.0  # an address that could not be reached is left out this long

_REFUSALS = {401: "unauthorized", 403: "unauthorized", 413: "too_large"}


@dataclass(frozen=True)
class RewardAccess:
    """Where scores come from."""

    addresses: tuple[str, ...]
    token: str | None


@dataclass(frozen=True)
class Retry:
    """One failed attempt that will be tried again; tells of an outage without any text of the group.

    Attributes:
        cause: unreachable, slow, busy, not_ready or server_error.
        attempt: which attempt of this request failed, from 1.
        waited_s: seconds since the request's first attempt.
    """

    address: str
    cause: str
    attempt: int
    waited_s: float


class _TransientError(Exception):
    """An attempt that may go better next time."""

    def __init__(self, cause: str, address: str, retry_after_s: float | None = None) -> None:
        self.cause = cause
        self.address = address
        self.retry_after_s = retry_after_s
        super().__init__(f"{cause} at {address}")


def _backoff(error: Exception) -> bool | float:
    """stamina's hook: retry at all, and after how long where the service said so."""
    if not isinstance(error, _TransientError):
        return False
    if error.retry_after_s is None:
        return True
    return error.retry_after_s + random.uniform(0.0, _JITTER_S)


def _retry_after(response: httpx.Response) -> float | None:
    given = response.headers.get("retry-after", "")
    return min(float(given), _LONGEST_RETRY_AFTER_S) if given.isdecimal() else None


def wire_reference(reference: Reference) -> ItemReference:
    """A prompt's reference as it travels."""
    boxes = reference.boxes
    return ItemReference(
        boxes=None if boxes is None else tuple(ReferenceBox(box=b.corners, label=b.label) for b in boxes),
        report=reference.report,
        labels=reference.labels,
    )


def group_request(
    group: RolloutGroup, scorers: Sequence[str], params: Mapping[str, Mapping[str, ParamValue]]
) -> ScoreRequest:
    """The one request of a group; an item's id is its completion's index."""
    prompt = group.prompt
    reference = wire_reference(prompt.reference)
    # The paper's sign that a question wants a reasoning trace.
    thinking = prompt.question.rstrip().endswith("/think")
    items = tuple(
        Item(
            id=str(index),
            task=prompt.task,
            completion=completion.text,
            box_format=prompt.box_format,
            reference=reference,
            question=prompt.question,
            thinking=thinking,
            token_count=len(completion.token_ids),
            finish_reason=completion.finish_reason,
        )
        for index, completion in enumerate(group.completions)
    )
    return ScoreRequest(items=items, scorers=tuple(scorers), params={name: dict(p) for name, p in params.items()})


def _scored(completion: Completion, result: ItemResult) -> Completion:
    return completion.model_copy(update={"scores": result.scores, "errors": result.errors})


class RewardClient:
    """Asks one or more equal services in turn; what fails at one is tried at the next.

    Args:
        addresses: base URLs.
        token: the services' bearer token, or None.
        deadline_s: seconds until a group's scores must be there, retries included.
        on_retry: told of every failed attempt that will be repeated, e.g. to record an outage.
    """

    def __init__(
        self,
        addresses: Sequence[str],
        token: str | None,
        deadline_s: float,
        *,
        on_retry: Callable[[Retry], None] | None = None,
    ) -> None:
        if not addresses:
            raise ValueError("a RewardClient needs at least one address")
        self._addresses = [address.rstrip("/") for address in addresses]
        self._next_address = itertools.cycle(self._addresses)
        self._unreachable_until: dict[str, float] = {}
        self._deadline_s = deadline_s
        # Half the deadline, so that a hung service leaves time to ask again, or another one.
        self._attempt_s = deadline_s / 2
        self._on_retry = on_retry
        self._last_failure: _TransientError | None = None
        slots = _SLOTS * len(addresses)
        self._merger = RequestMerger(self._post, slots)
        self._http = httpx.AsyncClient(
            headers={} if token is None else {"Authorization": f"Bearer {token}"},
            limits=httpx.Limits(max_connections=slots, max_keepalive_connections=slots),
            timeout=httpx.Timeout(self._attempt_s, connect=min(_CONNECT_S, self._attempt_s), pool=deadline_s),
            # A proxy of the environment is for the way out; the services are inside, most often on loopback.
            trust_env=False,
        )

    async def close(self) -> None:
        """Ends what is under way and closes the pooled connections."""
        await self._merger.close()
        await self._http.aclose()

    async def score_group(
        self, group: RolloutGroup, scorers: Sequence[str], params: Mapping[str, Mapping[str, ParamValue]]
    ) -> RolloutGroup:
        """The group with each completion's scores and errors, and ``score_s``.

        Every scorer is in a completion's ``scores`` or in its ``errors``; no number is ever made up.

        Raises:
            RewardError: the deadline passed (code of the last failed attempt, or ``deadline``), the service refused
                the request (``bad_request``, ``unauthorized``, ``too_large``), or its reply does not fit the request
                (``bad_reply``).
        """
        if not group.completions:
            return group
        started = time.monotonic()
        request = group_request(group, scorers, params)
        response = await self.score(request)
        completions = tuple(_scored(c, r) for c, r in zip(group.completions, response.results, strict=True))
        return group.model_copy(update={"completions": completions, "score_s": time.monotonic() - started})

    async def score(self, request: ScoreRequest) -> ScoreResponse:
        """The reply to a request of one's own, its results in the order of the items. Raises as ``score_group``.

        What is asked at the same time goes out together (``rewards.merging``).
        """
        started = time.monotonic()
        try:
            async with asyncio.timeout(self._deadline_s):
                return await self._merger.score(request)
        except TimeoutError:
            raise self._late(time.monotonic() - started) from None

    def _late(self, waited_s: float) -> RewardError:
        last = self._last_failure
        cause = "no reply yet" if last is None else f"last: {last}"
        return RewardError(
            "deadline" if last is None or last.cause == "slow" else last.cause,
            f"no scores within {waited_s:.3g} s from {', '.join(self._addresses)}; {cause}",
        )

    async def wait_ready(self, deadline_s: float, scorers: Sequence[str] = ()) -> None:
        """Waits until every service answers requests with our token, and can score with ``scorers``.

        Raises:
            DeadlineError: one was not ready in ``deadline_s`` seconds.
            RewardError: one refuses the token (``unauthorized``), does not know a scorer (``unknown_scorer``), or lacks
                what it needs (``not_ready``, with the service's remedy).
        """
        started = time.monotonic()
        for address in self._addresses:
            state = "no answer"
            try:
                async with asyncio.timeout(max(0.0, started + deadline_s - time.monotonic())):
                    while True:
                        state = await self._ready_state(address, scorers)
                        if state == "ready":
                            break
                        await asyncio.sleep(_READY_POLL_S)
            except TimeoutError:
                raise DeadlineError(
                    f"the reward service to be ready (last: {state})",
                    address,
                    time.monotonic() - started,
                    "look at its /readyz and its log, then start the run again",
                ) from None

    async def _ready_state(self, address: str, scorers: Sequence[str]) -> str:
        try:
            response = await self._http.get(f"{address}/readyz")
            if response.status_code != 200:
                return f"HTTP {response.status_code}"
            # /readyz asks for no token; a wrong one must show now, not at the first group.
            allowed = await self._http.get(f"{address}/v1/scorers")
        except httpx.RequestError as error:
            return type(error).__name__
        if allowed.status_code in _REFUSALS:
            raise _refusal(allowed)
        try:
            states = Readiness.model_validate_json(response.content).scorers
        except ValidationError:
            raise RewardError("bad_reply", f"{address}/readyz does not fit the contract") from None
        for name in scorers:
            if name not in states:
                raise RewardError("unknown_scorer", f"{address} has no scorer {name}; it has {', '.join(states)}")
            if states[name].state == "loading":
                return f"{name} is loading"
            if states[name].state != "ready":
                raise RewardError("not_ready", f"{name} at {address}: {states[name].remedy or states[name].state}")
        return "ready"

    async def _post(self, request: ScoreRequest) -> ScoreResponse:
        """Asks until there is an answer, or until nobody waits for it any more."""
        if request.deadline_s is None:
            # The service answers a little before we hang up: a hung item then costs itself, not the request.
            request = request.model_copy(update={"deadline_s": _SERVICE_SHARE * self._attempt_s})
        content = request.model_dump_json(exclude_defaults=True).encode()
        started = time.monotonic()
        async for attempt in stamina.retry_context(
            on=_backoff,
            attempts=None,
            timeout=None,
            wait_initial=_FIRST_WAIT_S,
            wait_max=_LONGEST_WAIT_S,
            wait_jitter=_JITTER_S,
        ):
            with attempt:
                try:
                    response = await self._post_once(self._address(), content)
                except _TransientError as failure:
                    self._last_failure = failure
                    if self._on_retry is not None:
                        waited_s = time.monotonic() - started
                        self._on_retry(Retry(failure.address, failure.cause, attempt.num, waited_s))
                    raise
        self._last_failure = None
        _check_reply(request, response)
        return response

    def _address(self) -> str:
        """The next service in turn, those that were unreachable a moment ago left out while there are others."""
        now = time.monotonic()
        for _ in self._addresses:
            address = next(self._next_address)
            if self._unreachable_until.get(address, now) <= now:
                return address
        return next(self._next_address)

    async def _post_once(self, address: str, content: bytes) -> ScoreResponse:
        try:
            response = await self._http.post(
                f"{address}/v1/score", content=content, headers={"Content-Type": "application/json"}
            )
        except (httpx.ReadTimeout, httpx.WriteTimeout, httpx.PoolTimeout):
            raise _TransientError("slow", address) from None
        except httpx.RequestError:
            self._unreachable_until[address] = time.monotonic() + _AVOID_S
            raise _TransientError("unreachable", address) from None
        if response.status_code == 429:
            raise _TransientError("busy", address, _retry_after(response))
        # The service has this path. A proxy before it answers 404 while the service is put up or taken down behind it.
        if response.status_code in (404, 503):
            raise _TransientError("not_ready", address, _retry_after(response))
        if response.status_code >= 500:
            raise _TransientError("server_error", address)
        if response.status_code != 200:
            raise _refusal(response)
        try:
            parsed = ScoreResponse.model_validate_json(response.content, strict=True)
        except ValidationError as error:
            raise RewardError("bad_reply", f"{address}: {error.error_count()} fields do not fit the contract") from None
        if parsed.results and all(_is_late(result) for result in parsed.results):
            raise _TransientError("slow", address)
        return parsed


def _is_late(result: ItemResult) -> bool:
    """Whether the service's deadline passed before it scored anything of an item."""
    return not result.scores and bool(result.errors) and all(e.code == "deadline" for e in result.errors.values())


def _refusal(response: httpx.Response) -> RewardError:
    """What a 4xx says; only our own service's words, which hold no text."""
    try:
        message = Problem.model_validate_json(response.content).message
    except ValidationError:
        message = "no explanation"
    code = _REFUSALS.get(response.status_code, "bad_request")
    return RewardError(code, f"{response.request.url}: HTTP {response.status_code}: {message}")


def _check_reply(request: ScoreRequest, response: ScoreResponse) -> None:
    """Raises RewardError unless the results are the ones that were asked for."""
    if [result.id for result in response.results] != [item.id for item in request.items]:
        raise RewardError("bad_reply", "the results are not those of the items, in their order")
    for result in response.results:
        for name in request.scorers or ():
            if (name in result.scores) == (name in result.errors):
                raise RewardError("bad_reply", f"item {result.id} must have either a score or an error of {name}")
