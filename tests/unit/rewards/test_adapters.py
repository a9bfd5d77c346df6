"""What the adapters make of a trainer's call before a service is asked; that part needs no service."""

from collections.abc import Mapping, MutableMapping, MutableSequence
from typing import Any

import numpy as np
import pytest

from rewards.adapters.common import Overreader, plain
from rewards.adapters.trl import OverreadReward
from rewards.adapters.verl import compute_score
from schemas.errors import ConfigError, DataError

NOWHERE = "http://127.0.0.1:1"
SECRET = "left pneumothorax of Mrs Example"


class DictConfig(MutableMapping[str, Any]):
    """As OmegaConf's: a mapping that is no dict."""

    def __init__(self, **values: Any) -> None:
        self._values = values

    def __getitem__(self, key: str) -> Any:
        return self._values[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self._values[key] = value

    def __delitem__(self, key: str) -> None:
        del self._values[key]

    def __iter__(self) -> Any:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


class ListConfig(MutableSequence[Any]):
    """As OmegaConf's: a sequence that is no list."""

    def __init__(self, *values: Any) -> None:
        self._values = list(values)

    def __getitem__(self, index: Any) -> Any:
        return self._values[index]

    def __setitem__(self, index: Any, value: Any) -> None:
        self._values[index] = value

    def __delitem__(self, index: Any) -> None:
        del self._values[index]

    def __len__(self) -> int:
        return len(self._values)

    def insert(self, index: int, value: Any) -> None:
        self._values.insert(index, value)


def test_containers_of_a_config_and_arrays_of_a_data_set_become_plain() -> None:
    boxes = np.array([np.array([0.1, 0.2, 0.3, 0.4])])
    given = DictConfig(a=ListConfig("x", DictConfig(b=np.float64(0.5))), boxes=boxes, text="abc", none=None)
    assert plain(given) == {"a": ["x", {"b": 0.5}], "boxes": [[0.1, 0.2, 0.3, 0.4]], "text": "abc", "none": None}


def test_scorers_are_weights_of_one() -> None:
    assert Overreader(NOWHERE, scorers=["rouge_l", "bleu"]).scorers == ("bleu", "rouge_l")


def test_weights_may_be_those_of_several_tasks() -> None:
    weights: Any = {"report": {"rouge_l": 1.0}, "grounding": {"soft_f1": 1.0}}
    overreader = Overreader([NOWHERE], weights=weights, box_format="radvlm")
    report = overreader.item(0, {"completion": "a", "reference": "b"})
    grounding = overreader.item(1, {"completion": "a", "reference": {"boxes": []}, "task": "grounding"})
    assert (report.task, grounding.task) == ("report", "grounding")
    with pytest.raises(ConfigError, match="must name scorers for the task classification"):
        overreader.item(2, {"completion": "a", "reference": {"labels": []}, "task": "classification"})


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"addresses": []}, "addresses: must name a reward service"),
        ({"scorers": ["bleu"], "weights": {"bleu": 1.0}}, "must not stand beside weights"),
        ({"scorers": ["prior_references"]}, "its weight must be negative"),
        ({"weights": {"map50": 1.0}, "task": "grounding"}, "evaluation only"),
        ({"scorers": ["soft_f1"]}, "soft_f1 does not score the task report"),
        ({"scorers": ["bleu"], "params": {"rouge_l": {"stem": 1}}}, "stem"),
        ({"scorers": ["bleu"], "deadline_s": 0}, "deadline_s"),
        ({"scorers": []}, "name at least one scorer"),
    ],
)
def test_wrong_options_are_told_when_the_run_is_set_up(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as error:
        OverreadReward(**{"addresses": [NOWHERE], **options})
    assert says in str(error.value)


def test_trl_finds_a_name_for_its_logs() -> None:
    assert OverreadReward(NOWHERE, scorers=["bleu"]).__name__ == "overread"


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"answer": ["x"]}, "reference_column reference: must be a column of the data set; given: answer"),
        ({"reference": [[1, 2]]}, "completion 0: reference"),
        ({"reference": [None]}, "completion 0: reference: must be given"),
    ],
)
def test_columns_that_do_not_fit_stop_a_trl_run_without_a_text_in_the_message(
    columns: Mapping[str, Any], says: str
) -> None:
    reward = OverreadReward(NOWHERE, scorers=["bleu"])
    with pytest.raises((ConfigError, DataError)) as error:
        reward(prompts=[SECRET], completions=[SECRET], completion_ids=[[1]], **columns)
    assert says in str(error.value)
    assert SECRET not in str(error.value)


@pytest.mark.parametrize(
    ("options", "truth", "says"),
    [
        ({"addresses": NOWHERE, "scorers": ["bleu"], "deadlin_s": 3}, "a", "reward_kwargs: must be options"),
        ({"scorers": ["bleu"]}, "a", "addresses: must name a reward service"),
        ({"addresses": NOWHERE, "scorers": ["bleu"]}, 7, "openi: completion 0: reference: must be a text"),
        ({"addresses": NOWHERE, "scorers": ["bleu"]}, None, "openi: completion 0: reference: must be given"),
    ],
)
async def test_what_does_not_fit_stops_a_verl_run(
    options: dict[str, Any], truth: Any, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OVERREAD_REWARD_ADDRESSES", raising=False)
    with pytest.raises((ConfigError, DataError)) as error:
        await compute_score("openi", SECRET, truth, {}, **options)
    assert says in str(error.value)
    assert SECRET not in str(error.value)
