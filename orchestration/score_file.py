"""``overread rewards score``: a file of completions through a reward service, without a run.

    rows, checked first -> requests in flight -> results in the file's order -> means with 95 % intervals

Input: a ScoreJob. Output: the results' file, a summary on standard output, the exit status.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import sys
import tempfile
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from orchestration.progress import Display
from orchestration.score_rows import ScoreRow, check_suffix, read_rows, results_file
from orchestration.score_tally import Tally, show_summary
from orchestration.service import LocalRewardService, outside_access
from orchestration.stop import EXIT_DONE, EXIT_STOPPED, StopRequest
from rewards.client import Retry, RewardAccess, RewardClient
from rewards.plan import default_scorers
from rewards.settings import RewardServiceSettings
from rewards.wire import ScoreRequest, ScoreResponse, field_problems
from schemas.errors import ConfigError, DataError, OverreadError, RewardError
from schemas.prompt import Task as PromptTask

_IN_FLIGHT = 8  # requests; more would only wait in the service's queue
_REQUEST_CHARS = 2**20  # of a request's texts: a body stays far below the service's limit, whatever the batch
_READY_S = 60.0
_ITEM = re.compile(r"items\[(\d+)\]\.?")
# What a service says of itself before anything is scored, by the option that is to blame.
_BLAMED = {"unknown_scorer": "--scorers", "not_ready": "--scorers", "unauthorized": "--token-file"}


@dataclass(frozen=True)
class ScoreJob:
    """One call of the command.

    Attributes:
        scorers: None for every scorer of the row's task that needs no weights.
        settings: where the services are, their limits, and what a local one is started with.
    """

    source: Path
    scorers: tuple[str, ...] | None
    out: Path | None
    settings: RewardServiceSettings
    batch: int
    as_json: bool

    @property
    def params(self) -> dict[str, dict[str, float | bool | str]]:
        """What each request carries: a local service is started with its parameters."""
        if not self.settings.addresses:
            return {}
        params = self.settings.params
        return {name: params[name] for name in params if self.scorers is None or name in self.scorers}


@dataclass(frozen=True)
class Checked:
    """What the first pass over the file found."""

    rows: int
    tasks: frozenset[PromptTask]


def make_job(
    source: Path,
    scorers: str | None,
    out: Path | None,
    base: RewardServiceSettings,
    addresses: Sequence[str],
    token_file: Path | None,
    params: Sequence[str],
    batch: int,
    as_json: bool,
) -> ScoreJob:
    """The job of a command line, checked as far as that is possible without the file and the service.

    Raises:
        ConfigError: an option is wrong.
    """
    check_suffix("FILE", source)
    if out is not None:
        check_suffix("--out", out)
        if not out.parent.is_dir():
            raise ConfigError("--out", "must lie in a folder that exists", out, f"make it: mkdir -p {out.parent}")
        if out.exists() and source.exists() and out.samefile(source):
            raise ConfigError("--out", "must not be the file that is scored", out, "choose another name")
    names = (
        None if scorers is None else tuple(dict.fromkeys(name.strip() for name in scorers.split(",") if name.strip()))
    )
    if names is not None and not names:
        raise ConfigError("--scorers", "must name scorers, separated by commas", repr(scorers), "e.g. soft_f1,rouge_l")
    values: dict[str, Any] = {**base.model_dump(), "params": _merged(base.params, params, names)}
    if names is not None:
        values["scorers"] = names
    if addresses:
        values["addresses"] = tuple(addresses)
    if token_file is not None:
        values["token_file"] = token_file
    try:
        settings = RewardServiceSettings.model_validate(values)
    except ValidationError as error:
        problem, options = field_problems(error)[0], " ".join([scorers or "", *params])
        raise ConfigError(
            f"options: {problem.field}".removesuffix(": body"), problem.rule, options, "see GET /v1/scorers"
        ) from None
    return ScoreJob(source, names, out, settings, batch, as_json)


def _merged(
    base: Mapping[str, Mapping[str, Any]], given: Sequence[str], scorers: Sequence[str] | None
) -> dict[str, dict[str, Any]]:
    """``["soft_f1.max_boxes=10"]`` into the settings' own parameters."""
    merged = {name: dict(values) for name, values in base.items()}
    for text in given:
        key, equals, value = text.partition("=")
        scorer, dot, name = key.partition(".")
        if not (equals and dot and scorer and name and value):
            raise ConfigError("--params", "must be SCORER.PARAMETER=VALUE", text, "e.g. soft_f1.empty_match_value=0.0")
        if scorers is not None and scorer not in scorers:
            raise ConfigError("--params", "must be of a scorer that --scorers names", text, "name it, or leave it out")
        merged.setdefault(scorer, {})[name] = _value(value)
    return merged


def _value(text: str) -> float | bool | str:
    if text in ("true", "false"):
        return text == "true"
    try:
        return float(text)
    except ValueError:
        return text


async def score_command(job: ScoreJob) -> int:
    """Scores the file; the exit status. The first signal stops it, and nothing half-written is left."""
    display = Display(Console(stderr=job.as_json, highlight=False, soft_wrap=True))
    with StopRequest().on_signals() as stop:
        status = await stop.first(_score(job, display))
    if status is None:
        kept = "" if job.out is None else f"; {job.out} was not written"
        sys.stderr.write(f"overread: stopped by {stop.signal_name}{kept}\n")
        return EXIT_STOPPED
    return status


async def _score(job: ScoreJob, display: Display) -> int:
    checked = await _check(job)
    tally, versions, started = Tally(), {}, time.monotonic()
    try:
        async with _client(job, checked.tasks) as client:
            started = time.monotonic()
            with results_file(job.out) as results, _bar(checked.rows) as advance:
                async for rows, response in _responses(job, client):
                    results.write(response.results)
                    for row, result in zip(rows, response.results, strict=True):
                        tally.add(result, row.patient_id)
                    versions.update(response.versions)
                    advance(len(rows))
    except OSError as error:
        raise OverreadError(f"{job.out or 'the results'} could not be written: {error.strerror}") from error
    seconds = time.monotonic() - started
    summary = {
        "file": str(job.source),
        "out": None if job.out is None else str(job.out),
        **tally.summary(job.settings.known_scorers, versions),
        "seconds": round(seconds, 3),
        "items_per_s": round(tally.rows / seconds, 1),
    }
    if job.as_json:
        sys.stdout.write(f"{json.dumps(summary)}\n")
        return EXIT_DONE
    show_summary(summary, tally.error_lines(), display)
    written = "" if job.out is None else f", wrote {job.out}"
    display.note(f"{tally.rows} rows in {seconds:.1f} s, {summary['items_per_s']:g} a second{written}")
    return EXIT_DONE


async def _check(job: ScoreJob) -> Checked:
    """Reads every row once, so that a bad one is told before anything is scored.

    Raises:
        DataError: a row breaks a rule, or there are none.
    """
    tasks: set[PromptTask] = set()
    count = 0
    # Somebody else's service has limits of its own; what it refuses is told when it does.
    longest = None if job.settings.addresses else job.settings.max_text_chars
    for row in read_rows(job.source):
        count += 1
        tasks.add(row.item.task)
        if longest is not None:
            _check_lengths(row, longest)
        if count % job.batch == 0:
            await asyncio.sleep(0)  # a signal is seen here
    if not count:
        raise DataError(str(job.source), "must hold at least one row", "none", "see: overread rewards score --help")
    return Checked(count, frozenset(tasks))


def _check_lengths(row: ScoreRow, longest: int) -> None:
    item = row.item
    texts = {"completion": item.completion, "question": item.question, "reference": item.reference.report}
    for name, text in texts.items():
        if text is not None and len(text) > longest:
            remedy = "shorten it, or give --config a file with a larger max_text_chars"
            raise DataError(f"{row.where}: {name}", f"must have at most {longest} characters", len(text), remedy)


@asynccontextmanager
async def _client(job: ScoreJob, tasks: frozenset[PromptTask]) -> AsyncIterator[RewardClient]:
    """A client of the services that the job names, or of one that lives as long as the block.

    Raises:
        ConfigError: a scorer is not there or not ready, or the token is wrong.
        RewardError, DeadlineError: no service answers.
    """
    async with _access(job, tasks) as access:
        client = RewardClient(
            access.addresses, access.token, job.settings.deadline_s, on_retry=_Outages(job.settings.deadline_s)
        )
        try:
            await _ready(client, job)
            yield client
        finally:
            await client.close()


class _Outages:
    """Says once of each service why it is asked again, instead of the retry library's line an attempt."""

    def __init__(self, deadline_s: float) -> None:
        self._deadline_s = deadline_s
        self._told: set[tuple[str, str]] = set()
        logging.getLogger("stamina").setLevel(logging.ERROR)

    def __call__(self, retry: Retry) -> None:
        if (retry.cause, retry.address) in self._told:
            return
        self._told.add((retry.cause, retry.address))
        where = f"{retry.cause} at {retry.address}"
        sys.stderr.write(f"overread: {where}; asking again for up to {self._deadline_s:g} s\n")


@asynccontextmanager
async def _access(job: ScoreJob, tasks: frozenset[PromptTask]) -> AsyncIterator[RewardAccess]:
    if job.settings.addresses:
        yield outside_access(job.settings)
        return
    # What nobody asks for is not loaded: weights take seconds and memory.
    known = job.settings.known_scorers
    defaults = {name for task in tasks for name in default_scorers(task, known)}
    settings = job.settings.model_copy(update={"scorers": job.scorers or tuple(sorted(defaults))})
    with tempfile.TemporaryDirectory(prefix="overread-score-") as folder:
        service = LocalRewardService(settings, Path(folder), Path(folder) / "logs")
        try:
            await service.start()
            yield RewardAccess((service.address,), service.token)
        finally:
            await service.stop()


async def _ready(client: RewardClient, job: ScoreJob) -> None:
    try:
        await client.wait_ready(min(job.settings.deadline_s, _READY_S), job.scorers or ())
    except RewardError as error:
        if error.code not in _BLAMED:
            raise
        names = ",".join(job.scorers or ())
        given = {"--scorers": names, "--token-file": job.settings.token_file or "no token file"}[_BLAMED[error.code]]
        rule = (
            "must name scorers that the service has ready" if error.code != "unauthorized" else "must fit the service"
        )
        raise ConfigError(_BLAMED[error.code], rule, given, error.message) from error


async def _responses(job: ScoreJob, client: RewardClient) -> AsyncIterator[tuple[list[ScoreRow], ScoreResponse]]:
    """Rows and their results in the file's order, several requests in flight."""
    waiting: deque[tuple[list[ScoreRow], asyncio.Task[ScoreResponse]]] = deque()
    try:
        for rows in _requests(read_rows(job.source), job.batch):
            waiting.append((rows, asyncio.create_task(_ask(client, job, rows))))
            await asyncio.sleep(0)  # the request goes out before the next rows are read
            if len(waiting) == _IN_FLIGHT:
                yield await _first(waiting)
        while waiting:
            yield await _first(waiting)
    finally:
        for _, task in waiting:
            task.cancel()
        await asyncio.gather(*(task for _, task in waiting), return_exceptions=True)


async def _first(
    waiting: deque[tuple[list[ScoreRow], asyncio.Task[ScoreResponse]]],
) -> tuple[list[ScoreRow], ScoreResponse]:
    rows, task = waiting[0]
    response = await task
    waiting.popleft()
    return rows, response


def _requests(rows: Iterator[ScoreRow], batch: int) -> Iterator[list[ScoreRow]]:
    """Rows by request: at most ``batch`` of them, and not too much text."""
    request: list[ScoreRow] = []
    characters = 0
    for row in rows:
        request.append(row)
        characters += len(row.item.completion) + len(row.item.reference.report or "") + len(row.item.question or "")
        if len(request) == batch or characters >= _REQUEST_CHARS:
            yield request
            request, characters = [], 0
    if request:
        yield request


async def _ask(client: RewardClient, job: ScoreJob, rows: Sequence[ScoreRow]) -> ScoreResponse:
    request = ScoreRequest(items=tuple(row.item for row in rows), scorers=job.scorers, params=job.params)
    try:
        return await client.score(request)
    except RewardError as error:
        if error.code not in ("bad_request", "too_large"):
            raise
        # The service names an item of the request; the user knows rows of a file.
        message = _ITEM.sub(lambda match: f"{rows[int(match.group(1))].where}: ", error.message)
        rule, remedy = "must be what the service accepts", "correct the row or the option, or the service's limits"
        raise DataError(f"{job.source}, {rows[0].where} and after", rule, message, remedy) from error


class _Speed(ProgressColumn):
    """Rows a second."""

    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:.0f} items/s")


@contextmanager
def _bar(rows: int) -> Iterator[Callable[[int], None]]:
    """Counts rows on a terminal; elsewhere nothing is shown."""
    console = Console(stderr=True)
    columns = (TextColumn("scoring"), BarColumn(), MofNCompleteColumn(), _Speed(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        bar = progress.add_task("scoring", total=rows)
        yield lambda count: progress.advance(bar, count)
