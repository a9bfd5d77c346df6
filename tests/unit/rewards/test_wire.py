"""The wire models, the settings, and the command's input errors."""

import json
import socket
from pathlib import Path

import pytest
from pydantic import ValidationError

from rewards.scorers.registry import available
from rewards.serve import base_url, bind, is_loopback, main, read_settings, serve
from rewards.settings import RewardServiceSettings
from rewards.tokens import read_tokens
from rewards.wire import ScoreRequest, field_path, field_problems
from schemas.errors import ConfigError
from schemas.prompt import Box

EXAMPLE = {
    "items": [
        {
            "id": "a",
            "task": "grounding",
            "completion": "...",
            "box_format": "radvlm",
            "reference": {"boxes": [{"box": [0.1, 0.2, 0.3, 0.4], "label": "nodule"}], "report": None, "labels": None},
            "question": None,
            "thinking": False,
            "token_count": None,
            "finish_reason": None,
        }
    ],
    "scorers": ["soft_f1"],
    "params": {"soft_f1": {"empty_match_value": 1.0}},
}


def problems(body: object) -> dict[str, str]:
    with pytest.raises(ValidationError) as error:
        ScoreRequest.model_validate_json(json.dumps(body))
    return {problem.field: problem.rule for problem in field_problems(error.value)}


def test_the_documented_request_is_understood() -> None:
    request = ScoreRequest.model_validate_json(json.dumps(EXAMPLE))
    (item,) = request.score_items()
    assert item.reference.boxes == (Box(x1=0.1, y1=0.2, x2=0.3, y2=0.4, label="nodule"),)
    assert request.params == {"soft_f1": {"empty_match_value": 1.0}}


def test_only_id_task_completion_and_reference_are_demanded() -> None:
    minimal = {"items": [{"id": "a", "task": "report", "completion": "x", "reference": {"report": "y"}}]}
    request = ScoreRequest.model_validate_json(json.dumps(minimal))
    assert request.scorers is None
    assert request.items[0].thinking is False


def test_a_wrong_field_is_named_with_its_item_and_without_its_text() -> None:
    item = EXAMPLE["items"][0]
    wrong = {**item, "reference": {"boxes": [{"box": [0.1, 0.2, 0.3, 400]}]}, "completion": {"secret": "text"}}
    found = problems({"items": [item, wrong]})
    assert set(found) == {"items[1].completion", "items[1].reference.boxes[0].box[3]"}
    assert "secret" not in str(found)
    assert "400" not in str(found)


def test_a_box_of_the_reference_in_the_wrong_order_is_refused() -> None:
    item = {**EXAMPLE["items"][0], "reference": {"boxes": [{"box": [0.3, 0.2, 0.1, 0.4]}]}}
    assert "x1 < x2" in problems({"items": [item]})["items[0].reference.boxes[0]"]


def test_no_items_and_one_wrong_item_are_different_problems() -> None:
    assert set(problems({"items": []})) == {"items"}
    assert set(problems({"items": [{**EXAMPLE["items"][0], "id": 7}]})) == {"items[0].id"}


def test_an_unknown_key_is_repeated_only_if_it_looks_like_a_field() -> None:
    assert field_path(("items", 0, "taks")) == "items[0].taks"
    assert field_path(("items", 0, "left pneumothorax")) == "items[0].<key of 17 characters>"
    assert field_path(("k" * 41,)) == "<key of 41 characters>"
    assert field_path(()) == "body"


@pytest.mark.parametrize("body", [b"", b"{", b"[" * 5_000, b'{"items": NaN}', b"\xff\xfe", b'"\\ud800"'])
def test_what_is_no_request_is_a_validation_error(body: bytes) -> None:
    with pytest.raises(ValidationError) as error:
        ScoreRequest.model_validate_json(body)
    assert field_problems(error.value)


def test_a_refused_text_is_not_in_the_exception() -> None:
    with pytest.raises(ValidationError) as error:
        ScoreRequest.model_validate_json(json.dumps({"items": [{"completion": ["left pneumothorax"]}]}))
    assert "pneumothorax" not in str(error.value)


# settings


def test_the_default_settings_are_valid() -> None:
    assert RewardServiceSettings().weights["grounding"] == {"soft_f1": 1.0}


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"weights": {"grounding": {"soft_f2": 1.0}}}, "did you mean soft_f1"),
        ({"weights": {"grounding": {"rouge_l": 1.0}}}, "does not score the task grounding"),
        ({"weights": {"report": {"prior_references": 1.0}}}, "must be negative"),
        ({"weights": {"report": {"rouge_l": -1.0}}}, "must be positive"),
        ({"weights": {"grounding": {"map50": 1.0}}}, "evaluation only"),
        ({"scorers": ["map5"]}, "did you mean map50"),
        ({"weights": {"report": {}}}, "at least one scorer"),
        ({"weights": {"report": {"rouge_l": 0.0}}}, "at least one scorer"),
        ({"params": {"soft_f1": {"empty_value": 1.0}}}, "empty_value"),
        ({"params": {"soft_f1": {"empty_match_value": 2.0}}}, "empty_match_value"),
        ({"params": {"softf1": {}}}, "did you mean soft_f1"),
        ({"deadline_s": 0}, "deadline_s"),
    ],
)
def test_wrong_settings_are_refused_and_named(values: dict[str, object], named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        RewardServiceSettings.model_validate(values)


def test_another_services_scorer_may_be_weighted() -> None:
    settings = RewardServiceSettings.model_validate(
        {"addresses": ["http://rewards:8008"], "weights": {"report": {"their_scorer": 1.0}}}
    )
    assert settings.weights["report"] == {"their_scorer": 1.0}


def test_a_plugin_that_is_no_scorer_is_named(tmp_path: Path) -> None:
    plugin = tmp_path / "mine.py"
    for text, rule in (("", "must make SCORER"), ("import nothing_of_that_name", "must be importable")):
        plugin.write_text(text)
        with pytest.raises(ConfigError, match=rf"{rule}.*mine\.py"):
            RewardServiceSettings(plugins=(str(plugin),))
        available.cache_clear()


# serve


def test_a_host_that_others_reach_needs_a_token() -> None:
    with pytest.raises(ConfigError, match=r"rewards\.host.*0\.0\.0\.0.*--token-file"):
        serve(RewardServiceSettings(), "0.0.0.0", 0)


def test_loopback_is_recognised() -> None:
    assert all(is_loopback(host) for host in ("127.0.0.1", "::1", "localhost", "127.8.8.8"))
    assert not any(is_loopback(host) for host in ("0.0.0.0", "::", "10.0.0.1", "example.org"))


def test_a_taken_port_is_one_line_and_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["--port", str(port)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"127.0.0.1:{port}" in error


def test_port_0_takes_a_free_one() -> None:
    with bind("127.0.0.1", 0) as listener:
        assert base_url(listener) == f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_a_token_file_must_hold_a_token(tmp_path: Path) -> None:
    path = tmp_path / "token"
    with pytest.raises(ConfigError, match="token_file"):
        read_tokens(path)
    path.write_text(" \n# none yet\n")
    with pytest.raises(ConfigError, match="empty"):
        read_tokens(path)
    path.write_text("two words\n")
    with pytest.raises(ConfigError, match="without spaces") as error:
        read_tokens(path)
    assert "two words" not in str(error.value)
    path.write_text("secret\n")
    assert read_tokens(path) == ("secret",)


def test_a_wrong_config_file_is_named_with_its_field(tmp_path: Path) -> None:
    path = tmp_path / "rewards.toml"
    path.write_text("max_itmes = 3")
    with pytest.raises(ConfigError, match=r"rewards\.toml: max_itmes.*did you mean max_items"):
        read_settings(path)
    path.write_text("max_items = ")
    with pytest.raises(ConfigError, match="TOML"):
        read_settings(path)
    path.write_text("max_items = 3")
    assert read_settings(path).max_items == 3
