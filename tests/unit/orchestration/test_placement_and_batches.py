from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestration.placement import place
from orchestration.sft import batches
from schemas.errors import ConfigError
from schemas.prompt import Conversation, Turn


@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 4), st.integers(1, 3), st.integers(0, 5))
def test_no_two_processes_share_a_core(workers: int, per_worker: int, ranks: int, per_rank: int, spare: int) -> None:
    needed = workers * per_worker + ranks * per_rank
    placement = place(range(needed + spare), workers, per_worker, ranks, per_rank)
    dealt = [core for process in (*placement.workers, *placement.ranks) for core in process]
    assert len(dealt) == len(set(dealt)) == needed
    assert all(len(cores) == per_worker for cores in placement.workers)
    assert all(len(cores) == per_rank for cores in placement.ranks)
    with pytest.raises(ConfigError, match=str(needed)):
        place(range(needed - 1), workers, per_worker, ranks, per_rank)


@given(st.integers(1, 20), st.integers(1, 7), st.integers(0, 100))
def test_sft_batches_leave_nothing_out_of_an_epoch(count: int, size: int, seed: int) -> None:
    conversations = [
        Conversation(
            conversation_id=str(n),
            turns=(Turn(role="user", text="q"), Turn(role="assistant", text="a", is_answer=True)),
            dataset="d",
            patient_id="p",
            split="train",
        )
        for n in range(count)
    ]
    steps = 3 * count
    made = list(batches(conversations, size, steps, seed))
    assert [len(batch) for batch in made] == [size] * steps
    seen = [c.conversation_id for batch in made for c in batch]
    for epoch in range(len(seen) // count):
        assert len(Counter(seen[epoch * count : (epoch + 1) * count])) == count
    assert made == list(batches(conversations, size, steps, seed))
