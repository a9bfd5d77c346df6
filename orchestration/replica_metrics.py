"""``/metrics`` of all replicas at once: whichever replica a scrape reaches, it answers for the others too.

Role: one target for Prometheus instead of a random replica's counters; every line says whose it is.
Input: the replicas' own expositions. Output: one exposition with a ``replica`` label; an ASGI layer that answers so.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_SAMPLE = re.compile(r"([A-Za-z_:][\w:]*)(?:\{(.*)\})? (.+)")


def merge(expositions: Mapping[str, str]) -> str:
    """Expositions in Prometheus' text format, by replica, as one; a metric's lines stand together, as it asks."""
    metrics: dict[str, list[str]] = {}  # "# HELP", "# TYPE" and samples by the name of the metric
    for replica, text in expositions.items():
        name = ""
        for line in text.splitlines():
            if line.startswith("# "):
                name = line.split(" ", 3)[2]
                lines = metrics.setdefault(name, [])
                if line not in lines:
                    lines.append(line)
            elif sample := _SAMPLE.fullmatch(line):
                labels = f'replica="{replica}"' + (f",{sample[2]}" if sample[2] else "")
                metrics[name].append(f"{sample[1]}{{{labels}}} {sample[3]}")
    return "".join(f"{line}\n" for lines in metrics.values() for line in lines)


class AllReplicasMetrics:
    """An ASGI layer over the service's app.

    Args:
        app: answers everything, and decides who may see ``/metrics``.
        collect: every replica's exposition, by replica. Raises TimeoutError where one does not answer.
    """

    def __init__(self, app: App, collect: Callable[[], Awaitable[Mapping[str, str]]]) -> None:
        self._app = app
        self._collect = collect

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != "/metrics":
            await self._app(scope, receive, send)
            return
        messages: list[Message] = []

        async def keep(message: Message) -> None:
            messages.append(message)

        await self._app(scope, receive, keep)
        if messages[0]["status"] != 200:
            for message in messages:
                await send(message)
            return
        try:
            status, text = 200, merge(await self._collect())
        except TimeoutError:
            status, text = 503, "# a replica did not answer\n"
        headers = [(b"content-type", b"text/plain; version=0.0.4")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": text.encode()})
