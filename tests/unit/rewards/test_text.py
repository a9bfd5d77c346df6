"""Sentences: where they end, and that finding out takes linear time."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards.chexpert_labels import label_report
from rewards.scorer import NoParams, ScoreItem
from rewards.scorers import prior_references
from rewards.text import sentences
from schemas.group import Score
from schemas.prompt import Reference

# The rule as one would write it down, white space and all: quadratic on a run that ends no sentence.
_PLAIN = re.compile(r"(?<=[.!?;])[\"')\]]*\s+|\s*\n\s*\n\s*|\s*\n(?=[ \t]*[^\sa-z])")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("No effusion. Heart normal.", ["No effusion.", "Heart normal."]),
        ("There is no\n pleural effusion", ["There is no pleural effusion"]),
        ("No effusion \n  Small pneumothorax", ["No effusion", "Small pneumothorax"]),
        ("no effusion \n \u2028 \n small pneumothorax", ["no effusion", "small pneumothorax"]),
        ('"A nodule of 1.5 cm." (Or two.) 1. Edema', ['"A nodule of 1.5 cm.', "(Or two.", "Edema"]),
        (" \n\n ... 1. \n", []),
    ],
)
def test_a_sentence_ends_at_a_mark_a_blank_line_or_a_line_that_does_not_go_on(text: str, expected: list[str]) -> None:
    assert sentences(text) == expected


@given(st.text("aB1. \t\n\r\u2028\x0b\x85\"');-", max_size=40))
def test_sentences_equal_the_plain_rules(text: str) -> None:
    parts = (" ".join(part.split()) for part in _PLAIN.split(text))
    assert sentences(text) == [part for part in parts if any(map(str.isalpha, part))]


def _texts(piece: str) -> list[str]:
    """50,000 characters: a run that ends a sentence or does not, by what stands after it, and one broken by a line."""
    run = piece * (50_000 // len(piece))
    half = run[: len(run) // 2]
    return [f"a{run}b", f"a.{run}B", f"a{half}\n{half}b", f"effusion{run}no edema", run]


# Linear reading takes milliseconds and quadratic reading ten seconds or more a text; the timeout is the assertion.
@pytest.mark.timeout(10)
@pytest.mark.parametrize("piece", [" ", "\t", " \n", "\n", "\n\t", "\u2028"])
def test_a_run_of_white_space_is_read_in_linear_time(piece: str) -> None:
    for text in _texts(piece):
        assert len(sentences(text)) <= 2
        assert set(label_report(text)) <= {"Pleural Effusion", "Edema", "No Finding"}
        (result,) = prior_references.score([ScoreItem("report", text, text, Reference())], NoParams())
        assert isinstance(result, Score)
        assert result.value == 0.0
