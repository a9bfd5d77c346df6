"""think, repetition, overlong, negation_consistency."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from rewards.scorer import NoParams, ScoreItem, Scorer
from rewards.scorers.negation_consistency import SCORER as NEGATION_CONSISTENCY
from rewards.scorers.overlong import SCORER as OVERLONG
from rewards.scorers.overlong import OverlongParams, overlong
from rewards.scorers.repetition import SCORER as REPETITION
from rewards.scorers.repetition import RepetitionParams, repetition
from rewards.scorers.think import SCORER as THINK
from rewards.scorers.think import ThinkParams
from rewards.text import answer_of
from schemas.base import Settings
from schemas.group import Score
from schemas.prompt import Reference


def score(scorer: Scorer[Settings], scored: ScoreItem, params: Settings) -> Score:
    assert scorer.score is not None
    (result,) = scorer.score([scored], params)
    assert isinstance(result, Score)
    return result


def completion(text: str, thinking: bool = False, report: str = "", token_count: int | None = None) -> ScoreItem:
    return ScoreItem(
        "report",
        text,
        answer_of(text, thinking),
        Reference(report=report),
        thinking=thinking,
        token_count=token_count,
    )


# think


@pytest.mark.parametrize(
    ("text", "thinking", "expected"),
    [
        ("Large heart. </think> Cardiomegaly.", True, 1),
        ("<think>Large heart.</think>Cardiomegaly.", True, 1),
        ("</think> Cardiomegaly.", True, 0),  # no trace
        ("<think> \n </think> Cardiomegaly.", True, 0),
        ("Large heart. </think>", True, 0),  # no answer
        ("Large heart. </think> \n", True, 0),
        ("A </think> B </think> Cardiomegaly.", True, 0),
        ("Large heart. </think> <think> Or not? Cardiomegaly.", True, 0),  # a second trace, never ended
        ("Cardiomegaly.", False, 1),
        ("Large heart. </think> Cardiomegaly.", False, 0),
        ("<think> Cardiomegaly.", False, 0),
        ("", False, 0),
        (" \n", False, 0),
    ],
)
def test_think_is_one_for_one_trace_and_one_answer_where_asked_and_for_no_trace_elsewhere(
    text: str, thinking: bool, expected: int
) -> None:
    assert score(THINK, completion(text, thinking), ThinkParams()).value == expected
    # The floor is for a trace that never ends, and for nothing else.
    assert score(THINK, completion(text, thinking), ThinkParams(floor=-3.0)).value == expected


@pytest.mark.parametrize(
    "text", ["", "Cardiomegaly.", "<think> Large heart.", "Large heart. </thinking> Cardiomegaly."]
)
def test_a_trace_that_never_ends_gets_the_floor_in_a_thinking_run_only(text: str) -> None:
    assert score(THINK, completion(text, True), ThinkParams()).value == 0.0
    assert score(THINK, completion(text, True), ThinkParams(floor=-3.0)).value == -3.0
    assert score(THINK, completion(text, False), ThinkParams(floor=-3.0)).value in (0.0, 1.0)


def test_every_floor_that_may_be_set_is_in_the_range() -> None:
    low, high = THINK.range
    assert (low, high) == (-10.0, 1.0)
    assert ThinkParams(floor=-10.0).floor == low
    for floor in (-10.1, 0.1):
        with pytest.raises(ValidationError, match="floor"):
            ThinkParams(floor=floor)


# repetition


@pytest.mark.parametrize(
    ("text", "n", "expected"),
    [
        ("", 4, 0.0),
        ("no effusion no", 4, 0.0),  # shorter than n
        ("the lungs are clear", 4, 0.0),
        ("a b c d e f g h", 4, 0.0),
        ("a b c d a b c d", 4, 1 - 4 / 5),
        ("No NO no no", 1, 3 / 4),
        ("No. NO, no! no", 1, 3 / 7),  # 4 distinct ones: no . , !
        ("." * 500, 4, 1 - 1 / 497),
        ("\U0001f600" * 500, 4, 1 - 1 / 497),
        ("? ! " * 250, 4, 1 - 2 / 497),
        ("the the the the the", 2, 3 / 4),
        ("clear lungs " * 500, 4, 1 - 2 / 997),
    ],
)
def test_repetition_is_the_share_of_n_grams_that_came_before(text: str, n: int, expected: float) -> None:
    assert score(REPETITION, completion(text), RepetitionParams(n=n)).value == pytest.approx(expected)


@given(st.lists(st.sampled_from("abc"), max_size=40), st.integers(1, 6))
def test_repetition_equals_looking_back_from_each_n_gram(words: list[str], n: int) -> None:
    grams = [" ".join(words[start : start + n]) for start in range(len(words) - n + 1)]
    repeated = sum(gram in grams[:index] for index, gram in enumerate(grams))
    assert repetition(words, n) == pytest.approx(repeated / len(grams) if grams else 0.0)


def test_an_answer_may_say_again_what_its_trace_found() -> None:
    text = "There is a small left effusion. </think> There is a small left effusion."
    assert score(REPETITION, completion(text, True), RepetitionParams()).value == 0.0


def test_a_loop_counts_in_the_trace_as_in_the_answer() -> None:
    loop = "wait, let me look again. " * 20
    for text in (loop, f"{loop} </think> Clear.", f"Clear? </think> {loop}"):
        result = score(REPETITION, completion(text, True), RepetitionParams())
        assert result.value > 0.9
        assert result.value == max(result.details.values())


# overlong


@pytest.mark.parametrize(
    ("tokens", "expected"), [(0, 0.0), (79, 0.0), (80, 0.0), (85, -0.25), (90, -0.5), (100, -1.0), (110, -1.0)]
)
def test_overlong_falls_over_the_buffer(tokens: int, expected: float) -> None:
    params = OverlongParams(max_tokens=100, buffer=20)
    assert score(OVERLONG, completion("", token_count=tokens), params).value == expected


@given(st.integers(0, 3_000), st.integers(1, 1_000), st.integers(0, 1_000))
def test_overlong_equals_the_three_cases_of_the_paper(tokens: int, buffer: int, room: int) -> None:
    limit = buffer + room
    if tokens <= limit - buffer:
        expected = 0.0
    elif tokens <= limit:
        expected = ((limit - buffer) - tokens) / buffer
    else:
        expected = -1.0
    assert overlong(tokens, limit, buffer) == pytest.approx(expected)


def test_a_buffer_larger_than_the_limit_is_the_whole_limit() -> None:
    assert OVERLONG.score is not None
    items = [completion("text", token_count=count) for count in (0, 5, 10)]
    results = OVERLONG.score(items, OverlongParams(max_tokens=10, buffer=50))
    assert [result.value for result in results if isinstance(result, Score)] == [0.0, -0.5, -1.0]


def test_overlong_needs_the_token_count() -> None:
    assert completion("text").lacks(OVERLONG.needs[0])
    assert not completion("text", token_count=3).lacks(OVERLONG.needs[0])


# negation_consistency


@pytest.mark.parametrize(
    ("answer", "report", "expected", "shared", "contradicted", "doubted"),
    [
        ("No effusion.", "No pleural effusion.", 1.0, 1, 0, 0),
        ("Small effusion.", "Large pleural effusion.", 1.0, 1, 0, 0),
        ("No effusion.", "Small effusion.", 0.0, 1, 1, 0),
        ("Small effusion.", "No effusion.", 0.0, 1, 1, 0),
        ("No effusion. Pneumothorax.", "Small effusion. Pneumothorax.", 0.5, 2, 1, 0),
        # doubt contradicts nothing and agrees with nothing
        ("Possible effusion.", "No effusion.", 0.0, 0, 0, 1),
        ("Small effusion.", "Possible effusion.", 0.0, 0, 0, 1),
        ("Possible effusion. Pneumothorax.", "No effusion. Pneumothorax.", 1.0, 1, 0, 1),
        # nothing shared is not consistent: avoiding every statement must not pay
        ("Cardiomegaly.", "Small effusion.", 0.0, 0, 0, 0),
        ("", "Small effusion.", 0.0, 0, 0, 0),
        ("Small effusion.", "", 0.0, 0, 0, 0),
        ("Normal chest.", "Normal chest.", 0.0, 0, 0, 0),  # No Finding follows from the others and counts for nothing
    ],
)
def test_negation_consistency_is_the_share_of_shared_observations_that_agree(
    answer: str, report: str, expected: float, shared: int, contradicted: int, doubted: int
) -> None:
    result = score(NEGATION_CONSISTENCY, completion(answer, report=report), NoParams())
    assert result.value == pytest.approx(expected)
    assert result.details == {"shared": shared, "contradicted": contradicted, "doubted": doubted}


_statement = st.tuples(
    st.sampled_from(["No ", "Small ", "Possible "]), st.sampled_from(["effusion", "pneumothorax", "consolidation"])
).map(lambda parts: f"{parts[0]}{parts[1]}. ")
_reports = st.lists(_statement, max_size=5).map("".join)


@given(_reports, _reports)
def test_negation_consistency_does_not_care_which_side_is_the_reference(first: str, second: str) -> None:
    there = score(NEGATION_CONSISTENCY, completion(first.strip(), report=second.strip()), NoParams())
    back = score(NEGATION_CONSISTENCY, completion(second.strip(), report=first.strip()), NoParams())
    assert there == back


# all


@given(st.text(max_size=300), st.text(max_size=300), st.booleans(), st.integers(0, 10_000))
def test_any_text_gets_a_value_in_the_range(text: str, report: str, thinking: bool, token_count: int) -> None:
    scored = completion(text, thinking, report, token_count)
    for scorer in (THINK, REPETITION, OVERLONG, NEGATION_CONSISTENCY):
        low, high = scorer.range
        assert low is not None
        assert high is not None
        assert low <= score(scorer, scored, scorer.params()).value <= high
