"""soft_f1: known values, and an independent computation by trying every assignment."""

from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards.scorer import ScoreItem
from rewards.scorers.soft_f1 import SCORER
from schemas.group import Score
from schemas.prompt import Box, BoxFormat, Reference

BOX = (0.1, 0.2, 0.3, 0.4)


def value(answer: str, reference: list[tuple[float, ...]], box_format: BoxFormat = "radvlm", **params: float) -> float:
    boxes = tuple(Box(x1=b[0], y1=b[1], x2=b[2], y2=b[3]) for b in reference)
    item = ScoreItem("grounding", answer, answer, Reference(boxes=boxes), box_format)
    (result,) = SCORER.score([item], SCORER.params.model_validate(params))
    assert isinstance(result, Score)
    return result.value


def text(boxes: list[tuple[float, ...]]) -> str:
    return "The boxes are " + " and ".join(str(list(box)) for box in boxes) + "."


def test_the_reference_itself_scores_one() -> None:
    assert value(text([BOX]), [BOX]) == pytest.approx(1.0)
    assert value('[{"bbox_2d": [100, 200, 300, 400], "label": "a"}]', [BOX], "qwen3vl") == pytest.approx(1.0)


def test_five_identical_copies_of_one_reference_score_a_third() -> None:
    assert value(text([BOX] * 5), [BOX]) == pytest.approx(1 / 3, abs=1e-9)


def test_half_a_box_scores_by_the_formula() -> None:
    # IoU 1/2: t = 0.5, no false positive, one reference: 1 / 1.5.
    assert value(text([(0.1, 0.2, 0.2, 0.4)]), [BOX]) == pytest.approx(2 / 3)


def test_an_invalid_box_costs_as_a_false_positive() -> None:
    assert value(text([BOX]) + " [0.5, 0.5, 0.5, 0.9]", [BOX]) == pytest.approx(2 / 3)


def test_both_sides_empty_give_the_chosen_value() -> None:
    assert value("There is no nodule.", []) == 1.0
    assert value("There is no nodule.", [], empty_match_value=0.0) == 0.0


def test_silence_is_not_a_right_answer() -> None:
    assert value("", []) == 0.0


def test_one_side_empty_gives_zero() -> None:
    assert value("There is no nodule.", [BOX]) == 0.0
    assert value(text([BOX]), []) == 0.0


def test_flooding_does_not_pay() -> None:
    flood = [(i / 100, j / 100, (i + 20) / 100, (j + 20) / 100) for i in range(0, 80, 5) for j in range(0, 80, 5)]
    assert value(text(flood), [BOX]) < 0.05


@st.composite
def box_lists(draw: st.DrawFn) -> list[tuple[float, ...]]:
    corner = st.lists(st.integers(0, 20), min_size=2, max_size=2, unique=True)
    count = draw(st.integers(0, 4))
    found = []
    for _ in range(count):
        (x1, x2), (y1, y2) = sorted(draw(corner)), sorted(draw(corner))
        found.append((x1 / 20, y1 / 20, x2 / 20, y2 / 20))
    return list(dict.fromkeys(found))


def _iou(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    overlap = width * height if width > 0 and height > 0 else 0.0
    return overlap / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - overlap)


@given(box_lists(), box_lists())
def test_it_equals_the_best_of_all_assignments_by_precision_and_recall(
    predicted: list[tuple[float, ...]], reference: list[tuple[float, ...]]
) -> None:
    few, many = sorted((predicted, reference), key=len)
    pairings = [[_iou(a, b) for a, b in zip(few, chosen, strict=True)] for chosen in permutations(many, len(few))]
    # Which of several equally good assignments is taken must not matter: they may differ in how many pairs they keep.
    total = max(sum(ious) for ious in pairings)
    candidates = {sum(iou > 0 for iou in ious) for ious in pairings if sum(ious) == pytest.approx(total)}
    result = value(text(predicted), reference, empty_match_value=1.0)
    if not predicted and not reference:
        assert result == 0.0  # "The boxes are ." does not say that there is none
        return
    expected = []
    for kept in candidates:
        precision = total / (total + len(predicted) - kept) if total else 0.0
        recall = total / len(reference) if reference else 0.0
        expected.append(2 * precision * recall / (precision + recall) if precision + recall else 0.0)
    assert any(result == pytest.approx(e) for e in expected)
    assert 0.0 <= result <= 1.0


@given(box_lists().filter(bool))
def test_order_does_not_matter(boxes: list[tuple[float, ...]]) -> None:
    assert value(text(boxes[::-1]), boxes) == pytest.approx(1.0)
