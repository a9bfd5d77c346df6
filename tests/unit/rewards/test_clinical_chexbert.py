"""CheXbert on a tiny random checkpoint in the published layout: labels, embeddings, and the two scorers."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from clinical_checkpoints import one_thread, save_chexbert
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BertConfig, BertModel

from rewards.chexpert_labels import bit_mask
from rewards.clinical import weights
from rewards.clinical.chexbert import HEADS, MAX_TOKENS, CheXbert, Finding, find, load_chexbert, similarity
from rewards.references import DEFAULT_MIB, REFERENCES
from rewards.resources import ModelSettings, Resources
from rewards.scorer import NoParams, ScoreItem
from rewards.scorers import chexbert_f1, chexbert_similarity
from rewards.scorers.registry import scorers
from schemas.group import Score, ScoreError
from schemas.prompt import Reference

REPORTS = [
    "No effusion.",
    "Small left effusions. Right opacity.",
    "",
    "opacity " * 300,
    "left right left",
    "Nodule?",
    "left " * 40,
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("chexbert")
    save_chexbert(made)
    return made


@pytest.fixture(scope="module", autouse=True)
def model(folder: Path) -> Iterator[CheXbert]:
    with one_thread():
        yield load_chexbert(Resources(models={"chexbert": ModelSettings(folder=folder, device="cpu", batch_size=3)}))
    weights._LOADED.clear()
    REFERENCES.limit(DEFAULT_MIB * 2**20)


def finding(*positive: str, uncertain: tuple[str, ...] = (), negative: tuple[str, ...] = ()) -> Finding:
    """A finding with these labels; an empty one is a report that mentions nothing."""
    labels = [1 if name in positive else 3 if name in uncertain else 2 if name in negative else 0 for name in HEADS]
    return Finding(np.array(labels, dtype=np.int8), np.ones(4, dtype=np.float32), blank=False, truncated=0)


def item(answer: str, report: str) -> ScoreItem:
    return ScoreItem("report", answer, answer, Reference(report=report))


def f1_of(predicted: Finding, reference: Finding) -> Score:
    result = chexbert_f1._score(predicted, reference)
    assert isinstance(result, Score)
    return result


# the model


def test_labels_and_embedding_equal_those_of_the_plain_model_on_one_report(folder: Path, model: CheXbert) -> None:
    """Independent of the code under test: the checkpoint's own keys, one report, no padding, no helper."""
    state = torch.load(folder / "chexbert.pth", weights_only=True)["model_state_dict"]
    bert = BertModel(BertConfig.from_json_file(folder / "config.json")).eval()
    bert.load_state_dict({key[len("module.bert.") :]: value for key, value in state.items() if ".bert." in key})
    ids = torch.tensor([[2, 6, 7, 9, 10, 12, 8, 11, 12, 3]])  # "Small left effusions. Right opacity."
    with torch.no_grad():
        start = bert(ids).last_hidden_state[0, 0]
    expected = [
        int((state[f"module.linear_heads.{head}.weight"] @ start + state[f"module.linear_heads.{head}.bias"]).argmax())
        for head in range(14)
    ]
    (found,) = model.findings(["Small left effusions. Right opacity."])
    assert found.labels.tolist() == expected
    np.testing.assert_allclose(found.embedding, start.numpy(), atol=1e-6)
    assert len(set(expected)) > 1  # a checkpoint that says the same of everything would prove nothing


def test_a_report_is_read_alike_alone_and_in_a_batch(model: CheXbert) -> None:
    together = model.findings(REPORTS)
    for report, found in zip(REPORTS, together, strict=True):
        (alone,) = model.findings([report])
        np.testing.assert_allclose(found.embedding, alone.embedding, atol=1e-6)
        assert found.labels.tolist() == alone.labels.tolist()


def test_case_and_white_space_do_not_matter(model: CheXbert) -> None:
    first, second = model.findings(["Small left effusions.\n\nRight opacity.", "small LEFT  effusions. right opacity."])
    np.testing.assert_allclose(first.embedding, second.embedding, atol=1e-6)


def test_tokens_beyond_the_models_positions_are_counted(model: CheXbert) -> None:
    long, short, blank = model.findings(["left " * (MAX_TOKENS + 8), "left", " "])
    assert long.truncated == 10  # 520 words and two special tokens
    assert short.truncated == 0
    assert blank.blank
    assert not short.blank


def test_a_cached_embedding_holds_no_batch_alive(model: CheXbert) -> None:
    assert all(found.embedding.base is None for found in model.findings(REPORTS))


@settings(max_examples=15, deadline=None)
@given(st.lists(st.text(max_size=60), min_size=1, max_size=4), st.text(min_size=1, max_size=60))
def test_any_text_gets_a_value_within_the_range_of_the_scorer(answers: list[str], report: str) -> None:
    for name in ("chexbert_f1", "chexbert_similarity"):
        scorer = scorers()[name]
        assert scorer.score is not None
        results = scorer.score([item(answer, report) for answer in answers], NoParams())
        assert len(results) == len(answers)
        low, high = scorer.range
        assert low is not None
        assert high is not None
        assert all(isinstance(result, ScoreError) or low <= result.value <= high for result in results)


# chexbert_f1


@pytest.mark.parametrize(
    ("predicted", "reference", "expected"),
    [
        (finding("Edema"), finding("Edema"), 1.0),
        (finding("Edema", "Fracture"), finding("Edema"), 2 / 3),
        (finding("Edema"), finding("Fracture"), 0.0),
        (finding(uncertain=("Edema",)), finding("Edema"), 1.0),  # f1chexbert: doubted counts as affirmed
        (finding(negative=("Edema",)), finding("Edema"), 0.0),
        (finding(negative=("Edema",)), finding(), 1.0),  # neither side affirms anything
        (finding("Edema"), finding(negative=("Edema",)), 0.0),
        (finding("No Finding"), finding("No Finding", negative=("Edema",)), 1.0),
    ],
)
def test_chexbert_f1_compares_what_is_affirmed_or_doubted(
    predicted: Finding, reference: Finding, expected: float
) -> None:
    assert f1_of(predicted, reference).value == pytest.approx(expected)


def test_chexbert_f1_tells_what_it_counted_in_the_masks_of_chexpert_f1() -> None:
    details = f1_of(finding("Edema", "Fracture"), finding("Edema", uncertain=("Pneumonia",))).details
    assert details["predicted_mask"] == bit_mask({"Edema", "Fracture"})
    assert details["reference_mask"] == bit_mask({"Edema", "Pneumonia"})
    counted = {name: details[name] for name in ("true_positives", "false_positives", "false_negatives")}
    assert counted == {"true_positives": 1, "false_positives": 1, "false_negatives": 1}


def test_f1_of_five_knows_five_observations_only() -> None:
    details = f1_of(finding("Edema", "Fracture"), finding("Edema", "Pneumonia")).details
    assert details["f1_of_five"] == 1.0
    assert f1_of(finding("Fracture"), finding("Edema")).details["f1_of_five"] == 0.0


def test_chexbert_f1_pays_nothing_for_an_answer_without_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    # A model that affirms nothing of any text, so that what says nothing agrees with everything.
    monkeypatch.setattr(chexbert_f1, "find", lambda reports: [finding() for _ in reports])
    monkeypatch.setattr(chexbert_f1, "reference_findings", lambda reports: [finding() for _ in reports])
    answers = ["", ".", "?!", "a", "a b 1 2", "12 34", "__", "No", "\u80ba\u708e"]
    results = chexbert_f1.score([item(answer, "Small effusion.") for answer in answers], NoParams())
    values = [result.value for result in results if isinstance(result, Score)]
    assert values == [0.0] * 7 + [1.0] * 2


# both scorers


@pytest.mark.parametrize("scorer", [chexbert_f1, chexbert_similarity])
def test_silence_is_worth_nothing_and_a_blank_reference_is_an_error(scorer: object) -> None:
    silent, answerless, spoken = scorer.score(  # type: ignore[attr-defined]
        [item("", "No effusion."), item("No effusion.", " \n"), item("No effusion.", "No effusion.")], NoParams()
    )
    assert silent.value == 0.0
    assert answerless.code == "missing_input"
    assert spoken.value == pytest.approx(1.0)


@pytest.mark.parametrize("scorer", [chexbert_f1, chexbert_similarity])
def test_an_item_gets_the_same_score_alone_and_in_a_batch(scorer: object) -> None:
    items = [item(report, "Small left effusion.") for report in REPORTS]
    together = scorer.score(items, NoParams())  # type: ignore[attr-defined]
    for alone_item, score in zip(items, together, strict=True):
        (alone,) = scorer.score([alone_item], NoParams())  # type: ignore[attr-defined]
        assert score.value == pytest.approx(alone.value, abs=1e-6)
        assert score.details == pytest.approx(alone.details)


def test_similarity_is_the_cosine_of_the_embeddings() -> None:
    first, second = find(["Small left effusion.", "No opacity."])
    a, b = first.embedding.tolist(), second.embedding.tolist()
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    expected = dot / (sum(x * x for x in a) * sum(y * y for y in b)) ** 0.5
    (score,) = chexbert_similarity.score([item("Small left effusion.", "No opacity.")], NoParams())
    assert isinstance(score, Score)
    assert score.value == pytest.approx(expected, abs=1e-6)
    assert similarity(first, first) == pytest.approx(1.0)


def test_a_groups_reference_is_read_once_for_both_scorers() -> None:
    REFERENCES.limit(DEFAULT_MIB * 2**20)
    before = REFERENCES.misses
    group = [item(report, "Right EFFUSION seen once.") for report in REPORTS]
    chexbert_f1.score(group, NoParams())
    chexbert_similarity.score(group, NoParams())
    assert REFERENCES.misses - before == 1


def test_both_scorers_run_where_the_weights_are() -> None:
    assert {scorers()[name].tier for name in ("chexbert_f1", "chexbert_similarity")} == {"clinical"}
