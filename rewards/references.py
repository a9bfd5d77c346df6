"""ReferenceCache: what is computed from a reference is computed once for a GRPO group and across epochs.

Role: one bounded cache a process, shared by all scorers: labels, n-grams, graphs, embeddings, parsed boxes.
Input: a kind of feature, the reference's text (or boxes), a function. Output: the feature; hits and misses are counted.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, NamedTuple, TypeVar

from cachetools import LRUCache

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")

DEFAULT_MIB = 256
_ENTRY_OVERHEAD = 200  # bytes of the cache's own bookkeeping for one entry


def size_of(value: object) -> int:
    """Bytes that a feature holds, roughly: arrays, tensors, dataclasses and containers of them."""
    if isinstance(nbytes := getattr(value, "nbytes", None), int):
        return nbytes + 100
    if is_dataclass(value) and not isinstance(value, type):
        if type(value).__sizeof__ is not object.__sizeof__:
            return sys.getsizeof(value)  # it counts what it holds itself, and faster
        return sys.getsizeof(value) + sum(size_of(getattr(value, field.name)) for field in fields(value))
    if isinstance(value, (str, bytes)):
        return sys.getsizeof(value)
    if isinstance(value, Mapping):
        return sys.getsizeof(value) + sum(size_of(k) + size_of(v) for k, v in value.items())
    if isinstance(value, Collection):
        return sys.getsizeof(value) + sum(size_of(part) for part in value)
    attributes = getattr(value, "__dict__", None)
    return sys.getsizeof(value) + (size_of(attributes) if attributes else 0)


class ReferenceCache:
    """Features by (kind, key), the least recently used ones forgotten first. For one thread.

    A feature must not be changed by whoever gets it.
    """

    def __init__(self, max_bytes: int = DEFAULT_MIB * 2**20) -> None:
        self._entries = _entries(max_bytes)
        self.hits = 0
        self.misses = 0

    @property
    def bytes(self) -> int:
        """What the features hold now."""
        return int(self._entries.currsize)

    def limit(self, max_bytes: int) -> None:
        """Forgets everything and keeps at most ``max_bytes`` from now on; 0 keeps nothing."""
        self._entries = _entries(max_bytes)

    def get(self, kind: str, key: K, compute: Callable[[K], T]) -> T:
        """The feature, computed where it is not there."""
        return self.get_many(kind, (key,), lambda keys: [compute(only) for only in keys])[0]

    def get_many(self, kind: str, keys: Sequence[K], compute: Callable[[Sequence[K]], Sequence[T]]) -> list[T]:
        """One feature a key, in order; what is missing is computed in one call, each distinct key once.

        Raises:
            ValueError: ``compute`` gave another number of features than it was asked for.
        """
        found: dict[K, T] = {}
        for key in dict.fromkeys(keys):
            entry = self._entries.get((kind, key))
            if entry is not None:
                found[key] = entry.feature
        missing = [key for key in dict.fromkeys(keys) if key not in found]
        self.misses += len(missing)
        self.hits += len(keys) - len(missing)
        if missing:
            for key, feature in zip(missing, compute(missing), strict=True):
                found[key] = feature
                self._keep((kind, key), feature)
        return [found[key] for key in keys]

    def _keep(self, place: tuple[str, Hashable], feature: object) -> None:
        size = size_of(feature) + size_of(place) + _ENTRY_OVERHEAD
        # A feature larger than the whole cache is used and not kept.
        if size <= self._entries.maxsize:
            self._entries[place] = _Entry(feature, size)


class _Entry(NamedTuple):
    feature: Any
    size: int


def _entries(max_bytes: int) -> LRUCache[tuple[str, Hashable], _Entry]:
    return LRUCache(max_bytes, getsizeof=lambda entry: entry.size)


# The process's own: a worker limits it to the service's setting when it starts.
REFERENCES = ReferenceCache()
