"""Messages between the service and a worker process.

Role: a module of their own, since a pickle names the module of its class and a worker's main module has two names.
Input and output: named tuples; the service sends a Start and then batches (lists of Slices).
"""

from __future__ import annotations

from typing import NamedTuple

from rewards.resources import Resources
from rewards.scoring import Cost
from rewards.wire import ScorerState


class Start(NamedTuple):
    """What a worker is told first."""

    names: tuple[str, ...]  # scorers to load
    plugins: tuple[str, ...]
    resources: Resources
    reference_cache_bytes: int


class Started(NamedTuple):
    """What a worker answers once everything is loaded."""

    states: dict[str, ScorerState]


class ItemJson(NamedTuple):
    """One item's results as they go onto the wire: the insides of its ``scores`` and ``errors`` objects."""

    scores: bytes
    errors: bytes


class BatchReply(NamedTuple):
    """A batch's results and what the service counts.

    Attributes:
        results: per slice, per item.
        costs: scorer -> seconds and items.
        failures: (scorer, error code) -> items.
        cache_hits, cache_misses: lookups in the reference cache for this batch.
    """

    results: list[list[ItemJson]]
    costs: dict[str, Cost]
    failures: dict[tuple[str, str], int]
    cache_hits: int
    cache_misses: int
