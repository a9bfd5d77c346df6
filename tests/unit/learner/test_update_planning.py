from hypothesis import given
from hypothesis import strategies as st

from learner.planning import members_of_updates, pack


@given(st.lists(st.integers(1, 50), max_size=20), st.integers(1, 120))
def test_packing_places_each_row_once_and_stays_within_the_budget(lengths: list[int], budget: int):
    batches = pack(lengths, budget)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= budget


def test_equal_rows_fill_a_batch_to_the_brim():
    assert pack([10] * 7, 30) == [[0, 1, 2], [3, 4, 5], [6]]


@given(st.integers(1, 40), st.integers(1, 6), st.integers(1, 5))
def test_several_ranks_divide_a_step_into_the_same_updates_as_one(total: int, updates: int, world_size: int):
    alone = members_of_updates(total, updates, rank=0, world_size=1, total=total)
    together: list[list[int]] = [[] for _ in range(updates)]
    for rank in range(world_size):
        share = list(range(total))[rank::world_size]
        members = members_of_updates(len(share), updates, rank=rank, world_size=world_size, total=total)
        for update, rows in enumerate(members):
            together[update] += [share[i] for i in rows]
    assert [sorted(rows) for rows in together] == alone
    sizes = [len(rows) for rows in alone]
    assert max(sizes) - min(sizes) <= 1
