"""map50: COCO's own evaluation, and the rules that the paper's code has instead of confidences."""

import json
from pathlib import Path

import pytest

from rewards.scorer import ScoreItem
from rewards.scorers.map50 import SCORER, average_precision, best_references
from schemas.group import Score
from schemas.prompt import Box, Reference

VECTORS = json.loads((Path(__file__).parent / "vectors" / "average_precision.json").read_text("utf-8"))
A, B, FAR = (0.1, 0.1, 0.3, 0.3), (0.5, 0.5, 0.7, 0.7), (0.8, 0.8, 0.9, 0.9)


def scored(predicted: list[tuple[float, ...]], reference: list[tuple[float, ...]], more: str = "") -> Score:
    answer = " ".join(str(list(box)) for box in predicted) + more
    boxes = tuple(Box(x1=b[0], y1=b[1], x2=b[2], y2=b[3]) for b in reference)
    item = ScoreItem("grounding", answer, answer, Reference(boxes=boxes), "radvlm")
    assert SCORER.score is not None
    (result,) = SCORER.score([item], SCORER.params())
    assert isinstance(result, Score)
    return result


def test_the_vectors_are_worth_comparing_with() -> None:
    values = {round(value, 3) for vector in VECTORS for value in vector["precisions"]}
    assert len(values) > 30


@pytest.mark.parametrize("vector", VECTORS, ids=range(len(VECTORS)))
def test_ap_equals_cocos_evaluation_of_one_image_with_equal_confidences(vector: dict[str, list[list[float]]]) -> None:
    predicted, reference = (
        [tuple(side / 1000 for side in box) for box in vector[key]] for key in ("predicted", "reference")
    )
    result = scored(predicted, reference)
    precisions = vector["precisions"]
    assert result.value == pytest.approx(precisions[0], abs=1e-8)
    assert result.details["ap_50_95"] == pytest.approx(sum(precisions) / 10, abs=1e-8)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("predicted", "expected"),
    [
        ([A, B], 1.0),
        ([A], 0.5),
        ([A, FAR], 0.5),
        ([FAR, A], 0.25),  # precision 1/2 up to recall 1/2
        ([A, FAR, B], 0.5 + 0.5 * 2 / 3),
        ([FAR, A, B], 2 / 3),  # precision at the first hit is raised to that of the second
        ([FAR], 0.0),
    ],
)
def test_boxes_are_ranked_as_the_answer_names_them(predicted: list[tuple[float, ...]], expected: float) -> None:
    assert scored(predicted, [A, B]).value == pytest.approx(expected)


def test_boxes_after_the_last_hit_are_free_which_is_why_it_is_no_reward() -> None:
    flood = [(i / 100, 0.8, i / 100 + 0.1, 0.9) for i in range(40)]
    assert scored([A, *flood], [A]).value == 1.0
    assert scored([A], [A], more=" [0.5, 0.5, 0.5, 0.9] [0.1, 0.1, 0.3, 0.3]").value == 1.0
    assert SCORER.evaluation_only


def test_a_box_whose_best_reference_is_taken_is_no_hit_of_the_next_best() -> None:
    bests = best_references([[0.9, 0.6], [0.8, 0.7]])
    assert bests == [(0, 0.9), (0, 0.8)]
    assert average_precision(bests, 2, 0.5) == 0.5


def test_an_overlap_of_the_threshold_is_a_hit() -> None:
    assert average_precision([(0, 0.5)], 1, 0.5) == 1.0
    assert average_precision([(0, 0.4999)], 1, 0.5) == 0.0
