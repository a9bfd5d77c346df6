"""bleu and gleu, against the libraries that define them."""

from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nltk.translate.gleu_score import sentence_gleu
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a
from sacrebleu.tokenizers.tokenizer_re import TokenizerRegexp

from rewards.ngrams import matches, ngrams
from rewards.references import REFERENCES
from rewards.scorer import NoParams, ScoreItem
from rewards.scorers.registry import scorers
from schemas.group import Score
from schemas.prompt import Reference


def score(name: str, answer: str, report: str) -> Score:
    (result,) = scorers()[name].score([ScoreItem("report", answer, answer, Reference(report=report))], NoParams())
    assert isinstance(result, Score)
    return result


@cache
def sacrebleu() -> BLEU:
    return BLEU(effective_order=True)


@cache
def tokenizer() -> Tokenizer13a:
    return Tokenizer13a()


report_words = st.lists(
    st.sampled_from(["no", "acute", "effusion", "opacity,", "left-sided", "1.5", "cm.", "The", "the", "&lt;", "(L)"]),
    max_size=25,
).map(" ".join)
texts = st.one_of(report_words, st.text(max_size=60))


@given(texts, texts)
def test_bleu_equals_sacrebleus_sentence_score(answer: str, report: str) -> None:
    expected = sacrebleu().sentence_score(answer, [report]).score / 100.0
    assert score("bleu", answer, report).value == pytest.approx(expected, abs=1e-9)


@given(texts, texts)
def test_gleu_equals_nltks_sentence_gleu_of_the_same_tokens(answer: str, report: str) -> None:
    prediction, reference = (tokenizer()(text.rstrip()).split() for text in (answer, report))
    expected = sentence_gleu([reference], prediction)
    result = score("gleu", answer, report)
    assert result.value == pytest.approx(expected, abs=1e-12)
    assert result.value == min(result.details.values())


def test_gleu_of_nltks_documented_example_is_counted_by_hand() -> None:
    # It, is, to, the, forever, that and "It is" are shared; the longer text has 16 + 15 + 14 + 13 n-grams.
    answer = "It is to insure the troops forever hearing the activity guidebook that party direct"
    report = "It is a guide to action that ensures that the military will forever heed Party commands"
    assert score("gleu", answer, report).value == pytest.approx(7 / 58)


def test_bleu_of_half_a_sentence_is_its_brevity_penalty() -> None:
    # Every n-gram is right, and exp(1 - 8/4) is left.
    result = score("bleu", "one two three four", "one two three four five six seven eight")
    assert result.value == pytest.approx(0.36787944117)
    assert result.details["brevity_penalty"] == pytest.approx(0.36787944117)


def test_an_n_gram_counts_as_often_as_both_sides_have_it() -> None:
    assert matches(ngrams("the the the the"), ngrams("the cat the")) == [2, 0, 0, 0]
    assert ngrams("a b c").totals() == [3, 2, 1, 0]


@pytest.mark.parametrize("name", ["bleu", "gleu"])
def test_a_text_against_itself_is_one_and_silence_is_zero(name: str) -> None:
    for text in ("effusion", "The lungs are clear.", "No effusion. " * 40):
        value = score(name, text, text).value
        assert value <= 1.0
        assert value == pytest.approx(1.0)
        assert score(name, "", text).value == score(name, text, "").value == 0.0
    assert score(name, "", "").value == 0.0


def test_a_reference_is_counted_once_for_both_scorers() -> None:
    report = "A reference that no other test of this process has."
    before = REFERENCES.misses
    for name in ("bleu", "gleu", "bleu"):
        score(name, "an answer", report)
    assert REFERENCES.misses == before + 1


def test_the_tokenizer_keeps_no_answer() -> None:
    score("bleu", "an answer that must be forgotten", "a report")
    assert Tokenizer13a.__call__.cache_info().currsize == 0
    assert TokenizerRegexp.__call__.cache_info().currsize == 0
