"""The reward service against a service as in the paper's code, and against its own scorers called in-process.

Role: ``python -m benchmarks.rewards [--json OUT]``: 512 references x 8 completions, of reports and of boxes.
Input: nothing. Output: completions/s side by side, latency at half and nine tenths of capacity, memory over a million
items. Every row names what is compared; ours and the other alternate in one run.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.synchronize import Barrier
from pathlib import Path

import httpx
import psutil

from benchmarks.harness import Row, compare_rates, output_path, rate, report
from benchmarks.reward_load import SCORERS, Group, LoadTask, groups
from rewards.client import RewardClient
from rewards.memory import settle_memory
from rewards.references import DEFAULT_MIB
from rewards.resources import Resources
from rewards.scorer import ScoreItem
from rewards.scorers.registry import scorers
from rewards.scoring import Slice, score_slices
from rewards.wire import ScoreRequest

PAIRS = 7  # counted alternations
PAPER_GROUPS = 64  # the other side's share of the 512: its rate does not depend on how many
GROUPS_A_REQUEST = 32
IN_FLIGHT = 8  # requests of many groups
GROUPS_AT_ONCE = 128  # groups that ask each for itself, as a rollout worker's do
LATENCY_S = 10.0
MILLION = 1_000_000
READY_S = 60.0
LONGEST_PASS_S = 120.0
GOALS: dict[LoadTask, float] = {"grounding": 20.0, "report": 5.0}  # times the paper's way

Pass = tuple[Callable[[], None], int]  # one pass over a load, and how many completions it scores


@contextmanager
def our_service(workers: int, cache_mib: int = DEFAULT_MIB) -> Iterator[tuple[str, psutil.Process]]:
    """Our service as a process of its own; its address and process."""
    with tempfile.TemporaryDirectory() as folder:
        address_file, config = Path(folder) / "address", Path(folder) / "rewards.toml"
        used = sorted({name for names in SCORERS.values() for name in names})
        config.write_text(f"workers = {workers}\nscorers = {used}\nreference_cache_mib = {cache_mib}\n")
        command = [sys.executable, "-m", "rewards.serve", "--port", "0", "--config", str(config)]
        process = subprocess.Popen([*command, "--address-file", str(address_file)], stderr=subprocess.DEVNULL)
        try:
            _wait(address_file.exists)
            yield address_file.read_text(), psutil.Process(process.pid)
        finally:
            process.terminate()
            process.wait()


@contextmanager
def paper_service() -> Iterator[str]:
    """The other side as a process of its own."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    process = subprocess.Popen([sys.executable, "-m", "benchmarks.paper_service", str(port)])
    address = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        try:
            return httpx.get(f"{address}/docs", trust_env=False).status_code == 200
        except httpx.TransportError:
            return False

    try:
        _wait(answers)
        yield address
    finally:
        process.terminate()
        process.wait()


def _wait(ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + READY_S
    while not ready():
        if time.monotonic() > deadline:
            raise TimeoutError("a service did not start")
        time.sleep(0.05)


class Ours:
    """A caller of our service: one client for its life, as a rollout worker has."""

    def __init__(self, address: str) -> None:
        self._runner = asyncio.Runner()
        self._client = self._runner.run(self._connect(address))

    async def _connect(self, address: str) -> RewardClient:
        client = RewardClient([address], None, READY_S)
        await client.wait_ready(READY_S)
        return client

    def close(self) -> None:
        self._runner.run(self._client.close())
        self._runner.close()

    def score(self, load: Sequence[Group], task: LoadTask, groups_a_request: int) -> None:
        """Every group's scores, so many groups asked for at once."""
        self._runner.run(self._score(load, task, groups_a_request))

    async def _score(self, load: Sequence[Group], task: LoadTask, groups_a_request: int) -> None:
        slots = asyncio.Semaphore(IN_FLIGHT if groups_a_request > 1 else GROUPS_AT_ONCE)

        async def ask(part: Sequence[Group]) -> None:
            async with slots:
                items = tuple(item for group in part for item in group)
                response = await self._client.score(ScoreRequest(items=items, scorers=SCORERS[task]))
                assert all(len(result.scores) == len(SCORERS[task]) for result in response.results)

        parts = [load[start : start + groups_a_request] for start in range(0, len(load), groups_a_request)]
        await asyncio.gather(*(ask(part) for part in parts))

    def latencies(self, load: Sequence[Group], task: LoadTask, per_s: float) -> list[float]:
        """Seconds of each request when groups arrive at random, ``per_s`` a second on average (a Poisson process)."""
        return self._runner.run(self._latencies(load, task, per_s))

    async def _latencies(self, load: Sequence[Group], task: LoadTask, per_s: float) -> list[float]:
        seconds: list[float] = []

        async def ask(group: Group) -> None:
            started = time.perf_counter()
            await self._client.score(ScoreRequest(items=tuple(group), scorers=SCORERS[task]))
            seconds.append(time.perf_counter() - started)

        random_, due = random.Random(0), time.perf_counter()
        end = due + LATENCY_S
        tasks: list[asyncio.Task[None]] = []
        while due < end:
            tasks.append(asyncio.create_task(ask(random_.choice(load))))
            due += random_.expovariate(per_s)
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
        await asyncio.gather(*tasks)
        return seconds


def _score_paper(client: httpx.Client, load: Sequence[Group]) -> None:
    for group in load:
        for item in group:
            boxes = None if item.reference.boxes is None else [box.box for box in item.reference.boxes]
            pair = {"task": item.task, "completion": item.completion, "report": item.reference.report, "boxes": boxes}
            client.post("/score", json=pair).raise_for_status()


def _in_process(load: Sequence[Group], task: LoadTask) -> None:
    """The same scorers in one process, a batch of GROUPS_A_REQUEST groups at a time, with the reference cache."""
    params = {name: scorers()[name].params() for name in SCORERS[task]}
    for start in range(0, len(load), GROUPS_A_REQUEST):
        items: list[ScoreItem] = []
        for group in load[start : start + GROUPS_A_REQUEST]:
            reference = group[0].reference.to_reference()
            items += [item.to_score_item(reference) for item in group]
        score_slices(scorers(), [Slice(items, [SCORERS[task]] * len(items), params)])


def _worker(load: list[Group], task: LoadTask, start: Barrier, done: Barrier) -> None:
    for name in SCORERS[task]:
        scorers()[name].load(Resources())
    while True:
        start.wait()
        _in_process(load, task)
        done.wait()


class InProcess:
    """One process a core that calls the scorers on its share of the load; ``run`` is one pass over all of it."""

    def __init__(self, load: Sequence[Group], task: LoadTask, workers: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._start, self._done = context.Barrier(workers + 1), context.Barrier(workers + 1)
        shares = [list(load[number::workers]) for number in range(workers)]
        self._processes = [
            context.Process(target=_worker, args=(share, task, self._start, self._done), daemon=True)
            for share in shares
        ]
        for process in self._processes:
            process.start()

    def run(self) -> None:
        """One pass. Raises BrokenBarrierError where a process is gone."""
        self._start.wait(LONGEST_PASS_S)
        self._done.wait(LONGEST_PASS_S)

    def close(self) -> None:
        for process in self._processes:
            process.kill()
            process.join()


def _compare(what: str, ours: Pass, other: Pass, goal: float | None) -> Row:
    return compare_rates(what, ours, other, "completions/s", pairs=PAIRS, goal=goal)


def throughput(task: LoadTask, load: Sequence[Group], caller: Ours, paper: httpx.Client, workers: int) -> list[Row]:
    """Our service against the paper's way, and against the scorers in-process on the same cores."""
    completions = sum(len(group) for group in load)
    some = load[:PAPER_GROUPS]
    in_process = InProcess(load, task, workers)

    def ours(groups_a_request: int) -> Pass:
        return (lambda: caller.score(load, task, groups_a_request), completions)

    one_pair = (lambda: _score_paper(paper, some), sum(len(group) for group in some))
    bare = (in_process.run, completions)
    many = f"{task}, {GROUPS_A_REQUEST} groups a request"
    try:
        return [
            _compare(f"{many} / paper's way", ours(GROUPS_A_REQUEST), one_pair, GOALS[task]),
            _compare(f"{task}, each group asked for by itself / paper's way", ours(1), one_pair, GOALS[task]),
            _compare(f"{many} / in-process", ours(GROUPS_A_REQUEST), bare, 0.8 if task == "report" else None),
        ]
    finally:
        in_process.close()


def latency(task: LoadTask, load: Sequence[Group], caller: Ours) -> list[Row]:
    """p50 and p99 of one group's request at 50 % and 90 % of the capacity for such requests."""
    capacity = statistics.median(rate(lambda: caller.score(load, task, 1), len(load)) for _ in range(5))
    rows = []
    for share in (0.5, 0.9):
        seconds = sorted(caller.latencies(load, task, share * capacity))
        p50, p99 = (1e3 * seconds[int(q * (len(seconds) - 1))] for q in (0.5, 0.99))
        what = f"{task}, latency at {share:.0%} of {capacity:.0f} groups/s: p50 / p99"
        rows.append(Row(what=what, ours=p50, other=p99, unit="ms", ratio=p99 / p50, goal=None, spread=0.0))
    return rows


def _memory_mib(service: psutil.Process) -> float:
    processes = [service, *service.children(recursive=True)]
    return float(sum(process.memory_info().rss for process in processes)) / 2**20


def million(workers: int) -> Row:
    """Memory of service and workers over a million items with ever new references; a small cache fills early."""
    per_round = 20_000
    with our_service(workers, cache_mib=16) as (address, process):
        sizes: list[float] = []
        caller = Ours(address)
        for number in range(MILLION // per_round):
            task: LoadTask = "report" if number % 10 == 0 else "grounding"
            load = groups(task, per_round // 8, seed=number)
            caller.score(load, task, GROUPS_A_REQUEST)
            sizes.append(_memory_mib(process))
        caller.close()
    warm = statistics.median(sizes[len(sizes) // 5 : len(sizes) // 5 + 5])
    end = statistics.median(sizes[-5:])
    what = "a million items: MiB at the end / after a fifth (goal: drift under 5 %)"
    return Row(what=what, ours=end, other=warm, unit="MiB", ratio=end / warm, goal=1.05, spread=0.0)


def main() -> None:
    """Every comparison, then the table."""
    out = output_path()
    workers = len(os.sched_getaffinity(0))
    rows: list[Row] = []
    tasks: tuple[LoadTask, ...] = ("grounding", "report")
    with (
        our_service(workers) as (address, _),
        paper_service() as paper_address,
        httpx.Client(base_url=paper_address, trust_env=False) as paper,
    ):
        caller = Ours(address)
        loads = {task: groups(task) for task in tasks}
        settle_memory()  # as a rollout worker does once it has started
        for task, load in loads.items():
            rows += throughput(task, load, caller, paper, workers)
            rows += latency(task, load, caller)
        caller.close()
    rows.append(million(workers))
    report("rewards", rows, out)


if __name__ == "__main__":
    main()
