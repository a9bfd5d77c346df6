"""What the phantoms say and what the scorers understand are the same thing, checked across the two rooms."""

from __future__ import annotations

import numpy as np
import pytest

from prompts.annotator import annotator_corpus
from prompts.findings import observations, sample_findings
from prompts.reports import grounding_answer, report_sentences
from rewards.boxes import parse_boxes
from rewards.chexpert_labels import label_report, positives
from rewards.scorers.prior_references import refers_to_prior
from schemas.prompt import Box

pytestmark = pytest.mark.integration


def test_the_rule_labeller_finds_exactly_the_phantoms_findings() -> None:
    for seed in range(1000):
        rng = np.random.default_rng(seed)
        findings = sample_findings(rng)
        report = " ".join(report_sentences(findings, rng))
        assert positives(label_report(report)) - {"No Finding"} == set(observations(findings)) - {"No Finding"}, report


def test_the_prior_reference_scorer_catches_the_annotator_and_spares_the_truth() -> None:
    assert all(refers_to_prior(sentence) for sentence in annotator_corpus())
    for seed in range(200):
        rng = np.random.default_rng(seed)
        assert not any(map(refers_to_prior, report_sentences(sample_findings(rng), rng)))


def test_the_box_parser_reads_the_answers() -> None:
    boxes = [Box(x1=0.1, y1=0.2, x2=0.35, y2=0.4), Box(x1=0.5, y1=0.0, x2=1.0, y2=0.99)]
    for count in (1, 2):
        parsed = parse_boxes(grounding_answer("lungs", boxes[:count]), "radvlm")
        assert [box.corners for box in parsed.boxes] == [box.corners for box in boxes[:count]]
