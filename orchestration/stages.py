"""Seconds by stage of a run, for summary.json and the report."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Stages:
    """Measures named stages. One entered twice adds up; one inside another is taken from the outer one's time."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._seconds: dict[str, float] = {}
        self._inner_seconds = [0.0]  # per open stage, that of the stages inside it

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        started = time.monotonic()
        self._inner_seconds.append(0.0)
        try:
            yield
        finally:
            elapsed = time.monotonic() - started
            own = elapsed - self._inner_seconds.pop()
            self._seconds[name] = self._seconds.get(name, 0.0) + own
            self._inner_seconds[-1] += elapsed

    def seconds(self) -> dict[str, float]:
        """Seconds by stage, and ``total`` since this object was made."""
        rounded = {name: round(seconds, 3) for name, seconds in self._seconds.items()}
        return {**rounded, "total": round(time.monotonic() - self._started, 3)}
