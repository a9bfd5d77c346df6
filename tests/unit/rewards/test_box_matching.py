"""Box geometry and matching."""

import math
from collections.abc import Iterator
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards.box_matching import Corners, giou, guard, iou, iou_matrix, iou_rows, match_sides, optimal_pairs
from rewards.boxes import ParsedBoxes, parse_boxes
from schemas.prompt import Box

A = Box(x1=0.1, y1=0.2, x2=0.3, y2=0.4)
B = Box(x1=0.5, y1=0.5, x2=0.9, y2=0.8)


def test_ten_thousand_boxes_are_counted_but_not_all_matched() -> None:
    parsed = parse_boxes("".join(f"[0, 0, 0.5, {0.1 + i / 20_000}]" for i in range(10_000)), "radvlm")
    match = match_sides(guard(parsed, [A], max_boxes=50))
    assert match.predicted == 10_000
    assert match.matched <= 1


def _iou(first: Box, second: Box) -> float:
    """Written apart from the code under test: no clamps, no arrays."""
    width = min(first.x2, second.x2) - max(first.x1, second.x1)
    height = min(first.y2, second.y2) - max(first.y1, second.y1)
    overlap = width * height if width > 0 and height > 0 else 0.0
    areas = [(box.x2 - box.x1) * (box.y2 - box.y1) for box in (first, second)]
    return overlap / (sum(areas) - overlap)


grid = st.integers(0, 20)


@st.composite
def boxes(draw: st.DrawFn, max_size: int = 5) -> list[Box]:
    found = []
    for _ in range(draw(st.integers(0, max_size))):
        x1, x2 = sorted(draw(st.lists(grid, min_size=2, max_size=2, unique=True)))
        y1, y2 = sorted(draw(st.lists(grid, min_size=2, max_size=2, unique=True)))
        found.append(Box(x1=x1 / 20, y1=y1 / 20, x2=x2 / 20, y2=y2 / 20))
    return found


@given(boxes(), boxes())
def test_iou_equals_the_textbook_one(predicted: list[Box], reference: list[Box]) -> None:
    for box in predicted:
        for other in reference:
            assert iou(box.corners, other.corners) == pytest.approx(_iou(box, other), abs=1e-12)


side = st.tuples(st.floats(0.0, 1.0), st.floats(0.0, 1.0)).map(sorted).filter(lambda pair: pair[0] < pair[1])
any_corners = st.tuples(side, side).map(lambda sides: (sides[0][0], sides[1][0], sides[0][1], sides[1][1]))


@given(st.lists(any_corners, max_size=6), st.lists(any_corners, max_size=6))
def test_many_boxes_at_once_overlap_exactly_as_one_by_one(predicted: list[Corners], reference: list[Corners]) -> None:
    iou_PR = iou_matrix(predicted, reference)
    assert iou_PR.shape == (len(predicted), len(reference))
    assert iou_PR.tolist() == [[iou(box, other) for other in reference] for box in predicted]
    assert all(0.0 <= value <= 1.0 for value in iou_PR.flat)


@given(any_corners, any_corners)
def test_giou_lies_between_minus_one_and_iou(first: Corners, second: Corners) -> None:
    assert -1.0 <= giou(first, second) <= iou(first, second)
    assert giou(first, second) == pytest.approx(giou(second, first))


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ((0.1, 0.2, 0.3, 0.4), (0.1, 0.2, 0.3, 0.4), 1.0),
        ((0.0, 0.0, 0.5, 0.5), (0.0, 0.0, 0.5, 1.0), 0.5),  # the union is its own hull
        ((0.0, 0.0, 0.5, 0.5), (0.5, 0.5, 1.0, 1.0), -0.5),  # they touch: half of the hull is empty
        ((0.0, 0.0, 0.1, 0.1), (0.9, 0.9, 1.0, 1.0), -0.98),
        ((0.0, 0.0, 0.6, 0.6), (0.4, 0.4, 1.0, 1.0), 0.04 / 0.68 - 0.32),
    ],
)
def test_known_values_of_giou(first: Corners, second: Corners, expected: float) -> None:
    assert giou(first, second) == pytest.approx(expected)


def test_boxes_too_thin_for_floats_have_no_overlap_and_no_nan() -> None:
    thin = (0.0, 0.0, 1e-200, 1e-200)
    assert iou_matrix([thin], [thin]).tolist() == [[0.0]]
    assert iou(thin, thin) == 0.0
    assert giou(thin, thin) == -1.0


def test_pairs_are_optimal_where_greedy_ones_are_not() -> None:
    pairs = optimal_pairs([[0.6, 0.5], [0.55, 0.0]])
    assert sum(weight for _, _, weight in pairs) == pytest.approx(1.05)


def test_pairs_without_overlap_are_left_out() -> None:
    assert optimal_pairs([[0.0, 0.0], [0.0, 0.7]]) == [(1, 1, 0.7)]
    assert optimal_pairs([[0.0], [0.0]]) == []


@pytest.mark.parametrize("weights", [[], [[]], [[], []]])
def test_an_empty_side_has_no_pairs(weights: list[list[float]]) -> None:
    assert optimal_pairs(weights) == []


def _assignments(rows: int, columns: int) -> Iterator[list[tuple[int, int]]]:
    """Every way to pair the smaller side off."""
    if rows <= columns:
        for chosen in permutations(range(columns), rows):
            yield list(enumerate(chosen))
    else:
        for chosen in permutations(range(rows), columns):
            yield [(row, column) for column, row in enumerate(chosen)]


@st.composite
def weight_tables(draw: st.DrawFn) -> list[list[float]]:
    # Few different weights, so that ties are common.
    columns = draw(st.integers(1, 5))
    row = st.lists(st.sampled_from([0.0, 0.25, 0.5, 0.75]), min_size=columns, max_size=columns)
    return draw(st.lists(row, min_size=1, max_size=5))


@given(weight_tables())
def test_pairs_have_the_greatest_sum_and_then_the_greatest_number(weights: list[list[float]]) -> None:
    kept = [
        [weights[row][column] for row, column in pairs if weights[row][column] > 0.0]
        for pairs in _assignments(len(weights), len(weights[0]))
    ]
    pairs = optimal_pairs(weights)
    assert (sum(weight for _, _, weight in pairs), len(pairs)) == max((sum(found), len(found)) for found in kept)
    assert len({row for row, _, _ in pairs}) == len({column for _, column, _ in pairs}) == len(pairs)
    assert all(weights[row][column] == weight for row, column, weight in pairs)


@given(boxes(4), boxes(4))
def test_the_matched_iou_sum_is_the_best_of_all_assignments(predicted: list[Box], reference: list[Box]) -> None:
    predicted = list({box.corners: box for box in predicted}.values())
    reference = list({box.corners: box for box in reference}.values())
    match = match_sides(guard(ParsedBoxes(tuple(predicted), 0, 0), reference, max_boxes=50))
    few, many = sorted((predicted, reference), key=len)
    best = max(
        (sum(_iou(a, b) for a, b in zip(few, chosen, strict=True)) for chosen in permutations(many, len(few))),
        default=0.0,
    )
    assert match.iou_sum == pytest.approx(best)
    assert math.isfinite(match.iou_sum)
    assert match.false_positives == len(predicted) - match.matched


def test_an_exact_duplicate_is_a_false_positive_even_beside_a_second_reference() -> None:
    near = Box(x1=0.11, y1=0.2, x2=0.3, y2=0.4)
    match = match_sides(guard(ParsedBoxes((A, A), 0, 0), [A, near], max_boxes=50))
    assert (match.matched, match.false_positives, match.duplicates) == (1, 1, 1)


def named(box: Box, label: str | None) -> Box:
    return box.model_copy(update={"label": label})


@given(st.permutations([named(A, None), named(A, "nodule"), named(A, "Nodule "), named(B, "nodule"), named(B, None)]))
def test_an_unnamed_box_is_a_duplicate_of_a_named_one_at_its_place_in_any_order(predicted: list[Box]) -> None:
    match = match_sides(
        guard(ParsedBoxes(tuple(predicted), 0, 0), [named(A, "nodule"), named(A, "mass")], max_boxes=50)
    )
    assert (match.matched, match.predicted, match.duplicates) == (1, 5, 3)


def test_a_second_name_does_not_hide_a_duplicate_where_the_reference_names_none() -> None:
    near = Box(x1=0.11, y1=0.2, x2=0.3, y2=0.4)
    match = match_sides(guard(ParsedBoxes((named(A, "nodule"), named(A, "mass")), 0, 0), [A, near], max_boxes=50))
    assert (match.matched, match.duplicates) == (1, 1)


def test_labels_hold_among_many_boxes_too() -> None:
    boxes = [Box(x1=i / 100, y1=0.0, x2=(i + 1) / 100, y2=1.0, label="nodule") for i in range(20)]
    sides = guard(ParsedBoxes(tuple(boxes), 0, 0), [named(box, "mass") for box in boxes], max_boxes=50)
    assert max(map(max, iou_rows(sides))) == 0.0


def test_boxes_over_the_limit_are_false_positives() -> None:
    match = match_sides(guard(ParsedBoxes((B, A), 0, 0), [A], max_boxes=1))
    assert (match.matched, match.false_positives) == (0, 2)


def test_labels_must_agree_where_both_sides_name_one() -> None:
    def matched(predicted_label: str | None, reference_label: str | None) -> int:
        predicted = A.model_copy(update={"label": predicted_label})
        reference = A.model_copy(update={"label": reference_label})
        return match_sides(guard(ParsedBoxes((predicted,), 0, 0), [reference], max_boxes=50)).matched

    assert matched("Nodule", " nodule") == 1
    assert matched("nodule", "mass") == 0
    assert matched(None, "mass") == 1
    assert matched("nodule", None) == 1


def test_one_place_with_two_names_is_one_reference_where_the_answer_names_none() -> None:
    names = [A.model_copy(update={"label": name}) for name in ("nodule", "mass")]
    assert match_sides(guard(ParsedBoxes((A,), 0, 0), names, max_boxes=50)).reference == 1
    assert match_sides(guard(ParsedBoxes(tuple(names), 0, 0), names, max_boxes=50)).matched == 2
