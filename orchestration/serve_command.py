"""``overread rewards serve --replicas N``: the reward service on a Ray cluster until it is told to stop.

Role: start or join the cluster, hold the replicas, drain them on SIGTERM or Ctrl-C.
Input: the settings, the command line's changes to their scale, tokens, where to listen. Output: status 0 once drained.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack

from pydantic import ValidationError

from orchestration.cluster import joins_cluster, ray_session
from orchestration.serve_cluster import Listening, check_room, listen, replicas
from orchestration.stop import StopRequest
from rewards.scale import ScaleSettings
from rewards.settings import RewardServiceSettings
from rewards.wire import field_problems
from schemas.errors import ConfigError

_log = logging.getLogger(__name__)


def with_scale(settings: RewardServiceSettings, given: Mapping[str, float | None]) -> RewardServiceSettings:
    """The settings with the options that were given. Raises ConfigError where they don't agree."""
    asked = {name: value for name, value in given.items() if value is not None}
    try:
        scale = ScaleSettings.model_validate({**settings.scale.model_dump(), **asked})
    except ValidationError as error:
        problem = field_problems(error)[0]
        options = ", ".join(f"--{name.replace('_', '-')} {value:g}" for name, value in asked.items())
        raise ConfigError("--replicas", problem.rule, options, "see overread rewards serve --help") from error
    if not scale.replicas:
        raise ConfigError("--replicas", "must be given with the other options of Ray Serve", "none", "give it")
    return settings.model_copy(update={"scale": scale})


def serve_replicas(
    settings: RewardServiceSettings, tokens: Sequence[str], host: str, port: int, ray_address: str | None
) -> None:
    """Serve until SIGTERM or Ctrl-C, then finish the requests in flight.

    Args:
        ray_address: of the cluster to join; None: that in RAY_ADDRESS, else a new one on this machine.

    Raises:
        ConfigError, RewardError, DeadlineError: as ``serve_cluster.replicas``.
    """
    if ray_address is not None:
        os.environ["RAY_ADDRESS"] = ray_address
    # Before Ray is started: that takes a while.
    asyncio.run(_serve(settings, tokens, listen(host, port, joined=joins_cluster())))


async def _serve(settings: RewardServiceSettings, tokens: Sequence[str], listening: Listening) -> None:
    stop = StopRequest()
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(ray_session())
        stack.enter_context(stop.on_signals())  # after Ray, which sets a SIGTERM handler of its own
        check_room(settings.scale, other_cpus=0.0)
        running = replicas(settings, tokens, listening, joined=joins_cluster())
        addresses = await stop.first(stack.enter_async_context(running))
        if addresses is not None:
            _log.info("ready at %s, replicas: %d", " ".join(addresses), settings.scale.replicas)
            await stop.first(asyncio.Event().wait())
        _log.info("%s: no more requests are taken, those in flight are finished", stop.signal_name)
