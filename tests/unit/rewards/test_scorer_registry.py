"""The registry, and what every scorer promises."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards.scorer import ScoreItem
from rewards.scorers.registry import scorers
from rewards.scoring import score_batch
from rewards.text import answer_of
from schemas.group import Score, ScoreError
from schemas.prompt import Box, Reference, Task

EMBEDDED = sorted(name for name, scorer in scorers().items() if scorer.tier == "embedded")
REFERENCE_BOX = Box(x1=0.1, y1=0.1, x2=0.2, y2=0.2)


def made_item(task: Task, text: str, report: str, thinking: bool = False) -> ScoreItem:
    """An item that carries whatever any scorer needs."""
    reference = Reference(report=report, boxes=(REFERENCE_BOX,), labels=("Edema",))
    return ScoreItem(task, text, answer_of(text, thinking), reference, "radvlm", thinking=thinking, token_count=90)


def test_every_scorer_runs_in_its_tiers_place() -> None:
    assert {"soft_f1", "rouge_l", "chexpert_f1", "format", "prior_references"} <= set(EMBEDDED)
    for scorer in scorers().values():
        assert (scorer.judge is None) == (scorer.tier != "judge")
        assert (scorer.score is None) == (scorer.tier == "judge")
        hash(scorer.params())  # batches are made by parameters


@pytest.mark.parametrize("name", EMBEDDED)
@given(texts=st.lists(st.text(max_size=200), min_size=1, max_size=3), thinking=st.booleans(), report=st.text())
def test_any_text_gets_a_value_within_the_range_of_the_scorer(
    name: str, texts: list[str], thinking: bool, report: str
) -> None:
    scorer = scorers()[name]
    items = [
        made_item(task, text, report, thinking)
        for task, text in zip(sorted(scorer.tasks) * len(texts), texts, strict=False)
    ]
    results = score_batch(scorer, items, scorer.params())
    assert len(results) == len(items)
    if not report.strip() and "reference.report" in scorer.needs:
        assert {result.code for result in results if isinstance(result, ScoreError)} == {"missing_input"}
        return
    low, high = scorer.range
    for result in results:
        assert isinstance(result, Score)
        assert low is None or result.value >= low
        assert high is None or result.value <= high


@pytest.mark.parametrize("name", EMBEDDED)
def test_a_scorer_gives_an_item_the_same_value_alone_and_in_a_batch(name: str) -> None:
    scorer = scorers()[name]
    assert scorer.score is not None
    texts = ["Small effusion.", "Unchanged nodule at [0.1, 0.1, 0.2, 0.2].", ""]
    items = [made_item(sorted(scorer.tasks)[0], text, "Small effusion. No nodule.") for text in texts]
    alone = [scorer.score([item], scorer.params())[0] for item in items]
    assert scorer.score(items, scorer.params()) == alone
