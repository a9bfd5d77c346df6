"""rouge_l, chexpert_f1, format, prior_references."""

from collections.abc import Sequence
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nltk.stem.porter import PorterStemmer
from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenize import tokenize

from rewards.scorer import NoParams, ScoreItem
from rewards.scorers.prior_references import refers_to_prior
from rewards.scorers.registry import scorers
from rewards.scorers.rouge_l import common_subsequence, words
from rewards.text import answer_of
from schemas.group import Score
from schemas.prompt import Box, BoxFormat, Reference, Task


def item(completion: str, report: str = "", task: Task = "report", thinking: bool = False) -> ScoreItem:
    answer = answer_of(completion, thinking)
    return ScoreItem(task, completion, answer, Reference(report=report), thinking=thinking)


def score(name: str, scored: ScoreItem) -> Score:
    (result,) = scorers()[name].score([scored], NoParams())
    assert isinstance(result, Score)
    return result


# rouge_l


def test_rouge_l_of_two_words_of_three_is_four_fifths() -> None:
    assert score("rouge_l", item("testing two", "testing one two")).value == pytest.approx(0.8)


def test_rouge_l_stems_and_ignores_case() -> None:
    assert score("rouge_l", item("OPACITIES persisted", "opacity persists")).value == pytest.approx(1.0)


def test_rouge_l_of_a_blank_answer_is_zero() -> None:
    assert score("rouge_l", item("", "the lungs are clear")).value == 0.0


@cache
def _stemmer() -> PorterStemmer:
    return PorterStemmer()


@cache
def _library() -> RougeScorer:
    return RougeScorer(["rougeL"], use_stemmer=True)


_words = st.lists(
    st.sampled_from(
        ["no", "acute", "effusion", "effusions", "opacity", "left", "the", "a", "is", "clear", "Testing", "1.5"]
    ),
    max_size=30,
)


@given(_words, _words)
def test_rouge_l_equals_the_rouge_score_library(first: list[str], second: list[str]) -> None:
    prediction, reference = " ".join(first), " ".join(second)
    expected = _library().score(reference, prediction)["rougeL"]
    result = score("rouge_l", item(prediction, reference))
    assert result.value == pytest.approx(expected.fmeasure)
    assert result.details == pytest.approx({"precision": expected.precision, "recall": expected.recall})


def _textbook(first: Sequence[str], second: Sequence[str]) -> int:
    row = [0] * (len(second) + 1)
    for a in first:
        row = [0, *_next_row(a, second, row)]
    return row[-1]


def _next_row(word: str, second: Sequence[str], row: list[int]) -> list[int]:
    new = [0]
    for index, other in enumerate(second):
        new.append(row[index] + 1 if word == other else max(new[-1], row[index + 1]))
    return new[1:]


@given(st.text("abcd", max_size=80), st.text("abcd", max_size=80))
def test_the_bit_parallel_subsequence_equals_the_textbook_table(first: str, second: str) -> None:
    assert common_subsequence(first, second) == _textbook(first, second)


@given(st.text(max_size=60), st.text("ys eing-ABÉ7\n", max_size=60))
def test_the_words_of_any_text_are_the_rouge_score_librarys(anything: str, wordlike: str) -> None:
    for text in (anything, wordlike, "y" * 200):
        assert words(text) == tokenize(text, _stemmer())


def test_a_long_text_is_scored_to_its_end() -> None:
    every = [f"word{index}" for index in range(5_000)]
    half = " ".join(every[2_500:])
    assert score("rouge_l", item(half, " ".join(every))).details["recall"] == pytest.approx(0.5)


# chexpert_f1


@pytest.mark.parametrize(
    ("answer", "report", "expected"),
    [
        ("Large left effusion.", "Small right pleural effusion.", 1.0),
        ("No effusion.", "Small right pleural effusion.", 0.0),
        ("Small effusion. Cardiomegaly.", "Small effusion.", 2 / 3),
        ("The lungs are clear.", "No acute cardiopulmonary disease.", 1.0),  # both: No Finding
        ("Possible effusion.", "Possible pneumonia.", 1.0),  # neither side has a positive
        ("Possible effusion.", "Pneumonia.", 0.0),
        ("", "Possible pneumonia.", 0.0),  # silence is not a report without findings
        (".", "Possible pneumonia.", 0.0),
        ("Sorry.", "Possible pneumonia.", 0.0),
        ("Sorry.", "Bilateral enlargement.", 0.0),
        ("No effusion.", "Bilateral enlargement.", 0.0),  # its No Finding is one too many
        ("word word word", "The lungs are clear.", 0.0),
    ],
)
def test_chexpert_f1_compares_the_positive_observations(answer: str, report: str, expected: float) -> None:
    assert score("chexpert_f1", item(answer, report)).value == pytest.approx(expected)


def test_chexpert_f1_tells_what_it_counted() -> None:
    details = score("chexpert_f1", item("Small effusion. Cardiomegaly.", "Small effusion. Pneumothorax.")).details
    counts = {"true_positives": 1, "false_positives": 1, "false_negatives": 1}
    masks = {"predicted_mask": 2**2 + 2**10, "reference_mask": 2**9 + 2**10}  # places in OBSERVATIONS
    assert details == counts | masks


# what is scored


def test_only_what_follows_the_last_think_end_is_scored_and_all_of_it() -> None:
    thought = "Is there a pneumothorax? </think> Perhaps. </think> Small effusion."
    assert score("chexpert_f1", item(thought, "Small effusion.", thinking=True)).value == 1.0
    late = "Lungs are clear. " * 500 + "Pneumothorax."
    assert score("chexpert_f1", item(late, "Pneumothorax.")).value == 1.0


def test_a_trace_that_never_ends_has_answered_nothing() -> None:
    assert answer_of("There is an effusion", thinking=True) == ""
    assert answer_of("There is an effusion", thinking=False) == "There is an effusion"


# format


def grounding(completion: str, boxes: tuple[Box, ...] = (), box_format: BoxFormat | None = "radvlm") -> ScoreItem:
    base = item(completion, task="grounding")
    return base._replace(reference=Reference(boxes=boxes), box_format=box_format)


ONE = (Box(x1=0.1, y1=0.1, x2=0.2, y2=0.2),)


@pytest.mark.parametrize(
    ("scored", "expected"),
    [
        (item("The lungs are clear."), 1),
        (item(""), 0),
        (item("... 12"), 0),
        (item("Nodule at [0.1, 0.1, 0.2, 0.2]."), 0),
        (item('{"bbox_2d": [1, 1, 2, 2]}'), 0),
        (item("Hidden. </think> The lungs are clear."), 0),
        (item("Trace. </think> The lungs are clear.", thinking=True), 1),
        (item("The lungs are clear.", thinking=True), 0),
        (item("a </think> b </think> Clear lungs.", thinking=True), 0),
        (item("Trace. </think> ", thinking=True), 0),
        (item("</think> The lungs are clear.", thinking=True), 0),
        (item("Trace. </think> <think> The lungs are clear.", thinking=True), 0),
        (grounding("At [0.1, 0.1, 0.2, 0.2].", ONE), 1),
        (grounding("At [100, 100, 200, 200].", ONE), 0),
        (grounding("At [0.1, 0.1, 0.2, 0.2] and [0.3, 0.3, 0.3, 0.5].", ONE), 0),
        (grounding("Somewhere.", ONE), 0),
        (grounding('[{"bbox_2d": [1, 1, 2, 2]}]', ONE), 0),
        (grounding('[{"bbox_2d": [1, 1, 2, 2]}]', ONE, "qwen3vl"), 1),
        (grounding("There is no nodule.", ()), 1),
        (grounding("", ()), 0),
        (item("Yes.", task="conversation"), 1),
        (item(" ", task="classification"), 0),
    ],
)
def test_format_is_one_where_the_answer_has_its_tasks_form(scored: ScoreItem, expected: int) -> None:
    result = score("format", scored)
    assert result.value == expected
    assert set(result.details) == {"thinking_ok", "boxes_ok", "prose_ok"}
    assert min(result.details.values()) == expected


# prior_references


@pytest.mark.parametrize(
    "sentence",
    [
        "Unchanged from the prior study.",
        "Compared with the prior study, there is no change.",
        "The effusion is unchanged.",
        "In comparison with the study of yesterday, the effusion has increased.",
        "There has been interval removal of the chest tube.",
        "Stable cardiomegaly.",
        "The opacity has improved.",
        "New left basal opacity.",
        "No new consolidation.",
        "No significant interval change.",
        "The effusion remains small.",
        "Again seen is a right nodule.",
        "The previously described nodule is smaller than before.",
        "The pneumothorax has resolved.",
        "Small effusion, decreased since the last radiograph.",
        "The endotracheal tube has been removed.",
    ],
)
def test_a_sentence_about_an_earlier_film_is_counted(sentence: str) -> None:
    assert refers_to_prior(sentence)


@pytest.mark.parametrize(
    "sentence",
    [
        "The lungs are clear.",
        "There is a small left pleural effusion.",
        "Increased interstitial markings.",
        "Prior granulomatous disease.",
        "Evidence of prior median sternotomy.",
        "Old healed rib fracture.",
        "The heart is enlarged with cardiomegaly.",
        "Decreased lung volumes.",
        "No evidence of pneumothorax.",
    ],
)
def test_a_sentence_about_this_film_is_not_counted(sentence: str) -> None:
    assert not refers_to_prior(sentence)


def test_prior_references_is_the_share_of_sentences() -> None:
    report = "The lungs are clear. Unchanged from the prior study. No effusion. Stable heart."
    result = score("prior_references", item(report))
    assert result.value == pytest.approx(0.5)
    assert result.details == {"references": 2, "sentences": 4}


def test_prior_references_of_a_blank_report_is_zero() -> None:
    assert score("prior_references", item("")).value == 0.0
