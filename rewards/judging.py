"""Judging: asks a language model behind an OpenAI-compatible endpoint, and waits out its outages.

Role: what all judges share: pooled connections, bounded concurrency, retries within a deadline, errors as codes.
Input: a prompt, a parser of the reply. Output: a Score, or a ScoreError without any word of report, prompt or reply.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any
from weakref import WeakKeyDictionary

import httpx
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rewards.resources import JudgeSettings, NotReadyError, Resources
from schemas.errors import RewardError
from schemas.group import Score, ScoreError

_CONNECT_S = 5.0
_FIRST_WAIT_S = 0.2
_LONGEST_WAIT_S = 5.0  # between two attempts, where the endpoint names no time
_JITTER_S = 0.5  # spreads the judgements that wait for the same endpoint
_SEED = 0
# Timeout, conflict, too many requests and what proxies and servers say while they start or drown.
_TRANSIENT = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
# What servers without structured output say to a request for it.
_NO_SCHEMA = frozenset({400, 404, 415, 422, 501})


class UnparsableError(ValueError):
    """A reply is not in the form that was asked for. Its message names the rule, never the reply's words."""


@dataclass(frozen=True)
class Judgement:
    """What a judge is asked.

    Attributes:
        prompt: the whole user message; reports in it are quoted (``rewards.quoting``).
        parse: makes a score of the reply, or raises UnparsableError.
        schema: JSON schema of the reply, asked for where the endpoint knows structured output.
    """

    prompt: str
    parse: Callable[[str], Score]
    schema: Mapping[str, Any] | None = None


class _Lenient(BaseModel):
    # Endpoints add fields of their own. Inputs hidden: an error must not print a reply.
    model_config = ConfigDict(extra="ignore", frozen=True, hide_input_in_errors=True)


class _Message(_Lenient):
    content: str | None = None


class _Choice(_Lenient):
    message: _Message
    finish_reason: str | None = None


class _Reply(_Lenient):
    choices: tuple[_Choice, ...] = Field(min_length=1)


class _TransientError(Exception):
    """An attempt that may go better next time."""

    def __init__(self, code: str, message: str, retry_after_s: float | None = None) -> None:
        self.code = code
        self.retry_after_s = retry_after_s
        super().__init__(message)


def retry_after_s(response: httpx.Response) -> float | None:
    """Seconds that the endpoint asks to wait: ``Retry-After`` as seconds or as a date."""
    given = response.headers.get("retry-after", "").strip()
    if given.isascii() and given.isdecimal():
        return float(given)
    try:
        return max(0.0, parsedate_to_datetime(given).timestamp() - time.time())
    except ValueError:
        return None


class Judge:
    """One judge's endpoint, for one event loop.

    Args:
        name: the scorer's name; begins every message.
        settings: the endpoint.
        token: its bearer token, or None.
    """

    def __init__(self, name: str, settings: JudgeSettings, token: str | None) -> None:
        self._name = name
        self._settings = settings
        self._url = f"{settings.address.rstrip('/')}/chat/completions"
        self._slots = asyncio.Semaphore(settings.concurrency)
        self._structured = True  # until the endpoint shows that it can't
        self._failing_since: float | None = None
        self._failed_at = 0.0
        self._http = httpx.AsyncClient(
            headers={} if token is None else {"Authorization": f"Bearer {token}"},
            limits=httpx.Limits(max_connections=settings.concurrency, max_keepalive_connections=settings.concurrency),
            # A judgement's deadline bounds the rest: a long reply is no fault.
            timeout=httpx.Timeout(None, connect=min(_CONNECT_S, settings.deadline_s)),
            # Reports must not leave through a proxy that happens to be in the environment.
            trust_env=False,
        )

    async def close(self) -> None:
        """Closes the pooled connections."""
        await self._http.aclose()

    async def ask(self, judgement: Judgement) -> str:
        """The judge's reply.

        The deadline begins when a slot is free: a long queue is the service's own, not the endpoint's fault.

        Raises:
            RewardError: ``judge_unreachable``, ``judge_busy`` (429, 503), ``judge_failing`` (other 5xx) or
                ``judge_deadline`` when the deadline passed, by the last attempt; ``judge_unauthorized``,
                ``judge_refused`` (other 4xx); ``judge_bad_reply`` (not OpenAI's form), ``judge_truncated``,
                ``judge_unparsable`` (no text).
        """
        async with self._slots:
            last: _TransientError | None = None
            try:
                async with asyncio.timeout(self._settings.deadline_s):
                    started = time.monotonic()
                    for attempt in itertools.count():
                        try:
                            return await self._ask_once(judgement)
                        except _TransientError as failure:
                            last = failure
                            wait_s = self._wait_s(attempt, failure)
                            if self._long_gone() or time.monotonic() + wait_s > started + self._settings.deadline_s:
                                break
                            await asyncio.sleep(wait_s)
            except TimeoutError:
                pass
            deadline = f"no judgement within {self._settings.deadline_s:g} s"
            if last is None:
                raise RewardError("judge_deadline", f"{self._name}: {deadline}")
            raise RewardError(last.code, f"{self._name}: {deadline}; last: {last}")

    def _wait_s(self, attempt: int, failure: _TransientError) -> float:
        named_s = failure.retry_after_s
        wait_s = min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2.0 ** min(attempt, 10)) if named_s is None else named_s
        return wait_s + random.uniform(0.0, _JITTER_S)

    def _long_gone(self) -> bool:
        """Every attempt of a whole deadline failed: each further judgement gets one attempt only.

        Else an endpoint that is down would cost a request of 1,000 items a deadline for every ``concurrency`` of them.
        """
        now = time.monotonic()
        # What failed before a quiet time says nothing about now.
        if self._failing_since is None or now - self._failed_at > self._settings.deadline_s:
            self._failing_since = now
        self._failed_at = now
        return now - self._failing_since > self._settings.deadline_s

    async def _ask_once(self, judgement: Judgement) -> str:
        structured = self._structured and judgement.schema is not None
        response = await self._post(self._body(judgement, structured))
        if structured and response.status_code in _NO_SCHEMA:
            response = await self._post(self._body(judgement, structured=False))
            if response.status_code == 200:  # else the schema was not what it minded
                self._structured = False
        self._check_status(response, judgement)
        return self._content(response)

    def _body(self, judgement: Judgement, structured: bool) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self._settings.model,
            "messages": [{"role": "user", "content": judgement.prompt}],
            "temperature": 0.0,
            "seed": _SEED,
            "max_tokens": self._settings.max_tokens,
        }
        if structured:
            schema = {"name": "judgement", "strict": True, "schema": judgement.schema}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        return body

    async def _post(self, body: dict[str, Any]) -> httpx.Response:
        try:
            return await self._http.post(self._url, json=body)
        except (httpx.TransportError, httpx.DecodingError) as error:
            raise _TransientError("judge_unreachable", type(error).__name__) from None

    def _check_status(self, response: httpx.Response, judgement: Judgement) -> None:
        status = response.status_code
        said = f"HTTP {status}"
        if status in _TRANSIENT:
            code = "judge_busy" if status in (429, 503) else "judge_failing"
            raise _TransientError(code, said, retry_after_s(response))
        self._failing_since = None
        if status == 200:
            return
        if status in (401, 403):
            raise RewardError("judge_unauthorized", f"{self._name}: {said}; see reward.judges.{self._name}.token_file")
        # Never the reply's words: endpoints quote the request in them.
        hint = f"is reward.judges.{self._name}.model right, and do prompt and max_tokens fit the judge's context?"
        message = f"{self._name}: {said} to a prompt of {len(judgement.prompt)} characters; {hint}"
        raise RewardError("judge_refused", message)

    def _content(self, response: httpx.Response) -> str:
        try:
            choice = _Reply.model_validate_json(response.content).choices[0]
        except ValidationError as error:
            message = f"{self._name}: not a chat completion, {error.error_count()} fields do not fit"
            raise RewardError("judge_bad_reply", message) from None
        if choice.finish_reason == "length":
            message = f"{self._name}: the reply was cut off; raise reward.judges.{self._name}.max_tokens"
            raise RewardError("judge_truncated", message)
        if not choice.message.content:
            raise RewardError("judge_unparsable", f"{self._name}: the reply has no text")
        return choice.message.content


# A connection belongs to the event loop that opened it; a loop's judges go with it.
_JUDGES: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[tuple[str, JudgeSettings], Judge]] = WeakKeyDictionary()


def settings_of(name: str, resources: Resources, example: str) -> JudgeSettings:
    """The judge's endpoint, which need not answer yet; for a scorer's ``load``.

    Args:
        example: a command that starts such an endpoint.

    Raises:
        NotReadyError: the settings name none, or its token can't be read.
    """
    settings = resources.judges.get(name)
    if settings is None:
        raise NotReadyError(f"{name} has no endpoint: set reward.judges.{name}.address and .model, e.g. of `{example}`")
    if not re.fullmatch(r"https?://[^\s/?#]+(/[^\s?#]*)?", settings.address):
        raise NotReadyError(f"{name}: reward.judges.{name}.address must be a URL like http://judge:8000/v1")
    _token(name, settings)
    return settings


def _token(name: str, settings: JudgeSettings) -> str | None:
    if settings.token_file is None:
        return None
    try:
        token = settings.token_file.expanduser().read_text().strip()
    except (OSError, UnicodeError) as error:
        raise NotReadyError(
            f"{name}: reward.judges.{name}.token_file {settings.token_file} can't be read: {type(error).__name__}"
        ) from None
    if not (token.isascii() and token.isprintable() and token):
        raise NotReadyError(f"{name}: reward.judges.{name}.token_file {settings.token_file} must hold one token")
    return token


def _judge_of(name: str, settings: JudgeSettings) -> Judge:
    judges = _JUDGES.setdefault(asyncio.get_running_loop(), {})
    key = (name, settings)
    if key not in judges:
        judges[key] = Judge(name, settings, _token(name, settings))
    return judges[key]


async def close_judges() -> None:
    """Closes the running loop's connections; for a service's end."""
    for judge in _JUDGES.pop(asyncio.get_running_loop(), {}).values():
        await judge.close()


async def judged(name: str, resources: Resources, judgement: Judgement) -> Score | ScoreError:
    """The score that a judge's reply holds, or why there is none.

    A cancelled call closes its request, so that the endpoint stops generating.
    """
    judge = _judge_of(name, resources.judges[name])
    try:
        return judgement.parse(await judge.ask(judgement))
    except RewardError as error:
        return ScoreError(code=error.code, message=error.message)
    except UnparsableError as error:
        return ScoreError(code="judge_unparsable", message=f"{name}: {error}")
