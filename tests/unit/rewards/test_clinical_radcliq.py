"""RadCliQ: known values of the arithmetic, and the scorers on three tiny models in the published layout."""

import socket
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants
import pytest
import radgraph_checkpoint
from clinical_checkpoints import one_thread, save_chexbert, save_distilroberta
from hypothesis import given, settings
from hypothesis import strategies as st
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

from rewards.clinical import bertscore, chexbert, weights
from rewards.clinical.radcliq_parts import load_parts
from rewards.radcliq import Parts, bigrams, bleu_2, radcliq_v0, radcliq_v1
from rewards.references import DEFAULT_MIB, REFERENCES
from rewards.resources import ModelSettings, NotReadyError, Resources
from rewards.scorer import NoParams, ScoreItem
from rewards.scorers import chexbert_similarity, radgraph_f1
from rewards.scorers import radcliq_v0 as v0
from rewards.scorers import radcliq_v1 as v1
from schemas.group import Score, ScoreError
from schemas.prompt import Reference

REPORT = "No acute effusion. The left lung is clear."
ANSWERS = ["Small left effusion.", REPORT, "", "The lungs are clear. " * 20, "pneumonia", "EFFUSION in the right lung."]


@pytest.fixture(scope="module", autouse=True)
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Resources]:
    base = tmp_path_factory.mktemp("radcliq")
    save_chexbert(base / "chexbert")
    save_distilroberta(base / "bertscore")
    radgraph_checkpoint.write_encoder(base / "radgraph" / "BiomedVLP-CXR-BERT-general")
    unpacked = radgraph_checkpoint.write_unpacked(base / "unpacked")
    radgraph_checkpoint.write_archive(base / "radgraph" / "radgraph-xl.tar.gz", unpacked)
    names = ("chexbert", "bertscore", "radgraph")
    resources = Resources(
        models={name: ModelSettings(folder=base / name, device="cpu", batch_size=2) for name in names}
    )
    load_parts(resources)
    with one_thread():
        yield resources
    weights._LOADED.clear()
    REFERENCES.limit(DEFAULT_MIB * 2**20)


def item(answer: str, report: str = REPORT) -> ScoreItem:
    return ScoreItem("report", answer, answer, Reference(report=report))


def scores(answers: list[str], report: str = REPORT) -> list[Score]:
    results = v1.score([item(answer, report) for answer in answers], NoParams())
    assert all(isinstance(result, Score) for result in results)
    return [result for result in results if isinstance(result, Score)]


# the arithmetic


def test_radcliq_v1_has_its_known_values() -> None:
    assert radcliq_v1(Parts(0, 0, 0, 0)) == pytest.approx(2.4501430833, abs=1e-6)
    assert radcliq_v1(Parts(1, 1, 1, 1)) == pytest.approx(-1.4406902828, abs=1e-6)


def test_radcliq_v0_has_its_known_values() -> None:
    assert radcliq_v0(Parts(0, 0, 0, 0)) == pytest.approx(5.5161608041, abs=1e-4)
    assert radcliq_v0(Parts(1, 1, 1, 1)) == pytest.approx(-0.2421334229, abs=1e-4)


@pytest.mark.parametrize("part", ["radgraph", "bertscore", "chexbert"])
def test_more_agreement_lowers_radcliq(part: str) -> None:
    some = Parts(0.5, 0.5, 0.5, 0.5)
    more = some._replace(**{part: 0.6})
    assert radcliq_v1(more) < radcliq_v1(some)
    assert radcliq_v0(more) < radcliq_v0(some)


def test_bleu_does_not_move_radcliq_v1_and_raises_v0() -> None:
    none, full = Parts(0.5, 0.5, 0.5, 0.0), Parts(0.5, 0.5, 0.5, 1.0)
    assert radcliq_v1(full) == pytest.approx(radcliq_v1(none), abs=1e-9)
    assert radcliq_v0(full) > radcliq_v0(none)


_reports = st.lists(st.sampled_from(["No", "no", "effusion", "effusion.", "left", ".", "1.5", "\n"]), max_size=12)


@given(_reports, _reports)
def test_bleu_2_equals_nltk_with_its_first_smoothing(first: list[str], second: list[str]) -> None:
    prediction, reference = (" ".join(words).lower().replace(".", " .").split() for words in (first, second))
    expected = 0.0
    if prediction:
        smoothing = SmoothingFunction().method1
        expected = sentence_bleu([reference], prediction, weights=(0.5, 0.5), smoothing_function=smoothing)
    assert bleu_2(bigrams(" ".join(first)), bigrams(" ".join(second))) == pytest.approx(expected, abs=1e-12)


def test_bleu_2_ignores_case_and_parts_full_stops_from_words() -> None:
    assert bleu_2(bigrams("NO Effusion."), bigrams("no effusion .")) == pytest.approx(1.0)


# the scorers


def test_the_details_are_the_four_parts_and_the_value_is_made_of_them() -> None:
    firsts = v0.score([item(answer) for answer in ANSWERS], NoParams())
    for score, first in zip(scores(ANSWERS), firsts, strict=True):
        parts = Parts(*(score.details[name] for name in Parts._fields))
        assert score.value == pytest.approx(radcliq_v1(parts))
        assert isinstance(first, Score)
        assert first.value == pytest.approx(radcliq_v0(parts), abs=1e-4)


def test_the_parts_are_those_of_the_single_scorers_on_lower_case_text() -> None:
    answer = "Small LEFT effusion. The lungs are clear."
    (score,) = scores([answer])
    lower = [item(answer.lower(), REPORT.lower())]
    (similar,) = chexbert_similarity.score(lower, NoParams())
    (graph,) = radgraph_f1.score(lower, radgraph_f1.RadGraphF1Params())
    assert isinstance(similar, Score)
    assert isinstance(graph, Score)
    assert score.details["chexbert"] == pytest.approx(similar.value, abs=1e-6)
    assert score.details["radgraph"] == pytest.approx(graph.value)
    prediction, reference = bertscore.embed([answer.lower(), REPORT.lower()])
    assert score.details["bertscore"] == pytest.approx(bertscore.agreement(prediction, reference).f1, abs=1e-4)
    assert score.details["bleu"] == pytest.approx(bleu_2(bigrams(answer), bigrams(REPORT)))


def test_the_reports_case_does_not_matter() -> None:
    plain, shouted = scores(["Small left effusion.", "SMALL LEFT EFFUSION."])
    assert plain.value == pytest.approx(shouted.value, abs=1e-4)


def test_an_equal_report_gets_the_best_that_its_graph_allows() -> None:
    (score,) = scores([REPORT])
    best = Parts(score.details["radgraph"], 1.0, 1.0, 1.0)
    assert score.details["radgraph"] in (0.5, 1.0)  # 0.5: no relation in it
    assert score.value == pytest.approx(radcliq_v1(best), abs=1e-4)


def test_silence_has_nothing_in_common_with_its_reference() -> None:
    for score in scores(["", " \n"]):
        assert [score.details[name] for name in Parts._fields] == [0.0] * 4
        assert score.value == pytest.approx(2.4501430833, abs=1e-6)


def test_a_blank_reference_and_a_text_beyond_bounds_are_errors_that_cost_the_others_nothing() -> None:
    results = v1.score([item("Clear.", " "), item("Clear."), item("a" * 10_001)], NoParams())
    blank, fine, long = results
    assert isinstance(blank, ScoreError)
    assert blank.code == "missing_input"
    assert isinstance(fine, Score)
    assert isinstance(long, ScoreError)
    assert long.code == "too_long"


def test_an_item_gets_the_same_score_alone_and_in_a_batch() -> None:
    for answer, together in zip(ANSWERS, scores(ANSWERS), strict=True):
        (alone,) = scores([answer])
        assert together.value == pytest.approx(alone.value, abs=1e-4)
        assert together.details == pytest.approx(alone.details, abs=1e-5)


@settings(max_examples=5, deadline=None)
@given(st.lists(st.text(max_size=40), min_size=1, max_size=3), st.text(min_size=1, max_size=40))
def test_any_text_gets_a_value_within_the_range_of_the_scorer(answers: list[str], report: str) -> None:
    for scorer in (v1.SCORER, v0.SCORER):
        assert scorer.score is not None
        low, high = scorer.range
        assert low is not None
        assert high is not None
        for result in scorer.score([item(answer, report) for answer in answers], NoParams()):
            assert isinstance(result, ScoreError) or low <= result.value <= high


def test_tokens_that_were_not_read_are_counted() -> None:
    (score,) = scores(["left " * 600])
    assert score.details["truncated"] >= 90
    assert score.details["reference_truncated"] == 0


def test_a_groups_reference_is_read_once_by_each_model() -> None:
    REFERENCES.limit(DEFAULT_MIB * 2**20)
    before = REFERENCES.misses
    scores(ANSWERS, "The right lung is clear.")
    assert REFERENCES.misses - before == 4  # graph, embedding, finding, pairs of words


def test_the_models_are_those_of_the_single_scorers(models: Resources) -> None:
    mine = chexbert.load_chexbert(models)
    load_parts(models)
    assert weights.in_use("chexbert", chexbert.CheXbert) is mine


def test_all_three_models_are_named_where_all_are_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(weights, "_LOADED", {})
    with pytest.raises(NotReadyError) as error:
        load_parts(Resources())
    repos = ("StanfordAIMI/RRG_scorers", "google-bert/bert-base-uncased", "distilbert/distilroberta-base")
    for wanted in ("radgraph-xl.tar.gz", "chexbert.pth", *repos):
        assert wanted in error.value.remedy
    assert "\n" not in error.value.remedy
