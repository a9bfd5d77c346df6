"""Real reports: the OpenI reports inside the torchxrayvision package, found without importing it."""

import re
from statistics import fmean
from typing import Any

import pytest

from benchmarks.openi_reports import OpenIReport, archive, item, read_reports, report_scorers, shuffled, values
from rewards.chexpert_labels import Label, label_report, positives
from rewards.scorer import Scorer
from rewards.text import sentences

REPORTS = 3_955

# Mean over a shuffled order that a scorer must stay below; it is 1 against itself where the report says anything.
COMPARING = {"bleu": 0.10, "gleu": 0.15, "rouge_l": 0.30, "chexpert_f1": 0.50, "negation_consistency": 0.85}
# Highest mean over real reports of the guards that do not read the reference, and where they are better when lower.
LOWER = {"prior_references": 0.15, "repetition": 0.02}
HIGHER = {"format", "think", "overlong"}


@pytest.fixture(scope="module")
def reports() -> list[OpenIReport]:
    path = archive()
    if path is None:
        pytest.skip("torchxrayvision, which holds the reports, is not installed")
    found = list(read_reports(path))
    assert len(found) == REPORTS
    return found


@pytest.fixture(scope="module")
def by_name() -> dict[str, Scorer[Any]]:
    return {scorer.name: scorer for scorer in report_scorers()}


def test_every_report_is_labelled(reports: list[OpenIReport]) -> None:
    unlabelled = [report for report in reports if report.text and not label_report(report.text)]
    assert len(unlabelled) <= 1  # "Bilateral enlargement of the XXXX": its words were taken out


def test_a_denied_effusion_or_pneumothorax_is_not_positive(reports: list[OpenIReport]) -> None:
    denied = re.compile(
        r"^(?:there is )?no (?:large |focal )?(pleural effusion|pneumothorax)(?:s|es)?(?: or [a-z ]+)?\.$"
    )
    checked = 0
    for report in reports:
        for sentence in sentences(report.text):
            match = denied.match(sentence.lower())
            if match:
                name = "Pneumothorax" if match.group(1) == "pneumothorax" else "Pleural Effusion"
                assert label_report(sentence)[name] is Label.NEGATIVE
                checked += 1
    assert checked > 100


@pytest.mark.parametrize(
    ("heading", "observation", "agreement"),
    [
        ("Pleural Effusion", "Pleural Effusion", 0.85),
        ("Cardiomegaly", "Cardiomegaly", 0.85),
        ("Pulmonary Atelectasis", "Atelectasis", 0.80),
        ("Nodule", "Lung Lesion", 0.80),
        ("Opacity", "Lung Opacity", 0.80),
        ("normal", "No Finding", 0.90),
    ],
)
def test_what_the_indexers_found_is_positive_and_what_they_called_normal_is_normal(
    reports: list[OpenIReport], heading: str, observation: str, agreement: float
) -> None:
    found = [
        observation in positives(label_report(report.text))
        for report in reports
        if report.text and any(h.split("/")[0] == heading for h in report.headings)
    ]
    assert len(found) > 10
    assert sum(found) / len(found) >= agreement


def test_every_embedded_report_scorer_is_tried_here(by_name: dict[str, Scorer[Any]]) -> None:
    assert by_name.keys() >= COMPARING.keys() | LOWER.keys() | HIGHER
    assert not by_name.keys() - COMPARING.keys() - LOWER.keys() - HIGHER


@pytest.mark.parametrize("name", COMPARING)
def test_every_report_against_itself_scores_one_where_it_says_anything(
    reports: list[OpenIReport], by_name: dict[str, Scorer[Any]], name: str
) -> None:
    texts = [report.text for report in reports]
    says = [_says_anything(name, text) for text in texts]
    assert sum(says) > 3_900
    assert values(by_name[name], [item(text, text) for text in texts]) == pytest.approx([float(one) for one in says])


def _says_anything(name: str, text: str) -> bool:
    labels = label_report(text)
    if name == "chexpert_f1":
        return bool(labels)
    if name != "negation_consistency":
        return bool(text)
    return any(label is not Label.UNCERTAIN for observation, label in labels.items() if observation != "No Finding")


@pytest.mark.parametrize("name", COMPARING)
def test_one_report_against_another_scores_clearly_less(
    reports: list[OpenIReport], by_name: dict[str, Scorer[Any]], name: str
) -> None:
    texts = [report.text for report in reports]
    items = [item(answer, reference) for answer, reference in zip(texts, shuffled(texts), strict=True)]
    assert 0.0 < fmean(values(by_name[name], items)) < COMPARING[name]


def test_the_guards_have_little_to_say_against_real_reports(
    reports: list[OpenIReport], by_name: dict[str, Scorer[Any]]
) -> None:
    items = [item(report.text, "") for report in reports]
    for name, highest in LOWER.items():
        assert 0.0 < fmean(values(by_name[name], items)) < highest
    written = [1.0 if report.text else 0.0 for report in reports]
    assert values(by_name["think"], items) == written
    assert values(by_name["format"], items) == written
    assert values(by_name["overlong"], items) == [0.0] * REPORTS
