"""GroupBuffer: scored groups between the rollout workers and the learner, with bounded staleness (promise 3).

    producer -- acquire() --> slot --> add(group) | give_up(slot) --> take() --> pushed(groups, version)

There are (max_staleness + 1) x groups_per_step slots. A group holds one from its issue until the push that follows its
training, so at learner version v at most groups_per_step outstanding groups were issued at version v - max_staleness or
before, and ``take`` always includes those: it waits for them instead of letting them grow too old. Nothing has to be
thrown away. With max_staleness = 0 this is synchronous, on-policy GRPO.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Ref = TypeVar("Ref")


@dataclass(eq=False)
class Slot:
    """A place in the buffer. ``issued_version`` is the oldest version that any token of its group can have."""

    number: int
    issued_version: int


@dataclass(eq=False)
class Buffered(Generic[Ref]):
    """A scored group waiting for the learner: its slot and a reference to it (never its tensors)."""

    slot: Slot
    group: Ref = field(repr=False)


class GroupBuffer(Generic[Ref]):
    """Slots and the groups in them; for one event loop.

    Args:
        groups_per_step: groups that one ``take`` returns.
        max_staleness: policy versions that a token may be behind the learner when it is trained on.
        groups_wanted: groups that the rest of the run will train on; no more are let in.
        version: the version that all engines serve now; ``pushed`` moves it on.
    """

    def __init__(self, groups_per_step: int, max_staleness: int, groups_wanted: int, version: int = 0) -> None:
        self.groups_per_step = groups_per_step
        self.max_staleness = max_staleness
        self.version = version
        self._wanted = groups_wanted
        self._free = (max_staleness + 1) * groups_per_step
        self._issued = 0
        self._in_flight: set[Slot] = set()
        self._ready: list[Buffered[Ref]] = []
        self._failure: Exception | None = None
        self._changed = asyncio.Condition()

    @property
    def in_flight(self) -> int:
        """Groups issued and not yet scored."""
        return len(self._in_flight)

    @property
    def ready(self) -> int:
        """Groups scored and not yet taken."""
        return len(self._ready)

    async def acquire(self) -> Slot:
        """Wait for a free slot, and for a group to be wanted; take it for a group that is issued now."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._free > 0 and self._wanted > 0)
            self._free -= 1
            self._wanted -= 1
            self._issued += 1
            slot = Slot(self._issued, self.version)
            self._in_flight.add(slot)
            return slot

    async def reissue(self, slot: Slot) -> None:
        """The slot's group is generated again from the start."""
        async with self._changed:
            slot.issued_version = self.version
            self._changed.notify_all()

    async def add(self, slot: Slot, group: Ref) -> None:
        """The slot's group is scored and may be trained on."""
        async with self._changed:
            self._in_flight.remove(slot)
            self._ready.append(Buffered(slot, group))
            self._changed.notify_all()

    async def give_up(self, slot: Slot) -> None:
        """The slot's group was dropped: another prompt may have the slot."""
        async with self._changed:
            self._in_flight.remove(slot)
            self._free += 1
            self._wanted += 1
            self._changed.notify_all()

    def _due(self, slot: Slot) -> bool:
        # One step later it would be max_staleness + 1 versions old.
        return self.version - slot.issued_version >= self.max_staleness

    def _can_take(self) -> bool:
        return len(self._ready) >= self.groups_per_step and not any(self._due(slot) for slot in self._in_flight)

    async def take(self) -> list[Buffered[Ref]]:
        """Wait for ``groups_per_step`` groups, oldest version first. They keep their slots until ``pushed``.

        Raises:
            Exception: what ended production, once nothing that was buffered before is left to train on.
        """
        async with self._changed:
            await self._changed.wait_for(lambda: self._can_take() or self._failure is not None)
            if not self._can_take():
                assert self._failure is not None
                raise self._failure
            self._ready.sort(key=lambda buffered: (buffered.slot.issued_version, buffered.slot.number))
            taken = self._ready[: self.groups_per_step]
            del self._ready[: self.groups_per_step]
            return taken

    async def fail(self, error: Exception) -> None:
        """Production has ended: what is buffered may still be trained on, then ``take`` raises ``error``."""
        async with self._changed:
            self._failure = error
            self._changed.notify_all()

    async def pushed(self, taken: list[Buffered[Ref]], version: int) -> None:
        """All engines serve the weights trained on these groups, as ``version``: their slots are free."""
        async with self._changed:
            self.version = version
            self._free += len(taken)
            self._changed.notify_all()
