"""Scale-out of the reward service: replicas of its app on a Ray cluster, behind Ray Serve's HTTP proxies.

    clients --HTTP--> a proxy (every node with a replica, the head always) --Ray--> RewardReplica x N --> its scorers

Role: deploy, wait until all answer, take down; also when the driver is gone. Ray is joined or started by ray_session.
Input: the reward settings with their ``scale``, tokens, where to listen. Output: the proxies' addresses.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError

from orchestration.actors import log_to
from orchestration.replica_metrics import AllReplicasMetrics
from rewards.memory import settle_memory
from rewards.scale import ScaleSettings
from rewards.settings import RewardServiceSettings
from rewards.wire import Readiness
from schemas.errors import ConfigError, DeadlineError, RewardError

APP = "overread-rewards"
_DEPLOYMENT = "replica"
EVERY_ADDRESS = "0.0.0.0"  # the one host that means something on all nodes
_START_DEADLINE_S = 900.0  # a clinical model's weights from a cold network file system
_GONE_DEADLINE_S = 60.0  # of another Ray Serve that is going, e.g. of this run before its resume
_POLL_S = 0.25
_DRAIN_S = 20.0  # as rewards.serve's
_UNREADY_S = 120.0  # a replica that has not been ready this long is replaced; its own restarts take less
_ONGOING_PER_TARGET = 4  # requests sent to one replica: enough to fill its batches, the rest can go to a new one
_METRICS_S = 5.0  # half of Prometheus' usual patience
_MOST_QUEUED = 4096  # requests in a proxy that wait for a replica; more are answered 503 (bounds memory)

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Listening:
    """Where the proxies listen: ``EVERY_ADDRESS`` on all nodes, another host on the head node alone."""

    host: str
    port: int


def listen(host: str, port: int, *, joined: bool) -> Listening:
    """Port 0 is replaced by one that is free on this machine.

    Raises:
        ConfigError: the host is not of this machine, or the port is taken. Not asked for a port of a cluster that is
            joined: its head may be another machine.
    """
    from rewards.serve import bind

    if port and joined:
        return Listening(host, port)
    # Ray Serve's proxies would share a taken port with whoever has it (SO_REUSEPORT), without a word.
    with bind(host, port) as probe:
        return Listening(host, int(probe.getsockname()[1]))


class RewardReplica:
    """One replica: the reward service's app in a Ray actor. Ray Serve routes requests to it."""

    def __init__(self, settings: RewardServiceSettings, tokens: Sequence[str], log_dir: Path | None) -> None:
        from ray import serve

        self._name = serve.get_replica_context().replica_id.unique_id
        if log_dir is not None:
            log_to(log_dir / f"rewards-{self._name}.log")
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
        # Its own share of the machine, not all of it: there are other replicas, and engines.
        workers = settings.workers or max(1, math.floor(settings.scale.cpus_per_replica))
        self._settings = settings.model_copy(update={"workers": workers})
        self._tokens = tuple(tokens)
        self._app: Any = None
        self._ready_at: float | None = None

    def __serve_build_asgi_app__(self) -> Any:
        """Ray Serve's hook, called once after ``__init__``."""
        from rewards.app import create_app

        self._app = create_app(self._settings, self._tokens)
        return AllReplicasMetrics(self._app, self._expositions)

    def exposition(self) -> tuple[str, str]:
        """This replica's name and metrics."""
        return self._name, self._app.state.service.metrics.exposition().decode()

    async def _expositions(self) -> dict[str, str]:
        from ray import serve

        asked = serve.get_deployment_handle(_DEPLOYMENT, APP).broadcast("exposition")
        answers = await asked.results_async(timeout_s=_METRICS_S, return_exceptions=True)
        # One that has just died is not there any more.
        return dict(sorted(answer for answer in answers if not isinstance(answer, RayError)))

    async def check_health(self) -> None:
        """Ray Serve's probe. The first one ends when requests are answered: before, none is sent here.

        Raises:
            RewardError: a scorer that must work does not, or none for too long; Ray Serve then replaces the replica.
        """
        service = self._app.state.service
        while True:
            readiness, now = service.readiness(), time.monotonic()
            if readiness.ready:
                if self._ready_at is None:
                    settle_memory()
                self._ready_at = now
                return
            if self._ready_at is not None and now - self._ready_at < _UNREADY_S:
                return
            if self._ready_at is not None or all(s.state != "loading" for s in readiness.scorers.values()):
                raise RewardError("not_ready", _failed_scorers(readiness))
            await asyncio.sleep(_POLL_S)


def _failed_scorers(readiness: Readiness) -> str:
    failed = {name: state for name, state in readiness.scorers.items() if state.state == "failed"}
    return "; ".join(f"{name}: {state.remedy or state.state}" for name, state in failed.items()) or "see /readyz"


class Beacon:
    """Lives as long as the driver that made it."""

    def shine(self) -> None:
        threading.Event().wait()


class Keeper:
    """Takes Ray Serve down when the driver is gone: its actors are detached, they would keep their GPUs for ever."""

    def keep(self, beacon: Any) -> None:
        from ray import serve

        try:
            ray.get(beacon.shine.remote())
        except RayActorError:
            serve.shutdown()
        ray.actor.exit_actor()


def live_nodes(unit: str = "CPU") -> int:
    """How many live nodes have some of a resource."""
    return sum(1 for node in ray.nodes() if node["Alive"] and node["Resources"].get(unit))


def check_room(scale: ScaleSettings, other_cpus: float) -> None:
    """Raises ConfigError where the cluster has too little for the replicas beside so many cores of others."""
    have = ray.cluster_resources()
    for field, each, others, unit in (
        ("cpus_per_replica", scale.cpus_per_replica, other_cpus, "CPU"),
        ("gpus_per_replica", scale.gpus_per_replica, 0.0, "GPU"),
    ):
        free = have.get(unit, 0.0) - others
        if scale.replicas * each > free:
            raise ConfigError(
                f"reward.scale.{field}",
                f"must fit {scale.replicas} times into the cluster's {max(free, 0.0):g} {unit}s that are left",
                each,
                "lower it, or have fewer replicas",
            )


def deployment(settings: RewardServiceSettings, tokens: Sequence[str], log_dir: Path | None) -> Any:
    """The Ray Serve application of the reward service."""
    from ray import serve

    scale = settings.scale
    count: dict[str, Any] = {"num_replicas": scale.replicas}
    if scale.most > scale.replicas:
        limits = {"min_replicas": scale.replicas, "max_replicas": scale.most}
        count = {"autoscaling_config": {**limits, "target_ongoing_requests": scale.target_ongoing_requests}}
    made = serve.deployment(
        serve.ingress()(RewardReplica),
        name=_DEPLOYMENT,
        ray_actor_options={"num_cpus": scale.cpus_per_replica, "num_gpus": scale.gpus_per_replica},
        max_ongoing_requests=max(1, math.ceil(_ONGOING_PER_TARGET * scale.target_ongoing_requests)),
        max_queued_requests=_MOST_QUEUED,
        graceful_shutdown_timeout_s=_DRAIN_S,
        logging_config=_quiet(),
        **count,
    )
    return made.bind(settings, tuple(tokens), log_dir)


def _quiet() -> dict[str, Any]:
    # Paths and texts of errors stay out of Ray Serve's own logs; what it warns of is kept.
    return {"enable_access_log": False, "log_level": "WARNING"}


@asynccontextmanager
async def replicas(
    settings: RewardServiceSettings,
    tokens: Sequence[str],
    listening: Listening,
    *,
    joined: bool,
    log_dir: Path | None = None,
) -> AsyncIterator[tuple[str, ...]]:
    """The service's replicas for the time inside, on the Ray cluster of this process.

    Args:
        settings: with ``scale.replicas`` > 0.
        joined: the cluster outlives this process; then so would Ray Serve, were it not taken down.
        log_dir: gets a log a replica; None: the Ray session's folder.

    Yields:
        A base URL for each proxy; all lead to all replicas.

    Raises:
        ConfigError: the cluster has a Ray Serve already.
        RewardError: a replica could not be started.
        DeadlineError: it took too long.
    """
    await asyncio.to_thread(_wait_for_no_serve)
    guards = _new_guards() if joined else []
    try:
        yield await asyncio.to_thread(_start, settings, tokens, listening, log_dir)
    finally:
        for guard in guards:
            ray.kill(guard)
        await asyncio.to_thread(_take_down, joined)


def _new_guards() -> list[Any]:
    """A keeper and its beacon; the keeper has to be killed first."""
    beacon = ray.remote(Beacon).options(num_cpus=0).remote()
    keeper = ray.remote(Keeper).options(num_cpus=0, lifetime="detached", name=f"{APP}-keeper", namespace=APP).remote()
    keeper.keep.remote(beacon)
    return [keeper, beacon]


def _serve_runs() -> bool:
    # Not serve.status(): it would keep a handle of a controller that is going.
    from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE

    try:
        ray.get_actor(SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE)
    except ValueError:
        return False
    return True


def _wait_for_no_serve() -> None:
    started = time.monotonic()
    while _serve_runs():
        if time.monotonic() - started > _GONE_DEADLINE_S:
            raise ConfigError(
                "reward.scale.replicas",
                "needs a Ray cluster without Ray Serve",
                "one that has it",
                "if it serves rewards, name it in reward.addresses; else end it: serve shutdown",
            )
        time.sleep(_POLL_S)


def _start(
    settings: RewardServiceSettings, tokens: Sequence[str], listening: Listening, log_dir: Path | None
) -> tuple[str, ...]:
    """Start Ray Serve, deploy, wait until every proxy leads to a replica."""
    from ray import serve
    from ray.serve.exceptions import RayServeException

    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    try:
        serve.start(
            proxy_location="EveryNode" if listening.host == EVERY_ADDRESS else "HeadOnly",
            http_options={"host": listening.host, "port": listening.port},
            logging_config=_quiet(),
        )
        target = serve.RunTarget(deployment(settings, tokens, log_dir), name=APP)
        serve.run_many([target], wait_for_applications_running=False)
        return _wait_until_running(listening)
    except (RayError, RayServeException, RuntimeError, TimeoutError) as error:
        raise RewardError("not_started", f"Ray Serve: {_last_line(str(error))}") from error


def _wait_until_running(listening: Listening) -> tuple[str, ...]:
    from ray import serve

    started = time.monotonic()
    while True:
        status = serve.status()
        app = status.applications[APP]
        words = "; ".join(_last_line(d.message) for d in app.deployments.values() if d.message)
        if app.status == "DEPLOY_FAILED":
            raise RewardError("not_started", f"the reward service's replicas: {words or app.message}")
        if app.status == "RUNNING" and all(proxy == "HEALTHY" for proxy in status.proxies.values()):
            return _addresses(listening, list(status.proxies))
        waited_s = time.monotonic() - started
        if waited_s > _START_DEADLINE_S:
            raise DeadlineError("its start", f"Ray Serve ({words or app.status})", waited_s, "the service is given up")
        time.sleep(_POLL_S)


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "no reason given")


def _addresses(listening: Listening, nodes: Sequence[str]) -> tuple[str, ...]:
    hosts = [listening.host]
    if listening.host == EVERY_ADDRESS:
        hosts = sorted(node["NodeManagerAddress"] for node in ray.nodes() if node["NodeID"] in nodes)
    return tuple(f"http://{f'[{host}]' if ':' in host else host}:{listening.port}" for host in hosts)


def _take_down(joined: bool) -> None:
    """Replicas finish what they have, over proxies that still stand; then those go too, or with their cluster."""
    from ray import serve
    from ray.serve.exceptions import RayServeException

    try:
        if _serve_runs():
            serve.delete(APP)
            if joined:
                serve.shutdown()
    except (RayError, RayServeException, RuntimeError, TimeoutError) as error:
        # The border: the run is over, and must not fail of this.
        _log.warning("Ray Serve could not be taken down: %s", _last_line(str(error)))
