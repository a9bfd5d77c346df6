"""Agreement of two graphs: known values, and an independent count."""

from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards.radgraph_match import (
    Entity,
    Graph,
    Relation,
    complete,
    entity_f1,
    f1,
    partial,
    relation_f1,
    reward_f1,
    simple,
)

OBSERVED, ABSENT, ANATOMY = "Observation::definitely present", "Observation::definitely absent", "Anatomy"
LEVELS = (simple, partial, complete, entity_f1, relation_f1, reward_f1)


def graph(entities: list[tuple[str, str]], relations: list[tuple[int, int, str]] | None = None) -> Graph:
    return Graph(
        tuple(Entity(tokens, label, index, index) for index, (tokens, label) in enumerate(entities)),
        tuple(Relation(*relation) for relation in relations or []),
    )


# "small left effusion" against "left effusion, no edema": effusion and left are shared, and one of two relations.
PREDICTED = graph(
    [("small", OBSERVED), ("left", ANATOMY), ("effusion", OBSERVED)], [(0, 2, "modify"), (2, 1, "located_at")]
)
REFERENCE = graph([("left", ANATOMY), ("effusion", OBSERVED), ("edema", ABSENT)], [(1, 0, "located_at")])


@pytest.mark.parametrize(
    ("level", "value"),
    [
        (simple, 2 * 2 / (3 + 3)),  # left, effusion
        (partial, 2 * 2 / (3 + 3)),  # left without, effusion with a relation
        (complete, 2 * 2 / (3 + 3)),  # left; effusion located_at left
        (entity_f1, 2 / 3),
        (relation_f1, 2 * 1 / (2 + 1)),
        (reward_f1, 2 / 3),
    ],
)
def test_a_small_pair_has_the_values_of_a_count_by_hand(level: Callable[[Graph, Graph], float], value: float) -> None:
    assert level(PREDICTED, REFERENCE) == pytest.approx(value)


def test_a_lost_relation_costs_partial_and_complete_but_not_simple() -> None:
    reference = graph([("left", ANATOMY), ("effusion", OBSERVED)], [(1, 0, "located_at")])
    predicted = graph([("left", ANATOMY), ("effusion", OBSERVED)])
    assert [level(predicted, reference) for level in LEVELS] == pytest.approx([1.0, 0.5, 0.5, 1.0, 0.0, 0.5])


def test_another_type_of_relation_costs_complete_but_not_partial() -> None:
    first = graph([("left", ANATOMY), ("effusion", OBSERVED)], [(1, 0, "located_at")])
    second = graph([("left", ANATOMY), ("effusion", OBSERVED)], [(1, 0, "modify")])
    assert [level(first, second) for level in LEVELS] == pytest.approx([1.0, 1.0, 0.5, 1.0, 0.0, 0.5])


def test_a_relation_to_an_entity_with_another_label_is_another_relation_to_radcliq_only() -> None:
    first = graph([("edema", OBSERVED), ("mild", OBSERVED)], [(1, 0, "modify")])
    second = graph([("edema", ABSENT), ("mild", OBSERVED)], [(1, 0, "modify")])
    assert complete(first, second) == pytest.approx(0.5)
    assert relation_f1(first, second) == 0.0


def test_letter_case_counts_as_in_the_package_and_not_for_radcliq() -> None:
    upper, lower = graph([("Edema", OBSERVED)]), graph([("edema", OBSERVED)])
    assert [level(upper, lower) for level in LEVELS] == pytest.approx([0.0, 0.0, 0.0, 1.0, 0.0, 0.5])
    upper, lower = (graph([(a, OBSERVED), ("it", ANATOMY)], [(0, 1, "located_at")]) for a in ("Edema", "edema"))
    assert complete(upper, lower) == 1.0


def test_a_repeated_finding_counts_once() -> None:
    once, thrice = graph([("edema", OBSERVED)]), graph([("edema", OBSERVED)] * 3)
    assert simple(thrice, once) == 1.0


def test_without_relations_the_mean_is_at_most_a_half() -> None:
    same = graph([("edema", OBSERVED)])
    assert reward_f1(same, same) == 0.5


@pytest.mark.parametrize("level", LEVELS)
def test_empty_graphs_get_nothing(level: Callable[[Graph, Graph], float]) -> None:
    assert level(Graph(), Graph()) == level(Graph(), REFERENCE) == level(REFERENCE, Graph()) == 0.0


_entities = st.lists(
    st.tuples(st.sampled_from(["edema", "Edema", "left", "no"]), st.sampled_from([OBSERVED, ABSENT])), max_size=5
)


@st.composite
def _graphs(draw: st.DrawFn) -> Graph:
    entities = draw(_entities)
    indexes = st.integers(0, max(0, len(entities) - 1))
    relation = st.tuples(indexes, indexes, st.sampled_from(["modify", "located_at"]))
    relations = draw(st.lists(relation, max_size=5 if entities else 0, unique_by=lambda r: r[:2]))
    return graph(entities, sorted(relations))


def _counted(predicted: list[object], reference: list[object]) -> float:
    """Precision and recall, counted one by one as the package does, and their harmonic mean."""
    first, second = list(Counter(predicted)), list(Counter(reference))
    hits = sum(any(a == b for b in second) for a in first)
    precision, recall = hits / max(1, len(first)), hits / max(1, len(second))
    return 2 * precision * recall / (precision + recall) if hits else 0.0


def _complete(one: Graph) -> list[object]:
    found: list[object] = []
    for index, entity in enumerate(one.entities):
        own = [relation for relation in one.relations if relation.source == index]
        if not own:
            found.append((entity.tokens, entity.label))
        for relation in own:
            target = one.entities[relation.target]
            found.append((entity.tokens.lower(), entity.label, relation.label, target.tokens.lower()))
    return found


def _named(one: Graph) -> list[object]:
    ends = [(entity.tokens.lower(), entity.label) for entity in one.entities]
    return [(ends[relation.source], ends[relation.target], relation.label) for relation in one.relations]


@given(_graphs(), _graphs())
def test_levels_equal_an_independent_count(first: Graph, second: Graph) -> None:
    def pair(of: Callable[[Graph], list[object]]) -> float:
        return _counted(of(first), of(second))

    related = [{relation.source for relation in one.relations} for one in (first, second)]
    flags = [
        [(e.tokens, e.label, i in r) for i, e in enumerate(g.entities)]
        for g, r in zip((first, second), related, strict=True)
    ]
    entities = pair(lambda one: [(e.tokens.lower(), e.label) for e in one.entities])
    assert simple(first, second) == pytest.approx(pair(lambda one: [(e.tokens, e.label) for e in one.entities]))
    assert partial(first, second) == pytest.approx(_counted(list(flags[0]), list(flags[1])))
    assert complete(first, second) == pytest.approx(pair(_complete))
    assert entity_f1(first, second) == pytest.approx(entities)
    assert relation_f1(first, second) == pytest.approx(pair(_named))
    assert reward_f1(first, second) == pytest.approx((entities + pair(_named)) / 2)


@given(_graphs(), _graphs())
def test_every_level_is_symmetric_and_between_0_and_1(first: Graph, second: Graph) -> None:
    for level in LEVELS:
        assert 0.0 <= level(first, second) == level(second, first) <= 1.0


@given(st.sets(st.integers(0, 9)), st.sets(st.integers(0, 9)))
def test_f1_is_one_for_equal_sets_only(first: set[int], second: set[int]) -> None:
    assert (f1(first, second) == 1.0) == (bool(first) and first == second)
