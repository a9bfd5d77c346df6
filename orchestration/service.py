"""The local reward service of a run: started, watched and stopped by the driver.

Role: a recipe without service addresses gets a service of its own on 127.0.0.1, with a fresh token in a 0600 file.
Input: the reward settings, the run's log folder. Output: an address, a token, and a process that dies with the driver.
"""

from __future__ import annotations

import asyncio
import ctypes
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import tomli_w

from orchestration.files import open_private, write_atomically
from rewards.client import RewardAccess, RewardClient
from rewards.settings import RewardServiceSettings
from rewards.tokens import find_tokens
from schemas.errors import ConfigError, DeadlineError, OverreadError, RewardError

_START_DEADLINE_S = 60.0  # measured: 2 s here; a cold network file system can take far longer
_WATCH_EVERY_S = 0.5
_LONGEST_BACKOFF_S = 30.0  # between two restarts that fail: well below the clients' deadline
_PR_SET_PDEATHSIG = 1

Event = Callable[..., None]


def _live_and_die_with_parent() -> None:
    # In the child, between fork and exec: the kernel ends the service when the driver dies, however it dies. Nothing
    # else does: ignored signals stay ignored in the new program, while it is too young for its own handlers.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


class LocalRewardService:
    """One uvicorn process.

    A driver that was told to stop needs scores until its step is done, and its children are told too: Ctrl-C and a
    closed terminal reach the process group, ``ray job stop`` every descendant. So the service has a session of its own
    and is ``--supervised``: it ignores SIGTERM and SIGINT, and ``stop`` kills it.
    """

    def __init__(self, settings: RewardServiceSettings, state_dir: Path, log_dir: Path) -> None:
        self._settings = settings
        self._state_dir = state_dir
        log_dir.mkdir(parents=True, exist_ok=True)
        self._log_path = log_dir / "rewards.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._port = 0  # the first start takes a free port; restarts keep it, so that clients need no new address
        self.token = secrets.token_urlsafe(32)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def pid(self) -> int:
        if self._process is None:
            raise RewardError("not_started", "the reward service has not been started")
        return self._process.pid

    async def start(self) -> None:
        """Start the process and wait until it answers.

        Raises:
            RewardError: it ended at once; the message names its log.
            DeadlineError: it did not come up in time.
        """
        token_file = self._state_dir / "reward-token"
        address_file = self._state_dir / "reward-address"
        settings_file = self._state_dir / "reward-settings.toml"
        write_atomically(token_file, self.token)
        write_atomically(settings_file, tomli_w.dumps(self._settings.model_dump(mode="json", exclude_none=True)))
        address_file.unlink(missing_ok=True)
        command = [sys.executable, "-m", "rewards.serve", "--host", "127.0.0.1", "--port", str(self._port)]
        command += ["--token-file", str(token_file), "--address-file", str(address_file)]
        command += ["--config", str(settings_file), "--supervised"]
        with open_private(self._log_path, "a") as log:
            self._process = subprocess.Popen(  # noqa: ASYNC220 - fork and exec only; nothing is waited for here
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                preexec_fn=_live_and_die_with_parent,
            )  # fmt: skip
        started = time.monotonic()
        while not address_file.exists():
            if self._process.poll() is not None:
                raise RewardError("not_started", f"the reward service ended at once; see {self._log_path}")
            if time.monotonic() - started > _START_DEADLINE_S:
                await self.stop()
                raise DeadlineError("its start", "the reward service", time.monotonic() - started, "the run stops")
            await asyncio.sleep(0.05)
        self._port = int(address_file.read_text(encoding="utf-8").strip().rsplit(":", 1)[1])

    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    async def stop(self) -> None:
        """End the process. It keeps nothing, so nothing is lost; a request under way gets no answer."""
        if self._process is None:
            return
        self._process.kill()
        await asyncio.to_thread(self._process.wait)
        self._process = None


@asynccontextmanager
async def reward_access(settings: RewardServiceSettings, folder: Path, event: Event) -> AsyncIterator[RewardAccess]:
    """The recipe's reward services; else replicas in the run's Ray cluster; else a local one, restarted when it dies.

    Args:
        folder: holds the local service's token, settings and log.
        event: told of starts, restarts and restarts that failed.

    Raises:
        ConfigError: the recipe's services do not answer, or their token can't be read.
    """
    if settings.addresses:
        access = outside_access(settings)
        await must_answer(access, settings)
        yield access
        return
    # What the recipe does not name is not loaded: a run's service starts faster so, and takes less memory.
    own = settings.model_copy(update={"scorers": settings.scorers or weighted_scorers(settings)})
    if own.scale.replicas:
        async with _scaled(own, folder, event) as access:
            yield access
        return
    service = LocalRewardService(own, folder, folder / "logs")
    await service.start()
    event("reward_service_started", pid=service.pid, address=service.address)
    watcher = asyncio.create_task(_keep_alive(service, event))
    access = RewardAccess((service.address,), service.token)
    try:
        await must_answer(access, settings)
        yield access
    finally:
        watcher.cancel()
        await asyncio.wait({watcher})  # or it could start the service that is being stopped
        await service.stop()


@asynccontextmanager
async def _scaled(settings: RewardServiceSettings, folder: Path, event: Event) -> AsyncIterator[RewardAccess]:
    """Replicas in the run's Ray cluster. The token is fresh, and stays in this process and the replicas."""
    # Imported here: they import Ray, seconds that a command without a cluster must not pay.
    from orchestration.cluster import joins_cluster
    from orchestration.serve_cluster import EVERY_ADDRESS, listen, live_nodes, replicas

    token = secrets.token_urlsafe(32)
    # Beyond one machine the rollout workers of the others must reach a proxy.
    host, joined = "127.0.0.1" if live_nodes() == 1 else EVERY_ADDRESS, joins_cluster()
    listening = listen(host, settings.scale.port, joined=joined)
    running = replicas(settings, (token,), listening, joined=joined, log_dir=folder / "logs")
    async with running as addresses:
        event("reward_service_started", replicas=settings.scale.replicas, addresses=addresses)
        access = RewardAccess(addresses, token)
        await must_answer(access, settings)
        yield access


def outside_access(settings: RewardServiceSettings) -> RewardAccess:
    """The recipe's own services and their token. Raises ConfigError when the token can't be read."""
    tokens = find_tokens(settings.token_file)
    return RewardAccess(settings.addresses, tokens[0] if tokens else None)


def weighted_scorers(settings: RewardServiceSettings) -> tuple[str, ...]:
    """Every scorer that the recipe names, with weight 0 too."""
    return tuple(sorted({name for weights in settings.weights.values() for name in weights}))


async def must_answer(access: RewardAccess, settings: RewardServiceSettings) -> None:
    """Raises ConfigError unless the services can score with the recipe's scorers within the deadline, or a minute."""
    names = weighted_scorers(settings)
    client = RewardClient(access.addresses, access.token, settings.deadline_s)
    try:
        await client.wait_ready(min(settings.deadline_s, _START_DEADLINE_S), names)
    except (RewardError, DeadlineError) as error:
        if isinstance(error, RewardError) and error.code in ("unknown_scorer", "not_ready"):
            rule = "must name scorers that the service can compute"
            raise ConfigError("reward.weights", rule, ", ".join(names), error.message) from error
        given = ", ".join(access.addresses)
        raise ConfigError(
            "reward.addresses", f"must answer ({error})", given, "start it: overread rewards serve"
        ) from error
    finally:
        await client.close()


async def _keep_alive(service: LocalRewardService, event: Event) -> None:
    """Start the service again when it is gone, as often as it takes; the clients' retries bridge the gap."""
    pause = _WATCH_EVERY_S
    while True:
        await asyncio.sleep(pause)
        if service.alive():
            pause = _WATCH_EVERY_S
            continue
        started = time.monotonic()
        try:
            await service.start()
        except (OverreadError, OSError) as error:  # the border: a port that is taken now may be free soon
            event("reward_service_failed", cause=str(error))
            pause = min(2 * pause, _LONGEST_BACKOFF_S)
        else:
            event("reward_service_restarted", pid=service.pid, seconds=time.monotonic() - started)
