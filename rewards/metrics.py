"""ServiceMetrics: what Prometheus reads from the reward service.

Role: counters and histograms in a registry of their own, so that two apps in one process don't clash.
Input: replies, batches, deaths. Output: the text of ``/metrics``; labels are names and codes, never text.
"""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from rewards.scoring import Cost
from rewards.worker_messages import BatchReply

_SECONDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
_ITEMS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
_PREFIX = "overread_rewards"


class ServiceMetrics:
    """The metrics of one service."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self._replies = Counter(f"{_PREFIX}_replies", "Replies to /v1/score by status.", ["status"], registry=registry)
        self._scores = Counter(f"{_PREFIX}_scores", "Scores given, by scorer.", ["scorer"], registry=registry)
        self._errors = Counter(
            f"{_PREFIX}_errors", "Items without a score, by scorer and cause.", ["scorer", "code"], registry=registry
        )
        self._scorer_seconds = Counter(
            f"{_PREFIX}_scorer_seconds", "Seconds spent by a scorer.", ["scorer"], registry=registry
        )
        self._lookups = Counter(
            f"{_PREFIX}_reference_cache_lookups",
            "Lookups in the workers' reference caches; hit / (hit + miss) is the hit rate.",
            ["result"],
            registry=registry,
        )
        self._hit_rate = Gauge(
            f"{_PREFIX}_reference_cache_hit_rate",
            "Share of lookups that were hits, since the start.",
            registry=registry,
        )
        self._deaths = Counter(
            f"{_PREFIX}_worker_deaths", "Scorer processes that crashed or hung.", ["tier"], registry=registry
        )
        self._batch_items = Histogram(
            f"{_PREFIX}_batch_items", "Items of a batch.", ["tier"], buckets=_ITEMS, registry=registry
        )
        self.queue_seconds = Histogram(
            f"{_PREFIX}_queue_seconds",
            "Seconds from an item's arrival in a queue to its scores.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.request_seconds = Histogram(
            f"{_PREFIX}_request_seconds",
            "Seconds from a request's plan to its reply.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.pending_items = Gauge(f"{_PREFIX}_pending_items", "Items waiting or being scored.", registry=registry)
        self._costs: dict[str, Cost] = {}
        self._hits = self._misses = 0

    def count_reply(self, status: int) -> None:
        self._replies.labels(str(status)).inc()

    def count_worker_death(self, tier: str) -> None:
        self._deaths.labels(tier).inc()

    def count_batch(self, tier: str, items: int, reply: BatchReply) -> None:
        """What a worker reports of a batch."""
        self._batch_items.labels(tier).observe(items)
        self.count_results(reply.costs, reply.failures)
        self._hits += reply.cache_hits
        self._misses += reply.cache_misses
        self._lookups.labels("hit").inc(reply.cache_hits)
        self._lookups.labels("miss").inc(reply.cache_misses)
        if self._hits + self._misses:
            self._hit_rate.set(self._hits / (self._hits + self._misses))

    def count_results(self, costs: Mapping[str, Cost], failures: Mapping[tuple[str, str], int]) -> None:
        """Each scorer's seconds and items, and by (scorer, code) how many of the items have no score."""
        failed = self.count_failures(failures)
        for name, cost in costs.items():
            total = self._costs.setdefault(name, Cost())
            total.seconds += cost.seconds
            total.items += cost.items
            self._scorer_seconds.labels(name).inc(cost.seconds)
            self._scores.labels(name).inc(cost.items - failed.get(name, 0))

    def count_failures(self, failures: Mapping[tuple[str, str], int]) -> dict[str, int]:
        """Items without a score that no scorer was asked about, or that it failed. Returns them by scorer."""
        by_scorer: dict[str, int] = {}
        for (name, code), count in failures.items():
            self._errors.labels(name, code).inc(count)
            by_scorer[name] = by_scorer.get(name, 0) + count
        return by_scorer

    def cost_s(self, scorer: str) -> float | None:
        """Mean seconds per item since the start; None before the first item."""
        cost = self._costs.get(scorer)
        return cost.seconds / cost.items if cost is not None and cost.items else None

    def exposition(self) -> bytes:
        """Prometheus' text format."""
        return generate_latest(self._registry)
