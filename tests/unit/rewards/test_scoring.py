"""The border where a scorer's failure becomes an error entry."""

import logging
from collections.abc import Sequence
from dataclasses import replace

import pytest

from rewards.reward import combine
from rewards.scorer import NoParams, ScoreItem, Scorer
from rewards.scoring import Slice, score_batch, score_slices
from schemas.group import Score, ScoreError
from schemas.prompt import Reference

SECRET = "left pneumothorax of Mrs Example"


def brittle(items: Sequence[ScoreItem], _: NoParams) -> list[Score | ScoreError]:
    for item in items:
        if item.answer == SECRET:
            raise ValueError(f"can't read {item.answer}")
    return [Score(value=1.0) for _ in items]


BRITTLE = Scorer(
    name="brittle",
    version="1",
    tasks=frozenset({"report"}),
    range=(0.0, 1.0),
    direction="higher",
    needs=("reference.report",),
    params=NoParams,
    score=brittle,
    summary="",
)
GOOD = ScoreItem("report", "fine", "fine", Reference(report="fine"))
BAD = GOOD._replace(completion=SECRET, answer=SECRET)


def test_one_bad_item_gets_an_error_and_costs_the_others_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        good, bad, last = score_batch(BRITTLE, [GOOD, BAD, GOOD], NoParams())
    assert good == last == Score(value=1.0)
    assert isinstance(bad, ScoreError)
    assert bad.code == "scorer_failed"
    assert "ValueError" in bad.message
    assert SECRET not in bad.message + caplog.text
    assert "brittle" in caplog.text


def test_a_scorer_that_gives_no_number_gives_an_error() -> None:
    def not_finite(items: Sequence[ScoreItem], _: NoParams) -> list[Score | ScoreError]:
        return [Score(value=float("nan")) for _ in items]

    def too_few(items: Sequence[ScoreItem], _: NoParams) -> list[Score | ScoreError]:
        return []

    for score in (not_finite, too_few):
        (result,) = score_batch(replace(BRITTLE, score=score), [GOOD], NoParams())
        assert isinstance(result, ScoreError)


def test_an_item_without_what_the_scorer_needs_gets_an_error() -> None:
    (result,) = score_batch(BRITTLE, [GOOD._replace(reference=Reference())], NoParams())
    assert isinstance(result, ScoreError)
    assert (result.code, result.message) == ("missing_input", "brittle needs reference.report")


def test_an_item_of_another_task_gets_an_error() -> None:
    (result,) = score_batch(BRITTLE, [GOOD._replace(task="grounding")], NoParams())
    assert isinstance(result, ScoreError)
    assert result.code == "wrong_task"


def test_items_of_two_requests_with_equal_parameters_are_one_batch() -> None:
    batches: list[int] = []

    def counting(items: Sequence[ScoreItem], _: NoParams) -> list[Score | ScoreError]:
        batches.append(len(items))
        return [Score(value=float(len(item.answer))) for item in items]

    scorers = {"brittle": replace(BRITTLE, score=counting)}
    longer = GOOD._replace(answer="finer still")
    slices = [
        Slice([GOOD, longer], [("brittle",), ()], {"brittle": NoParams()}),
        Slice([longer], [("brittle",)], {"brittle": NoParams()}),
    ]
    outcomes, costs = score_slices(scorers, slices)
    assert batches == [2]
    assert [[outcome.scores for outcome in part] for part in outcomes] == [
        [{"brittle": Score(value=4.0)}, {}],
        [{"brittle": Score(value=11.0)}],
    ]
    assert costs["brittle"].items == 2


SCORES = {"a": Score(value=0.5), "b": Score(value=-2.0)}
ERROR = {"a": ScoreError(code="scorer_failed", message="")}


def test_the_reward_is_the_weighted_sum() -> None:
    assert combine(SCORES, {}, {"a": 1.0, "b": -0.25}) == pytest.approx(1.0)


def test_a_missing_or_failed_score_leaves_no_reward() -> None:
    assert combine({"b": SCORES["b"]}, ERROR, {"a": 1.0, "b": 1.0}) is None
    assert combine(SCORES, {}, {"c": 1.0}) is None
    assert combine(SCORES, ERROR, {"a": 1.0}) is None
    assert combine({}, {}, {}) is None


def test_a_score_of_weight_zero_is_not_missed() -> None:
    assert combine(SCORES, {}, {"a": 2.0, "c": 0.0}) == pytest.approx(1.0)
