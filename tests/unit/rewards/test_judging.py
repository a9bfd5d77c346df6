"""judging: whatever an endpoint does, an item gets a score or a named error, within its deadline."""

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards import judging
from rewards.judging import Judgement, UnparsableError, close_judges, judged, retry_after_s, settings_of
from rewards.resources import JudgeSettings, NotReadyError, Resources
from schemas.group import Score, ScoreError

SECRET = "left pneumothorax of Mrs Example"
Reply = tuple[int, dict[str, str], bytes] | None  # None: the connection is dropped
Handler = Callable[[int, dict[str, Any]], Awaitable[Reply]]


def completion(content: object, finish_reason: str = "stop") -> Reply:
    choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": finish_reason}
    return 200, {}, json.dumps({"id": "x", "object": "chat.completion", "choices": [choice], "usage": {}}).encode()


class Endpoint:
    """A fake judge on a real socket: one handler for all requests, called with the request's number from 1."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[str] = []
        self.connections = 0
        self.open_now = 0
        self.most_at_once = 0
        self.abandoned = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = next(
                    int(line.split(b":")[1]) for line in head.splitlines() if line.lower().startswith(b"content-l")
                )
                self.headers.append(head.decode())
                self.bodies.append(json.loads(await reader.readexactly(length)))
                reply = await self._answer(reader)
                if reply is None:
                    break
                status, headers, body = reply
                lines = [
                    f"HTTP/1.1 {status} X",
                    f"Content-Length: {len(body)}",
                    *(f"{k}: {v}" for k, v in headers.items()),
                ]
                writer.write("\r\n".join([*lines, "", ""]).encode() + body)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader) -> Reply:
        self.open_now += 1
        self.most_at_once = max(self.most_at_once, self.open_now)
        answer = asyncio.ensure_future(self._handler(len(self.bodies), self.bodies[-1]))
        gone = asyncio.ensure_future(reader.read(1))  # a client sends nothing while it waits, unless it closes
        try:
            await asyncio.wait({answer, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                self.abandoned.set()
                return None
            return answer.result()
        finally:
            self.open_now -= 1
            for task in (answer, gone):
                task.cancel()
            await asyncio.gather(answer, gone, return_exceptions=True)


@asynccontextmanager
async def judge(handler: Handler, **settings: Any) -> AsyncIterator[tuple[Endpoint, Resources]]:
    endpoint = Endpoint(handler)
    server = await asyncio.start_server(endpoint.serve, "127.0.0.1", 0)
    address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1/"
    table = JudgeSettings(**{"address": address, "model": "the-judge", "deadline_s": 20.0, **settings})
    try:
        yield endpoint, Resources(judges={"llm_judge": table})
    finally:
        await close_judges()
        server.close()
        await server.wait_closed()


def parse(reply: str) -> Score:
    if reply != "seven":
        raise UnparsableError("the reply is not seven")
    return Score(value=0.7)


async def ask(resources: Resources, prompt: str = SECRET, schema: dict[str, Any] | None = None) -> Score | ScoreError:
    return await judged("llm_judge", resources, Judgement(prompt, parse, schema))


async def code_of(resources: Resources) -> str:
    result = await ask(resources)
    assert isinstance(result, ScoreError)
    assert SECRET not in result.message
    assert result.message.startswith("llm_judge: ")
    return result.code


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judging, "_FIRST_WAIT_S", 0.001)
    monkeypatch.setattr(judging, "_JITTER_S", 0.001)


@pytest.fixture
def no_second_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wait before the second attempt that no deadline has room for."""
    monkeypatch.setattr(judging, "_FIRST_WAIT_S", 1e9)
    monkeypatch.setattr(judging, "_LONGEST_WAIT_S", 1e9)


def script(*replies: Reply) -> Handler:
    """The n-th request gets the n-th reply, all further ones the last."""

    async def handler(number: int, _: dict[str, Any]) -> Reply:
        return replies[min(number, len(replies)) - 1]

    return handler


SEVEN = completion("seven")


async def test_a_reply_becomes_a_score() -> None:
    async with judge(script(SEVEN), max_tokens=99) as (endpoint, resources):
        assert await ask(resources) == Score(value=0.7)
    (body,) = endpoint.bodies
    assert body["messages"] == [{"role": "user", "content": SECRET}]
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("the-judge", 0.0, 99)
    assert isinstance(body["seed"], int)
    assert endpoint.headers[0].startswith("POST /v1/chat/completions ")
    assert "authorization" not in endpoint.headers[0].lower()


async def test_the_token_of_the_file_is_sent_and_never_shown(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("a-judges-token\n")
    async with judge(script((401, {}, b"")), token_file=file) as (endpoint, resources):
        result = await ask(resources)
    assert isinstance(result, ScoreError)
    assert result.code == "judge_unauthorized"
    assert "a-judges-token" not in result.message
    assert "Authorization: Bearer a-judges-token\r\n" in endpoint.headers[0]


async def test_connections_are_pooled_and_requests_in_flight_bounded() -> None:
    async def slowly(_: int, __: dict[str, Any]) -> Reply:
        await asyncio.sleep(0.01)
        return SEVEN

    async with judge(slowly, concurrency=3) as (endpoint, resources):
        results = await asyncio.gather(*[ask(resources) for _ in range(20)])
    assert results == [Score(value=0.7)] * 20
    assert endpoint.most_at_once == 3
    assert endpoint.connections == 3


@pytest.mark.parametrize(
    "failure",
    [(429, {"Retry-After": "0"}, b""), (429, {}, b"{"), (500, {}, b"oops"), (502, {}, b""), (503, {}, b""), None],
)
async def test_a_passing_fault_is_tried_again(failure: Reply) -> None:
    async with judge(script(failure, failure, SEVEN)) as (endpoint, resources):
        assert await ask(resources) == Score(value=0.7)
    assert len(endpoint.bodies) == 3
    assert endpoint.bodies[0] == endpoint.bodies[2]


async def test_retry_after_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    waits = []
    sleep = asyncio.sleep

    async def recorded(seconds: float) -> None:
        waits.append(seconds)
        await sleep(0)

    async with judge(script((429, {"Retry-After": "7"}, b""), SEVEN)) as (_, resources):
        monkeypatch.setattr("rewards.judging.asyncio.sleep", recorded)
        assert await ask(resources) == Score(value=0.7)
    (wait,) = (seconds for seconds in waits if seconds > 0)
    assert 7.0 <= wait < 7.1


async def test_a_retry_after_beyond_the_deadline_ends_at_once() -> None:
    async with judge(script((429, {"Retry-After": "3600"}, b""))) as (endpoint, resources):
        assert await asyncio.wait_for(code_of(resources), 10.0) == "judge_busy"
    assert len(endpoint.bodies) == 1


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        ((500, {}, SECRET.encode()), "judge_failing"),
        ((503, {}, SECRET.encode()), "judge_busy"),
        (None, "judge_unreachable"),
        ((400, {}, SECRET.encode()), "judge_refused"),
        ((404, {}, SECRET.encode()), "judge_refused"),
        ((302, {"Location": "http://elsewhere/"}, b""), "judge_refused"),
        ((403, {}, SECRET.encode()), "judge_unauthorized"),
        ((200, {}, SECRET.encode()), "judge_bad_reply"),
        ((200, {}, b"\xff\xfe"), "judge_bad_reply"),
        ((200, {}, b"[" * 100_000), "judge_bad_reply"),
        ((200, {}, json.dumps({"choices": [], "error": SECRET}).encode()), "judge_bad_reply"),
        (completion({"text": SECRET}), "judge_bad_reply"),
        (completion(None), "judge_unparsable"),
        (completion(""), "judge_unparsable"),
        (completion(SECRET), "judge_unparsable"),
        (completion("seven", finish_reason="length"), "judge_truncated"),
    ],
)
async def test_a_lasting_fault_is_its_own_error_and_no_number(
    reply: Reply, code: str, caplog: pytest.LogCaptureFixture, no_second_attempt: None
) -> None:
    caplog.set_level(logging.DEBUG)
    async with judge(script(reply)) as (_, resources):
        assert await code_of(resources) == code
    assert SECRET not in caplog.text


async def test_a_judge_that_hangs_is_given_up_at_the_deadline() -> None:
    async def hang(_: int, __: dict[str, Any]) -> Reply:
        await asyncio.Event().wait()
        raise AssertionError

    async with judge(hang, deadline_s=0.2) as (endpoint, resources):
        assert await code_of(resources) == "judge_deadline"
        await asyncio.wait_for(endpoint.abandoned.wait(), 10.0)


async def test_waiting_for_a_slot_does_not_use_up_the_deadline() -> None:
    async def slowly(_: int, __: dict[str, Any]) -> Reply:
        await asyncio.sleep(0.2)
        return SEVEN

    async with judge(slowly, concurrency=1, deadline_s=2.0) as (_, resources):
        results = await asyncio.gather(*[ask(resources) for _ in range(15)])  # 3 s in all
    assert results == [Score(value=0.7)] * 15


async def test_nobody_listening_is_unreachable(no_second_attempt: None) -> None:
    async with judge(script(SEVEN)) as (_, resources):
        pass
    assert await code_of(resources) == "judge_unreachable"
    await close_judges()


async def test_after_an_outage_of_a_deadline_each_judgement_tries_once_until_one_succeeds() -> None:
    async with judge(script(*[(500, {}, b"")] * 3, SEVEN)) as (endpoint, resources):
        client = judging._judge_of("llm_judge", resources.judges["llm_judge"])
        client._failing_since, client._failed_at = -1e9, time.monotonic()
        for requests in (1, 2, 3):
            assert await code_of(resources) == "judge_failing"
            assert len(endpoint.bodies) == requests
        assert await ask(resources) == Score(value=0.7)
        assert client._failing_since is None


async def test_a_cancelled_judgement_closes_its_request_and_frees_its_slot() -> None:
    asked = asyncio.Event()

    async def hang_once(number: int, _: dict[str, Any]) -> Reply:
        if number == 1:
            asked.set()
            await asyncio.Event().wait()
        return SEVEN

    async with judge(hang_once, concurrency=1) as (endpoint, resources):
        task = asyncio.ensure_future(ask(resources))
        await asyncio.wait_for(asked.wait(), 10.0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(endpoint.abandoned.wait(), 10.0)
        assert await ask(resources) == Score(value=0.7)


SCHEMA = {"type": "object"}


async def test_a_schema_is_asked_for_where_there_is_one() -> None:
    async with judge(script(SEVEN)) as (endpoint, resources):
        await ask(resources, schema=SCHEMA)
        await ask(resources)
    form = {"type": "json_schema", "json_schema": {"name": "judgement", "strict": True, "schema": SCHEMA}}
    assert endpoint.bodies[0]["response_format"] == form
    assert "response_format" not in endpoint.bodies[1]


async def test_an_endpoint_without_schemas_is_asked_without_from_then_on() -> None:
    async def old(_: int, body: dict[str, Any]) -> Reply:
        return (400, {}, b"") if "response_format" in body else SEVEN

    async with judge(old) as (endpoint, resources):
        for _ in range(3):
            assert await ask(resources, schema=SCHEMA) == Score(value=0.7)
    assert ["response_format" in body for body in endpoint.bodies] == [True, False, False, False]


async def test_a_refusal_for_another_reason_does_not_give_schemas_up() -> None:
    async with judge(script((400, {}, b""), (400, {}, b""), SEVEN)) as (endpoint, resources):
        assert isinstance(await ask(resources, schema=SCHEMA), ScoreError)
        assert await ask(resources, schema=SCHEMA) == Score(value=0.7)
    assert ["response_format" in body for body in endpoint.bodies] == [True, False, True]


def test_each_event_loop_has_its_own_connections() -> None:
    async def once() -> int:
        async with judge(script(SEVEN)) as (_, resources):
            assert await ask(resources) == Score(value=0.7)
        return len(judging._JUDGES)

    assert asyncio.run(once()) == asyncio.run(once())


@pytest.mark.parametrize("content", [None, b"", b"two\nlines", b"\xff"])
def test_a_token_file_that_holds_no_token_is_not_ready(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "token"
    if content is not None:
        file.write_bytes(content)
    settings = JudgeSettings(address="https://judge/v1", model="m", token_file=file)
    with pytest.raises(NotReadyError, match=r"reward\.judges\.green\.token_file"):
        settings_of("green", Resources(judges={"green": settings}), "x")


@given(
    st.one_of(st.text(st.characters(max_codepoint=255), max_size=40), st.sampled_from(["9" * 400, "²", "-5", "1.5"]))
)
def test_any_retry_after_is_seconds_or_nothing(given_header: str) -> None:
    seconds = retry_after_s(httpx.Response(429, headers=[(b"retry-after", given_header.encode("latin-1"))]))
    assert seconds is None or seconds >= 0.0


@pytest.mark.parametrize(
    ("header", "low", "high"), [("5", 5, 5), ("Thu, 01 Jan 1970 00:00:00 GMT", 0, 0), ("x", None, None)]
)
def test_retry_after_is_seconds_or_a_date(header: str, low: float | None, high: float | None) -> None:
    seconds = retry_after_s(httpx.Response(429, headers={"Retry-After": header}))
    assert seconds == low == high
