from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prompts.annotator import LOOSE_RANGE, careless_report, loosen
from prompts.findings import Finding, sample_findings
from prompts.reports import finding_noun, format_box, grounding_answer, grounding_question, report_sentences
from schemas.prompt import Box

seeds = st.integers(0, 2**32 - 1)
TERMS = {
    "cardiomegaly": "cardiomegaly",
    "consolidation": "consolidation",
    "nodule": "nodule",
    "pleural effusion": "effusion",
    "pneumothorax": "pneumothorax",
    "pacemaker": "pacemaker",
}


@st.composite
def boxes(draw: st.DrawFn) -> Box:
    x1, x2 = sorted(draw(st.lists(st.integers(0, 192), min_size=2, max_size=2, unique=True)))
    y1, y2 = sorted(draw(st.lists(st.integers(0, 192), min_size=2, max_size=2, unique=True)))
    return Box(x1=x1 / 192, y1=y1 / 192, x2=x2 / 192, y2=y2 / 192, label="nodule")


@given(seeds)
@settings(max_examples=300, deadline=None)
def test_reports_affirm_exactly_the_findings(seed: int) -> None:
    rng = np.random.default_rng(seed)
    findings = sample_findings(rng)
    sentences = report_sentences(findings, rng)
    present = {finding.kind for finding in findings}
    affirmed = {
        kind
        for kind, term in TERMS.items()
        for sentence in sentences
        if term in sentence.lower() and not re.search(r"\bno\b", sentence.lower())
    }
    assert affirmed == present
    assert 3 <= len(sentences) <= 5
    assert all(sentence.endswith(".") and sentence.count(".") == 1 for sentence in sentences)


@given(seeds)
@settings(max_examples=200, deadline=None)
def test_reports_name_side_zone_and_size(seed: int) -> None:
    rng = np.random.default_rng(seed)
    findings = sample_findings(rng)
    report = " ".join(report_sentences(findings, rng)).lower()
    twins = sum(finding.kind == "pleural effusion" for finding in findings) == 2
    assert twins == ("bilateral" in report)
    for finding in findings:
        if finding.kind in ("consolidation", "nodule"):
            assert f"in the {finding.slot[0]} {finding.slot[1]} lung" in report
        elif finding.kind == "pneumothorax" or (finding.kind == "pleural effusion" and not twins):
            assert f"{finding.size} {finding.side} {finding.kind}" in report


def test_each_sentence_has_several_wordings_and_the_first_is_the_commonest() -> None:
    heart = [report_sentences((), np.random.default_rng(seed))[0] for seed in range(300)]
    counts = sorted((heart.count(sentence) for sentence in set(heart)), reverse=True)
    assert len(counts) == 3
    assert heart.count("The heart size is normal.") == counts[0] > 150


def test_box_answers_in_radvlm_format_have_known_values() -> None:
    heart = Box(x1=0.351, y1=0.449, x2=0.7, y2=0.8)
    lung = Box(x1=0.0, y1=0.1, x2=1.0, y2=0.995)
    assert format_box(lung) == "[0.00, 0.10, 1.00, 0.99]"
    assert grounding_answer("heart", [heart]) == "The heart is located at [0.35, 0.45, 0.70, 0.80]."
    assert (
        grounding_answer("lungs", [heart, lung])
        == "The lungs are located at [0.35, 0.45, 0.70, 0.80] and [0.00, 0.10, 1.00, 0.99]."
    )
    assert grounding_answer("lungs", [heart, heart, lung]).count(", [") == 1


@pytest.mark.parametrize(
    ("kind", "sides", "noun"),
    [
        ("pleural effusion", ["left"], "left pleural effusion"),
        ("pleural effusion", ["right", "left"], "pleural effusions"),
        ("pneumothorax", ["right"], "right pneumothorax"),
        ("nodule", ["left"], "nodule"),
        ("cardiomegaly", [None], "cardiomegaly"),
    ],
)
def test_findings_are_named_as_a_radiologist_would(kind: str, sides: list[str | None], noun: str) -> None:
    assert finding_noun(kind, sides) == noun  # type: ignore[arg-type]


def test_questions_about_several_boxes_are_in_the_plural() -> None:
    asked = {grounding_question("lungs", 2, np.random.default_rng(seed)) for seed in range(60)}
    assert asked == {"Where are the lungs?", "Locate the lungs.", "Show the lungs with boxes."}


@given(boxes(), seeds)
def test_loose_boxes_contain_the_true_one_and_stay_in_range(box: Box, seed: int) -> None:
    loose = loosen(box, np.random.default_rng(seed))
    assert loose.x1 <= box.x1
    assert loose.y1 <= box.y1
    assert loose.x2 >= box.x2
    assert loose.y2 >= box.y2
    assert loose.x2 - loose.x1 <= LOOSE_RANGE[1] * (box.x2 - box.x1) + 1e-12
    assert loose.y2 - loose.y1 <= LOOSE_RANGE[1] * (box.y2 - box.y1) + 1e-12
    assert loose.label == box.label


def test_unclipped_loose_boxes_keep_their_centre_and_spread_over_the_range() -> None:
    box = Box(x1=0.4, y1=0.45, x2=0.6, y2=0.55)
    loose = [loosen(box, np.random.default_rng(seed)) for seed in range(400)]
    factors = np.asarray([[(b.x2 - b.x1) / 0.2, (b.y2 - b.y1) / 0.1] for b in loose])
    np.testing.assert_allclose([(b.x1 + b.x2) / 2 for b in loose], 0.5)
    np.testing.assert_allclose([(b.y1 + b.y2) / 2 for b in loose], 0.5)
    np.testing.assert_allclose(factors.mean(axis=0), 1.35, atol=0.04)
    assert factors.min() < 1.03
    assert factors.max() > 1.67


@given(seeds)
def test_careless_reports_hold_true_sentences_in_order_and_at_most_one_look_back(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sentences = report_sentences((Finding("nodule", ("left", "upper"), 0.3),), rng)
    careless = [f"{part}." for part in careless_report(sentences, rng).rstrip(".").split(". ")]
    prior = [sentence for sentence in careless if "prior study" in sentence]
    kept = [sentence for sentence in careless if sentence not in prior]
    assert len(prior) <= 1
    assert kept
    assert kept == [sentence for sentence in sentences if sentence in kept]


def test_a_quarter_of_the_sentences_is_forgotten_and_three_of_four_reports_look_back() -> None:
    sentences = ["One.", "Two.", "Three.", "Four."]
    reports = [careless_report(sentences, np.random.default_rng(seed)) for seed in range(1500)]
    kept = np.mean([sum(sentence in report for sentence in sentences) for report in reports])
    assert abs(kept / 4 - 0.75) < 0.02
    assert abs(np.mean(["prior" in report for report in reports]) - 0.75) < 0.05
