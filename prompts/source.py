"""PromptSource: the endless, seeded order in which a run asks its prompts.

Role: a fresh permutation of all prompts an epoch. Input: prompts, a seed.
Output: (prompt, epoch), and a cursor that restores the same continuation after a restart.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from schemas.errors import DataError
from schemas.prompt import Prompt


class PromptSource:
    """Issues every prompt once an epoch.

    The order of an epoch depends on the seed and the epoch's number only, so restoring costs one permutation however
    far the run had come.

    Raises:
        DataError: there is no prompt.
    """

    def __init__(self, prompts: Sequence[Prompt], seed: int) -> None:
        if not prompts:
            raise DataError("prompts", "there must be at least one", 0, "add data, or choose another split or task")
        self._prompts = prompts
        self._seed = seed
        self._digest = zlib.crc32("\n".join(prompt.prompt_id for prompt in prompts).encode())
        self._cursor = 0
        self._epoch = -1
        self._order: NDArray[np.int64] = np.empty(0, dtype=np.int64)

    def next(self) -> tuple[Prompt, int]:
        """The next prompt and the number of its epoch, from 0."""
        epoch, place = divmod(self._cursor, len(self._prompts))
        if epoch != self._epoch:
            self._order = np.random.default_rng([self._seed, epoch]).permutation(len(self._prompts))
            self._epoch = epoch
        self._cursor += 1
        return self._prompts[self._order[place]], epoch

    def state(self) -> dict[str, int]:
        """What ``restore`` needs; ``cursor`` is the number of prompts issued so far."""
        return {
            "cursor": self._cursor,
            "seed": self._seed,
            "prompts": len(self._prompts),
            "digest": self._digest,
        }

    def restore(self, state: dict[str, int]) -> None:
        """Go on as the source would have that ``state`` was taken from.

        Raises:
            DataError: that source had other prompts or another seed, so the order could not be the same.
        """
        expected = self.state()
        for key in ("seed", "prompts", "digest"):
            if state.get(key) != expected[key]:
                raise DataError(
                    f"prompt order: {key}",
                    f"must be {state.get(key)} as when the run began",
                    expected[key],
                    "resume with the same prompts and seed",
                )
        self._cursor = state["cursor"]
