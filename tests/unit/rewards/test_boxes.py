"""Box parsers and matching."""

import math
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards.boxes import ParsedBoxes, iou_matrix, match_boxes, names_boxes, optimal_pairs, parse_boxes
from schemas.prompt import Box

A = Box(x1=0.1, y1=0.2, x2=0.3, y2=0.4)
B = Box(x1=0.5, y1=0.5, x2=0.9, y2=0.8)


def corners(parsed: ParsedBoxes) -> list[tuple[float, ...]]:
    return [pytest.approx(box.corners) for box in parsed.boxes]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The nodule is at [0.10, 0.20, 0.30, 0.40].", [(0.1, 0.2, 0.3, 0.4)]),
        ("At [0.1,0.2,0.3,0.4] and [0.50, 0.50, 0.90, 0.80].", [(0.1, 0.2, 0.3, 0.4), (0.5, 0.5, 0.9, 0.8)]),
        ("```json\n[[0.1, 0.2, 0.3, 0.4], [0, 0, 1, 1]]\n```", [(0.1, 0.2, 0.3, 0.4), (0.0, 0.0, 1.0, 1.0)]),
        ("[0.1, 0.2, 0.3, 0.4,]", [(0.1, 0.2, 0.3, 0.4)]),
        ("[.1, .2, 3e-1, +0.4]", [(0.1, 0.2, 0.3, 0.4)]),
        ("[0.1,\n 0.2,\n 0.3, 0.4]", [(0.1, 0.2, 0.3, 0.4)]),
        ("There is no nodule [see note] [1].", []),
        ("", []),
    ],
)
def test_radvlm_boxes_are_read_from_prose(text: str, expected: list[tuple[float, ...]]) -> None:
    parsed = parse_boxes(text, "radvlm")
    assert corners(parsed) == expected
    assert parsed.invalid == 0


@pytest.mark.parametrize(
    ("text", "expected", "labels"),
    [
        ('[{"bbox_2d": [100, 200, 300, 400], "label": "nodule"}]', [(0.1, 0.2, 0.3, 0.4)], ["nodule"]),
        ('```json\n[{"bbox_2d": [100, 200, 300, 400], "label": "nodule",},]\n```', [(0.1, 0.2, 0.3, 0.4)], ["nodule"]),
        (
            'Here: {"label": "a \\"b\\"", "bbox_2d": [0, 0, 1000, 1000,]} as asked.',
            [(0.0, 0.0, 1.0, 1.0)],
            ['a \\"b\\"'],
        ),
        ("[{'bbox_2d': [100, 200, 300, 400]}]", [(0.1, 0.2, 0.3, 0.4)], [None]),
        ('{"boxes": [{"bbox_2d": [100, 200, 300, 400], "label": ""}]}', [(0.1, 0.2, 0.3, 0.4)], [None]),
        ('[{"bbox_2d": [100, 200, 300, 400]}, {"bbox_2d": [1, 2', [(0.1, 0.2, 0.3, 0.4)], [None]),
        ("[]", [], []),
    ],
)
def test_qwen3vl_boxes_are_read_from_json_that_is_not_quite_json(
    text: str, expected: list[tuple[float, ...]], labels: list[str | None]
) -> None:
    parsed = parse_boxes(text, "qwen3vl")
    assert corners(parsed) == expected
    assert [box.label for box in parsed.boxes] == labels
    assert parsed.invalid == 0


@pytest.mark.parametrize(
    "numbers",
    [
        "0.1, 0.2, 0.1, 0.4",  # no width
        "0.1, 0.2, 0.3, 0.2",  # no height
        "nan, 0.2, 0.3, 0.4",
        "0.1, 0.2, inf, 0.4",
        "0.1, 0.2, 1e308, 0.4",
        "0.1, 0.2, 0.3",
        "0.1, 0.2, 0.3, 0.4, 0.5",
        "-0.1, 0.2, 0.3, 0.4",
        "0.1, 0.2, 0.3, 1.01",
        "100, 200, 300, 400",  # another format's scale is not guessed
        "0.1, 0.2, 0.3, 0." + "4" * 100,
    ],
)
def test_what_is_no_box_is_counted_and_not_used(numbers: str) -> None:
    parsed = parse_boxes(f"At [{numbers}].", "radvlm")
    assert parsed.boxes == ()
    assert parsed.invalid == parsed.count == 1


@pytest.mark.parametrize("numbers", ["1, 2, 3", "1, 2, 1001, 4", "-1, 2, 3, 4", "5, 5, 5, 9", '"a", 1, 2, 3', ""])
def test_a_qwen3vl_object_without_a_box_is_counted(numbers: str) -> None:
    parsed = parse_boxes(f'[{{"bbox_2d": [{numbers}], "label": "x"}}]', "qwen3vl")
    assert (parsed.boxes, parsed.invalid) == ((), 1)


def test_fractions_in_a_format_of_thousandths_are_not_rescaled() -> None:
    (box,) = parse_boxes('{"bbox_2d": [0.1, 0.2, 0.3, 0.4]}', "qwen3vl").boxes
    assert box.corners == pytest.approx((0.0001, 0.0002, 0.0003, 0.0004))


@pytest.mark.parametrize("text", ["[0.3, 0.4, 0.1, 0.2]", "[0.3, 0.2, 0.1, 0.4]", "[0.1, 0.4, 0.3, 0.2]"])
def test_swapped_corners_are_put_in_order_and_counted(text: str) -> None:
    parsed = parse_boxes(text, "radvlm")
    assert corners(parsed) == [(0.1, 0.2, 0.3, 0.4)]
    assert parsed.repaired == 1


def test_a_report_that_writes_boxes_is_noticed_in_any_format() -> None:
    assert names_boxes("Nodule at [0.1, 0.2, 0.3, 0.4].")
    assert names_boxes('{"bbox_2d": [1, 2, 3, 4]}')
    assert not names_boxes("The lungs are clear [1].")


@given(st.text(), st.sampled_from(["radvlm", "qwen3vl"]))
def test_no_text_makes_a_parser_raise(text: str, box_format: str) -> None:
    parsed = parse_boxes(text, box_format)  # type: ignore[arg-type]
    assert parsed.count >= len(parsed.boxes)


@given(st.text(alphabet="[]{}\"',:.0123456789einfbox_2dlabel -", max_size=300), st.sampled_from(["radvlm", "qwen3vl"]))
def test_no_near_miss_makes_a_parser_raise(text: str, box_format: str) -> None:
    for box in parse_boxes(text, box_format).boxes:  # type: ignore[arg-type]
        assert 0.0 <= box.x1 < box.x2 <= 1.0
        assert 0.0 <= box.y1 < box.y2 <= 1.0


@pytest.mark.parametrize("piece", ["[", "{", "[[", '{"bbox_2d": [', "[0.1,", '"label": "', "{[", "[0.1, 0.2, 0.3, 0.4"])
def test_a_long_broken_answer_is_read_to_its_end(piece: str) -> None:
    for box_format in ("radvlm", "qwen3vl"):
        parsed = parse_boxes(piece * 10_000, box_format)  # type: ignore[arg-type]
        assert parsed.count <= 10_000


def test_ten_thousand_boxes_are_counted_but_not_all_matched() -> None:
    parsed = parse_boxes("".join(f"[0, 0, 0.5, {0.1 + i / 20_000}]" for i in range(10_000)), "radvlm")
    match = match_boxes(parsed, [A], max_boxes=50)
    assert match.predicted == 10_000
    assert match.matched <= 1


def _iou(first: Box, second: Box) -> float:
    """Independent of the vectorised one: by cases."""
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
    iou_PR = iou_matrix(predicted, reference)
    assert iou_PR.shape == (len(predicted), len(reference))
    for row, box in enumerate(predicted):
        for column, other in enumerate(reference):
            assert iou_PR[row, column] == pytest.approx(_iou(box, other), abs=1e-12)


def test_boxes_too_thin_for_floats_have_no_overlap_and_no_nan() -> None:
    thin = Box(x1=0.0, y1=0.0, x2=1e-200, y2=1e-200)
    assert iou_matrix([thin], [thin]).tolist() == [[0.0]]


def test_pairs_are_optimal_where_greedy_ones_are_not() -> None:
    pairs = optimal_pairs(np.array([[0.6, 0.5], [0.55, 0.0]]))
    assert sum(iou for _, _, iou in pairs) == pytest.approx(1.05)


def test_pairs_without_overlap_are_left_out() -> None:
    assert optimal_pairs(np.array([[0.0, 0.0], [0.0, 0.7]])) == [(1, 1, 0.7)]


@given(boxes(4), boxes(4))
def test_the_matched_iou_sum_is_the_best_of_all_assignments(predicted: list[Box], reference: list[Box]) -> None:
    predicted = list({box.corners: box for box in predicted}.values())
    reference = list({box.corners: box for box in reference}.values())
    match = match_boxes(ParsedBoxes(tuple(predicted), 0, 0), reference, max_boxes=50)
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
    match = match_boxes(ParsedBoxes((A, A), 0, 0), [A, near], max_boxes=50)
    assert (match.matched, match.false_positives, match.duplicates) == (1, 1, 1)


def test_boxes_over_the_limit_are_false_positives() -> None:
    match = match_boxes(ParsedBoxes((B, A), 0, 0), [A], max_boxes=1)
    assert (match.matched, match.false_positives) == (0, 2)


def test_labels_must_agree_where_both_sides_name_one() -> None:
    def matched(predicted_label: str | None, reference_label: str | None) -> int:
        predicted = A.model_copy(update={"label": predicted_label})
        reference = A.model_copy(update={"label": reference_label})
        return match_boxes(ParsedBoxes((predicted,), 0, 0), [reference], max_boxes=50).matched

    assert matched("Nodule", " nodule") == 1
    assert matched("nodule", "mass") == 0
    assert matched(None, "mass") == 1
    assert matched("nodule", None) == 1


def test_one_place_with_two_names_is_one_reference_where_the_answer_names_none() -> None:
    names = [A.model_copy(update={"label": name}) for name in ("nodule", "mass")]
    assert match_boxes(ParsedBoxes((A,), 0, 0), names, max_boxes=50).reference == 1
    assert match_boxes(ParsedBoxes(tuple(names), 0, 0), names, max_boxes=50).matched == 2
