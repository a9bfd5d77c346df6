"""What the scorers of boxes promise together, and soft_f1_dice, iou_mean and giou by themselves."""

import pickle
from itertools import pairwise, permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prompts.reports import report_sentences
from rewards.grounding import GroundingParams, says_none
from rewards.scorer import ScoreItem, Scorer
from rewards.scorers import giou, iou_mean, map50, soft_f1, soft_f1_dice
from schemas.group import Score
from schemas.prompt import Box, BoxFormat, Reference

Corners = tuple[float, float, float, float]

ALL = (giou.SCORER, iou_mean.SCORER, map50.SCORER, soft_f1.SCORER, soft_f1_dice.SCORER)
WITHOUT_ORDER = tuple(scorer for scorer in ALL if scorer is not map50.SCORER)
FLOOD_PROOF = (giou.SCORER, soft_f1.SCORER, soft_f1_dice.SCORER)
BOX: Corners = (0.1, 0.2, 0.3, 0.4)
FAR: Corners = (0.7, 0.7, 0.9, 0.9)


def text(boxes: list[Corners]) -> str:
    return "The boxes are " + " and ".join(str(list(box)) for box in boxes) + "."


def result(
    scorer: Scorer[GroundingParams],
    answer: str,
    reference: list[Corners],
    box_format: BoxFormat = "radvlm",
    **params: float,
) -> Score:
    boxes = tuple(Box(x1=b[0], y1=b[1], x2=b[2], y2=b[3]) for b in reference)
    item = ScoreItem("grounding", answer, answer, Reference(boxes=boxes), box_format)
    assert scorer.score is not None
    (scored,) = scorer.score([item], GroundingParams.model_validate(params))
    assert isinstance(scored, Score)
    return scored


def value(scorer: Scorer[GroundingParams], answer: str, reference: list[Corners], **params: float) -> float:
    return result(scorer, answer, reference, **params).value


side = st.lists(st.integers(0, 20), min_size=2, max_size=2, unique=True).map(sorted)
corners = st.tuples(side, side).map(lambda s: (s[0][0] / 20, s[1][0] / 20, s[0][1] / 20, s[1][1] / 20))
box_lists = st.lists(corners, max_size=5, unique=True)
some_boxes = st.lists(corners, min_size=1, max_size=4, unique=True)
any_scorer = st.sampled_from(ALL)


@pytest.mark.parametrize("scorer", ALL, ids=lambda scorer: scorer.name)
def test_the_reference_itself_scores_one(scorer: Scorer[GroundingParams]) -> None:
    assert value(scorer, text([BOX, FAR]), [BOX, FAR]) == pytest.approx(1.0)
    assert value(scorer, text([FAR, BOX]), [BOX, FAR]) == pytest.approx(1.0)


@pytest.mark.parametrize("scorer", ALL, ids=lambda scorer: scorer.name)
def test_both_sides_empty_give_the_chosen_value_and_silence_the_lowest(scorer: Scorer[GroundingParams]) -> None:
    for answer in ("There is no nodule.", "[]", "Normal study."):
        assert value(scorer, answer, []) == 1.0
        assert value(scorer, answer, [], empty_match_value=0.25) == 0.25
    for answer in ("", ".", "\u200b", "Sorry, I can help.", "The heart is located at [0.35, 0.4"):
        assert value(scorer, answer, []) == scorer.range[0]


@pytest.mark.parametrize(
    "answer",
    [
        "[]", "[ \n]", "```json\n[]\n```", '{"boxes": []}', "None.", "no", "NO FINDING", "No_Finding",
        "There is nothing to see.", "Lungs without consolidation.", "Absent.", "Negative for pneumothorax.",
        "The heart is normal in size.", "The lungs are clear.", "Unremarkable.", "Free of effusion.",
        "There isn't a nodule.", "There isn\u2019t one.", "It is not there.", "Nodule: none",
    ],
)  # fmt: skip
def test_a_denial_or_an_empty_list_says_that_there_is_none(answer: str) -> None:
    assert says_none(answer)


@pytest.mark.parametrize(
    "answer",
    [
        "", " ", ".", "...", "\u200b", "\u200b.", "[", "] [", "{}", "Sorry, I can help.", "Sorry, I can't help.",
        "I cannot.", "A nodule is present.", "Abnormal.", "Note the nodule.", "A known nodule.", "Freely movable.",
        "The boxes are .", "```json\n```", "x" * 50,
    ],
)  # fmt: skip
def test_what_denies_nothing_does_not_say_that_there_is_none(answer: str) -> None:
    assert not says_none(answer)


@pytest.mark.parametrize("seed", range(20))
def test_every_sentence_of_a_phantom_without_findings_says_that_there_is_none(seed: int) -> None:
    for sentence in report_sentences([], np.random.default_rng(seed)):
        assert says_none(sentence)


@given(st.text(alphabet="[] \nnoNOt'", max_size=30))
def test_says_none_agrees_with_a_search_word_by_word(answer: str) -> None:
    words = "".join(character if character.isalnum() else " " for character in answer.lower()).split()
    assert says_none(answer) == ("[]" in "".join(answer.split()) or bool({"no", "not"} & set(words)))


@pytest.mark.parametrize("scorer", ALL, ids=lambda scorer: scorer.name)
def test_a_scorer_of_boxes_can_travel_to_another_process(scorer: Scorer[GroundingParams]) -> None:
    assert pickle.loads(pickle.dumps(scorer)).name == scorer.name


@pytest.mark.parametrize("scorer", ALL, ids=lambda scorer: scorer.name)
def test_one_side_empty_gives_the_lowest_value(scorer: Scorer[GroundingParams]) -> None:
    for answer, reference in ((text([BOX]), []), ("[0.1, 0.2, 0.1, 0.2]", []), ("None.", [BOX]), ("", [BOX])):
        assert value(scorer, answer, reference) == scorer.range[0]


@pytest.mark.parametrize("scorer", ALL, ids=lambda scorer: scorer.name)
def test_details_have_the_same_names_whatever_the_answer(scorer: Scorer[GroundingParams]) -> None:
    cases = [("None.", []), (text([BOX]), []), ("None.", [BOX]), (text([BOX, FAR]), [BOX])]
    (names,) = {frozenset(result(scorer, answer, reference).details) for answer, reference in cases}
    assert {"predicted", "reference", "invalid", "duplicates", "repaired"} < names


@given(any_scorer, box_lists, box_lists)
def test_values_stay_in_the_range(
    scorer: Scorer[GroundingParams], predicted: list[Corners], truth: list[Corners]
) -> None:
    low, high = scorer.range
    assert low is not None
    assert high is not None
    assert low <= value(scorer, text(predicted), truth) <= high


@given(st.sampled_from(WITHOUT_ORDER), box_lists, box_lists, st.randoms())
def test_the_order_of_boxes_does_not_matter(
    scorer: Scorer[GroundingParams], predicted: list[Corners], truth: list[Corners], rng: object
) -> None:
    before = value(scorer, text(predicted), truth)
    rng.shuffle(predicted)  # type: ignore[attr-defined]
    rng.shuffle(truth)  # type: ignore[attr-defined]
    # Sums are added up in another order, and matchings within 1e-9 of each other count as equal.
    assert value(scorer, text(predicted), truth) == pytest.approx(before, abs=1e-8)


@given(any_scorer, some_boxes, some_boxes, st.sampled_from(["[0.5, 0.5, 0.5, 0.9]", "[2, 2, 3, 3]", "[0.1, 0.2, 0.3]"]))
def test_an_invalid_box_never_raises_a_score(
    scorer: Scorer[GroundingParams], predicted: list[Corners], truth: list[Corners], broken: str
) -> None:
    assert value(scorer, text(predicted) + broken, truth) <= value(scorer, text(predicted), truth)


@given(st.sampled_from(FLOOD_PROOF), some_boxes, some_boxes, st.integers(1, 5))
def test_a_copy_of_a_box_lowers_a_score_unless_boxes_are_missing(
    scorer: Scorer[GroundingParams], predicted: list[Corners], truth: list[Corners], copies: int
) -> None:
    before = value(scorer, text(predicted), truth)
    after = value(scorer, text(predicted + predicted[:1] * copies), truth)
    assert after <= before
    if len(predicted) >= len(truth) and before > scorer.range[0]:  # type: ignore[operator]
        assert after < before


@given(st.sampled_from([soft_f1.SCORER, soft_f1_dice.SCORER]), box_lists, some_boxes, corners)
def test_a_box_beside_every_reference_never_raises_soft_f1(
    scorer: Scorer[GroundingParams], predicted: list[Corners], truth: list[Corners], extra: Corners
) -> None:
    left = [(x1 / 2, y1, x2 / 2, y2) for x1, y1, x2, y2 in truth]
    right = (0.5 + extra[0] / 2, extra[1], 0.5 + extra[2] / 2, extra[3])
    before = value(scorer, text(predicted), left)
    for more in ([right, *predicted], [*predicted, right]):
        assert value(scorer, text(more), left) <= before + 1e-9


@given(box_lists, some_boxes, box_lists)
def test_iou_mean_never_falls_by_more_boxes_which_is_why_it_is_no_reward(
    predicted: list[Corners], truth: list[Corners], more: list[Corners]
) -> None:
    assert iou_mean.SCORER.evaluation_only
    before = value(iou_mean.SCORER, text(predicted), truth)
    assert value(iou_mean.SCORER, text(predicted + more), truth) >= before - 1e-8


@pytest.mark.parametrize("scorer", FLOOD_PROOF, ids=lambda scorer: scorer.name)
def test_flooding_does_not_pay(scorer: Scorer[GroundingParams]) -> None:
    flood = [(i / 100, j / 100, (i + 20) / 100, (j + 20) / 100) for i in range(0, 80, 5) for j in range(0, 80, 5)]
    assert BOX in flood
    assert value(scorer, text(flood), [BOX]) < value(scorer, text([(0.0, 0.0, 1.0, 1.0)]), [BOX])
    assert not scorer.evaluation_only


@pytest.mark.parametrize("scorer", ALL, ids=lambda scorer: scorer.name)
def test_a_label_that_the_reference_does_not_have_finds_nothing(scorer: Scorer[GroundingParams]) -> None:
    def scored(label: str) -> float:
        answer = f'[{{"bbox_2d": [100, 200, 300, 400], "label": "{label}"}}]'
        reference = Reference(boxes=(Box(x1=0.1, y1=0.2, x2=0.3, y2=0.4, label="Nodule"),))
        assert scorer.score is not None
        (found,) = scorer.score([ScoreItem("grounding", answer, answer, reference, "qwen3vl")], GroundingParams())
        assert isinstance(found, Score)
        return found.value

    assert scored("nodule") == scored("") == 1.0
    assert scored("mass") == scorer.range[0]


def test_known_values_of_dice() -> None:
    assert value(soft_f1_dice.SCORER, text([BOX] * 5), [BOX]) == pytest.approx(1 / 3)
    half = [(0.1, 0.2, 0.2, 0.4)]  # IoU 1/2
    assert value(soft_f1_dice.SCORER, text(half), [BOX]) == pytest.approx(0.5)
    assert value(soft_f1.SCORER, text(half), [BOX]) == pytest.approx(2 / 3)
    assert value(soft_f1_dice.SCORER, text([BOX, FAR]), [BOX]) == pytest.approx(2 / 3)


def test_known_values_of_iou_mean() -> None:
    assert value(iou_mean.SCORER, text([BOX]), [BOX, FAR]) == pytest.approx(0.5)
    assert value(iou_mean.SCORER, text([(0.1, 0.2, 0.2, 0.4), FAR]), [BOX, FAR]) == pytest.approx(0.75)
    assert value(iou_mean.SCORER, text([BOX] * 5), [BOX]) == pytest.approx(1.0)


def test_known_values_of_giou() -> None:
    apart, hull = (0.5, 0.2, 0.7, 0.4), 0.6 * 0.2
    one = -(hull - 2 * 0.04) / hull
    assert value(giou.SCORER, text([apart]), [BOX]) == pytest.approx(one)
    assert value(giou.SCORER, text([apart]), [BOX, FAR]) < one
    assert value(giou.SCORER, text([BOX, BOX]), [BOX]) == pytest.approx(0.0)  # (1 - 1) / 2
    assert value(giou.SCORER, text([BOX] * 5), [BOX]) == pytest.approx(-0.6)
    assert value(giou.SCORER, text([BOX]), [BOX, FAR]) == pytest.approx(0.0)


def test_a_nearer_box_has_a_higher_giou_though_neither_overlaps() -> None:
    near, far = (0.35, 0.2, 0.55, 0.4), (0.75, 0.2, 0.95, 0.4)
    assert value(giou.SCORER, text([near]), [BOX]) > value(giou.SCORER, text([far]), [BOX])
    assert value(soft_f1.SCORER, text([near]), [BOX]) == value(soft_f1.SCORER, text([far]), [BOX]) == 0.0


def _pair_iou(a: Corners, b: Corners) -> tuple[float, float]:
    """(IoU, GIoU), from areas of cells: the plane is cut at every coordinate, and cells are counted."""
    xs, ys = sorted({a[0], a[2], b[0], b[2]}), sorted({a[1], a[3], b[1], b[3]})
    both = either = 0.0
    for x1, x2 in pairwise(xs):
        for y1, y2 in pairwise(ys):
            inside = [box[0] <= x1 and x2 <= box[2] and box[1] <= y1 and y2 <= box[3] for box in (a, b)]
            both += (x2 - x1) * (y2 - y1) * all(inside)
            either += (x2 - x1) * (y2 - y1) * any(inside)
    hull = (xs[-1] - xs[0]) * (ys[-1] - ys[0])
    return both / either, both / either - (hull - either) / hull


@given(some_boxes, some_boxes)
def test_values_equal_the_best_of_all_assignments(predicted: list[Corners], truth: list[Corners]) -> None:
    few, many = sorted((predicted, truth), key=len)
    tables = [[_pair_iou(a, b) for a, b in zip(few, chosen, strict=True)] for chosen in permutations(many, len(few))]
    iou_sum = max(sum(iou for iou, _ in pairs) for pairs in tables)
    giou_sum = max(sum(generalised for _, generalised in pairs) for pairs in tables)
    places = max(len(predicted), len(truth))
    answer = text(predicted)
    assert value(iou_mean.SCORER, answer, truth) == pytest.approx(iou_sum / len(truth), abs=1e-8)
    assert value(soft_f1_dice.SCORER, answer, truth) == pytest.approx(
        2 * iou_sum / (len(predicted) + len(truth)), abs=1e-8
    )
    assert value(giou.SCORER, answer, truth) == pytest.approx((giou_sum - (places - len(few))) / places, abs=1e-8)
