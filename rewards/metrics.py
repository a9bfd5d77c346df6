"""ServiceMetrics: what Prometheus reads from the reward service.

Role: counters and histograms in a registry of their own, so that two apps in one process don't clash.
Input: replies, items, outcomes. Output: the text of ``/metrics``; labels are names and codes, never text.
"""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from rewards.scoring import Outcome

_SECONDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)


class ServiceMetrics:
    """The metrics of one service."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        prefix = "overread_rewards"
        self._replies = Counter(
            f"{prefix}_replies", "Replies to /v1/score by status.", ["status"], registry=self._registry
        )
        self._scores = Counter(f"{prefix}_scores", "Scores given, by scorer.", ["scorer"], registry=self._registry)
        self._errors = Counter(
            f"{prefix}_errors",
            "Items that a scorer has no score for, by cause.",
            ["scorer", "code"],
            registry=self._registry,
        )
        self.request_seconds = Histogram(
            f"{prefix}_request_seconds",
            "Seconds from a request's plan to its scores.",
            buckets=_SECONDS,
            registry=self._registry,
        )
        self.pending_items = Gauge(f"{prefix}_pending_items", "Items waiting or being scored.", registry=self._registry)

    def count_reply(self, status: int) -> None:
        self._replies.labels(str(status)).inc()

    def count_outcomes(self, outcomes: Iterable[Outcome]) -> None:
        for outcome in outcomes:
            for name in outcome.scores:
                self._scores.labels(name).inc()
            for name, error in outcome.errors.items():
                self._errors.labels(name, error.code).inc()

    def exposition(self) -> bytes:
        """Prometheus' text format."""
        return generate_latest(self._registry)
