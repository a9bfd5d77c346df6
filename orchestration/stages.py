"""Seconds by stage of a run, for summary.json and the report."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Stages:
    """Measures named stages; a stage entered twice adds up."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        started = time.monotonic()
        try:
            yield
        finally:
            self.add(name, time.monotonic() - started)

    def add(self, name: str, seconds: float) -> None:
        self._seconds[name] = self._seconds.get(name, 0.0) + seconds

    def seconds(self) -> dict[str, float]:
        """Seconds by stage, and ``total`` since this object was made."""
        rounded = {name: round(seconds, 3) for name, seconds in self._seconds.items()}
        return {**rounded, "total": round(time.monotonic() - self._started, 3)}
