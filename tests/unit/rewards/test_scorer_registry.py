"""The registry, and what every scorer promises."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards.scorer import ScoreItem
from rewards.scorers.registry import default_scorers, scorers
from rewards.text import answer_of
from schemas.group import Score
from schemas.prompt import Box, Reference, Task

TASKS: tuple[Task, ...] = ("report", "grounding", "classification", "conversation")


def test_every_file_is_a_scorer() -> None:
    assert set(scorers()) == {"soft_f1", "rouge_l", "chexpert_f1", "format", "prior_references"}


def test_a_task_is_scored_by_what_suits_it() -> None:
    assert default_scorers("grounding") == ("format", "soft_f1")
    assert default_scorers("report") == ("chexpert_f1", "format", "prior_references", "rouge_l")


@pytest.mark.parametrize("name", sorted(scorers()))
@given(texts=st.lists(st.text(max_size=200), min_size=1, max_size=3), thinking=st.booleans(), data=st.data())
def test_any_text_gets_a_value_within_the_range_of_the_scorer(
    name: str, texts: list[str], thinking: bool, data: st.DataObject
) -> None:
    scorer = scorers()[name]
    reference = Reference(report=data.draw(st.text(max_size=200)), boxes=(Box(x1=0.1, y1=0.1, x2=0.2, y2=0.2),))
    items = [
        ScoreItem(task, text, answer_of(text, thinking), reference, "radvlm", thinking=thinking)
        for task, text in zip(sorted(scorer.tasks) * len(texts), texts, strict=False)
    ]
    results = scorer.score(items, scorer.params())
    assert len(results) == len(items)
    low, high = scorer.range
    for result in results:
        assert isinstance(result, Score)
        assert low is not None
        assert high is not None
        assert low <= result.value <= high


@pytest.mark.parametrize("name", sorted(scorers()))
def test_a_scorer_gives_an_item_the_same_value_alone_and_in_a_batch(name: str) -> None:
    scorer = scorers()[name]
    reference = Reference(report="Small effusion. No nodule.", boxes=(Box(x1=0.1, y1=0.1, x2=0.2, y2=0.2),))
    task = sorted(scorer.tasks)[0]
    texts = ["Small effusion.", "Unchanged nodule at [0.1, 0.1, 0.2, 0.2].", ""]
    items = [ScoreItem(task, text, text, reference, "radvlm") for text in texts]
    alone = [scorer.score([item], scorer.params())[0] for item in items]
    assert scorer.score(items, scorer.params()) == alone
