"""BERTScore on a tiny random checkpoint in the published layout: equal to the bert-score package."""

from collections.abc import Iterator

import numpy as np
import pytest
from clinical_checkpoints import one_thread, save_distilroberta
from hypothesis import given, settings
from hypothesis import strategies as st

from rewards.clinical import weights
from rewards.clinical.bertscore import LOWEST_F1, MAX_TOKENS, BertScore, Embedded, agreement, load_bertscore
from rewards.references import DEFAULT_MIB, REFERENCES
from rewards.resources import ModelSettings, Resources
from rewards.scorer import NoParams, ScoreItem
from rewards.scorers import bertscore
from schemas.group import Score, ScoreError
from schemas.prompt import Reference

# candidate, reference, and (P, R, F) of bert-score 0.3.13 on transformers 4.57.1 with this very checkpoint, num_layers
# 5, rescaled with distilroberta-base's baseline, idf off. The fifth candidate is longer than the model can read.
KNOWN = [
    ("No effusion.", "Small left effusion.", (0.975785732, 0.975519478, 0.975672543)),
    ("no effusion.", "No  effusion.\n", (0.992074728, 0.992085814, 0.992086589)),
    (" Effusion", " effusions are seen ", (0.949245095, 0.948749125, 0.949039280)),
    ("effusion " * 120 + "left", "small " * 130 + "right", (0.994949937, 0.994672120, 0.994815588)),
    ("small " * 110 + "left", "effusion right", (0.996778488, 0.996731222, 0.996757567)),
    ("a", "Größe 5 µm", (0.971811533, 0.971522093, 0.971690297)),
    ("x", "xyz y z" * 5, (0.710120261, 0.706371009, 0.708486855)),
]
TEXTS = [text for pair in KNOWN for text in pair[:2]]


@pytest.fixture(scope="module", autouse=True)
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BertScore]:
    folder = tmp_path_factory.mktemp("bertscore")
    save_distilroberta(folder)
    with one_thread():
        yield load_bertscore(Resources(models={"bertscore": ModelSettings(folder=folder, device="cpu", batch_size=3)}))
    weights._LOADED.clear()
    REFERENCES.limit(DEFAULT_MIB * 2**20)


def item(answer: str, report: str) -> ScoreItem:
    return ScoreItem("report", answer, answer, Reference(report=report))


def score(answer: str, report: str) -> Score:
    (result,) = bertscore.score([item(answer, report)], NoParams())
    assert isinstance(result, Score)
    return result


@pytest.mark.parametrize(("candidate", "reference", "expected"), KNOWN)
def test_bertscore_equals_the_bert_score_package(
    candidate: str, reference: str, expected: tuple[float, float, float]
) -> None:
    result = score(candidate, reference)
    found = (result.details["precision"], result.details["recall"], result.value)
    assert found == pytest.approx(expected, abs=5e-6)


def _textbook(prediction: Embedded, reference: Embedded) -> float:
    """Zhang et al. 2020, equation by equation, one token at a time."""

    def best(token: list[float], others: list[list[float]]) -> float:
        return max(sum(a * b for a, b in zip(token, other, strict=True)) for other in others)

    ours, theirs = prediction.vectors.tolist(), reference.vectors.tolist()
    precision = sum(best(token, theirs) for token in ours[1:-1]) / (len(ours) - 2)
    recall = sum(best(token, ours) for token in theirs[1:-1]) / (len(theirs) - 2)
    f1 = 2 * precision * recall / (precision + recall)
    return (f1 - 0.8473319) / (1 - 0.8473319)


@given(st.integers(3, 8), st.integers(3, 8), st.integers(0, 2**32 - 1))
def test_matching_equals_the_papers_equations(first: int, second: int, seed: int) -> None:
    random = np.random.default_rng(seed)

    def embedded(tokens: int) -> Embedded:
        # Positive numbers: two texts' precision and recall are never of opposite signs.
        vectors = random.uniform(0.0, 1.0, (tokens, 4)).astype(np.float32)
        return Embedded(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), blank=False, truncated=0)

    prediction, reference = embedded(first), embedded(second)
    assert agreement(prediction, reference).f1 == pytest.approx(_textbook(prediction, reference), abs=1e-4)


def test_start_and_end_token_are_matched_with_but_not_counted() -> None:
    start, end, word, other = np.eye(4, dtype=np.float32)
    prediction = Embedded(np.stack([start, word, end]), blank=False, truncated=0)
    reference = Embedded(np.stack([word, other, end]), blank=False, truncated=0)
    found = agreement(prediction, reference)
    assert found.precision == pytest.approx(1.0)  # its word finds the other's start token
    assert found.recall == pytest.approx(-0.84759504 / (1 - 0.84759504))  # the other's word finds nothing


def test_a_text_is_embedded_alike_alone_and_in_a_batch(model: BertScore) -> None:
    for text, together in zip(TEXTS, model.embed(TEXTS), strict=True):
        (alone,) = model.embed([text])
        np.testing.assert_allclose(together.vectors, alone.vectors, atol=1e-6)


def test_an_item_gets_the_same_score_alone_and_in_a_batch() -> None:
    items = [item(text, "Small left effusion.") for text in TEXTS]
    for alone, together in zip(items, bertscore.score(items, NoParams()), strict=True):
        (only,) = bertscore.score([alone], NoParams())
        assert isinstance(only, Score)
        assert isinstance(together, Score)
        assert together.value == pytest.approx(only.value, abs=1e-5)


@given(st.lists(st.floats(-1.0, 1.0), min_size=2, max_size=12), st.integers(1, 11))
def test_texts_that_point_apart_stay_within_the_range(angles: list[float], cut: int) -> None:
    """Two-dimensional tokens at any angle: precision and recall can have opposite signs."""
    halves = [angles[: cut % len(angles)] or [0.0], angles[cut % len(angles) :]]
    prediction, reference = (
        Embedded(np.array([[np.cos(a * np.pi), np.sin(a * np.pi)] for a in [h[0], *h, h[-1]]], np.float32), False, 0)
        for h in halves
    )
    assert LOWEST_F1 <= agreement(prediction, reference).f1 <= 1.0


def test_layers_above_the_fifth_are_not_loaded(model: BertScore) -> None:
    assert len(model._network.encoder.layer) == 5


def test_case_matters_and_white_space_around_a_text_does_not(model: BertScore) -> None:
    plain, padded, upper = model.embed(["effusion.", "\n effusion. ", "Effusion."])
    np.testing.assert_allclose(plain.vectors, padded.vectors, atol=1e-6)
    assert plain.vectors.shape != upper.vectors.shape


def test_tokens_beyond_the_models_positions_are_counted() -> None:
    details = score("effusion " * (MAX_TOKENS + 8), "effusion").details
    assert details["truncated"] == 10
    assert details["reference_truncated"] == 0


def test_silence_is_worth_nothing_and_a_blank_reference_is_an_error() -> None:
    assert score("", "No effusion.").value == 0.0
    assert score(" \n", "No effusion.").value == 0.0
    (answerless,) = bertscore.score([item("No effusion.", " ")], NoParams())
    assert isinstance(answerless, ScoreError)
    assert answerless.code == "missing_input"


@settings(max_examples=10, deadline=None)
@given(st.lists(st.text(max_size=40), min_size=1, max_size=3), st.text(min_size=1, max_size=40))
def test_any_text_gets_a_value_within_the_range_of_the_scorer(answers: list[str], report: str) -> None:
    results = bertscore.score([item(answer, report) for answer in answers], NoParams())
    assert len(results) == len(answers)
    assert all(isinstance(result, ScoreError) or LOWEST_F1 <= result.value <= 1.0 for result in results)


def test_equal_texts_score_one() -> None:
    assert score("Größe 5 µm", "Größe 5 µm").value == pytest.approx(1.0, abs=1e-5)


def test_a_groups_reference_is_embedded_once() -> None:
    REFERENCES.limit(DEFAULT_MIB * 2**20)
    before = REFERENCES.misses
    bertscore.score([item(text, "An effusion of its own.") for text in TEXTS], NoParams())
    assert REFERENCES.misses - before == 1
