"""Real reports: the OpenI reports inside the torchxrayvision package, found without importing it."""

import importlib.util
import re
import tarfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from xml.etree import ElementTree

import pytest

from rewards.chexpert_labels import Label, label_report, positives
from rewards.scorer import NoParams, ScoreItem
from rewards.scorers.registry import scorers
from rewards.text import sentences
from schemas.group import Score
from schemas.prompt import Reference

REPORTS = 600


def _reports(archive: Path) -> Iterator[tuple[str, tuple[str, ...]]]:
    """(findings and impression, the indexers' main headings) of each report."""
    with tarfile.open(archive) as files:
        for member in files:
            stream = files.extractfile(member) if member.name.endswith(".xml") else None
            if stream is None:
                continue
            root = ElementTree.parse(stream).getroot()
            parts = {part.get("Label"): part.text or "" for part in root.iter("AbstractText")}
            text = f"{parts.get('FINDINGS', '')} {parts.get('IMPRESSION', '')}".strip()
            if text:
                yield text, tuple(heading.text or "" for heading in root.iter("major"))


@pytest.fixture(scope="module")
def reports() -> list[tuple[str, tuple[str, ...]]]:
    spec = importlib.util.find_spec("torchxrayvision")
    if spec is None or spec.origin is None:
        pytest.skip("torchxrayvision, which holds the reports, is not installed")
    found = list(islice(_reports(Path(spec.origin).parent / "data" / "NLMCXR_reports.tgz"), REPORTS))
    assert len(found) == REPORTS
    return found


def test_every_report_is_labelled(reports: list[tuple[str, tuple[str, ...]]]) -> None:
    assert all(label_report(text) for text, _ in reports if len(text.split()) > 12)


def test_a_denied_effusion_or_pneumothorax_is_not_positive(reports: list[tuple[str, tuple[str, ...]]]) -> None:
    denied = re.compile(
        r"^(?:there is )?no (?:large |focal )?(pleural effusion|pneumothorax)(?:s|es)?(?: or [a-z ]+)?\.$"
    )
    checked = 0
    for text, _ in reports:
        for sentence in sentences(text):
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
    reports: list[tuple[str, tuple[str, ...]]], heading: str, observation: str, agreement: float
) -> None:
    found = [
        observation in positives(label_report(text))
        for text, headings in reports
        if any(h.split("/")[0] == heading for h in headings)
    ]
    assert len(found) > 10
    assert sum(found) / len(found) >= agreement


def test_a_report_against_itself_scores_one(reports: list[tuple[str, tuple[str, ...]]]) -> None:
    items = [
        ScoreItem(task="report", completion=text, answer=text, reference=Reference(report=text)) for text, _ in reports
    ]
    for name in ("rouge_l", "chexpert_f1"):
        results = scorers()[name].score(items, NoParams())
        assert [result.value for result in results if isinstance(result, Score)] == pytest.approx([1.0] * REPORTS)


def test_one_report_against_another_scores_less(reports: list[tuple[str, tuple[str, ...]]]) -> None:
    texts = [text for text, _ in reports]
    items = [
        ScoreItem(task="report", completion=text, answer=text, reference=Reference(report=other))
        for text, other in zip(texts, [*texts[1:], texts[0]], strict=True)
    ]
    for name in ("rouge_l", "chexpert_f1"):
        results = scorers()[name].score(items, NoParams())
        values = [result.value for result in results if isinstance(result, Score)]
        assert len(values) == REPORTS
        assert sum(values) / REPORTS < 0.7
