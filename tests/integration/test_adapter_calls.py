"""The adapters against a real service, called with exactly what TRL and verl call a reward function with."""

import asyncio
import inspect
import json
import logging
import math
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_up_scorer import PLUGIN, SECRET
from rewards_server import TOKEN, Server, free_port

from rewards.adapters.trl import OverreadReward
from rewards.adapters.verl import compute_score
from schemas.errors import RewardError

pytestmark = pytest.mark.integration

CONFIG = f'plugins = ["{PLUGIN}"]\nscorers = ["made_up", "rouge_l", "soft_f1", "overlong", "bleu"]\nworkers = 1\n'
BOXES = {"boxes": [{"box": [0.1, 0.2, 0.3, 0.4], "label": "nodule"}], "report": None, "labels": None}
GOOD, HALF, BAD = "At [0.1, 0.2, 0.3, 0.4].", "[0.1, 0.2, 0.3, 0.4] [0.5, 0.5, 0.6, 0.6]", "Nowhere."


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    started = Server(tmp_path_factory.mktemp("rewards"), config=CONFIG)
    assert started.address  # ready
    yield started
    started.stop(signal.SIGKILL)


class Trainer:
    """What TRL's GRPOTrainer hands to a reward function beside the data set's columns."""

    def __init__(self) -> None:
        self.metrics: dict[str, list[float]] = {}

    def log_metric(self, name: str, value: float) -> None:
        self.metrics.setdefault(name, []).append(value)

    def log_extra(self, column: str, values: list[Any]) -> None:
        raise AssertionError("texts of completions are not ours to log")

    def call(self, reward: Any, prompts: list[Any], completions: list[Any], **columns: list[Any]) -> Any:
        ids = [[1, 2, 3] for _ in completions]
        return reward(
            prompts=prompts, completions=completions, completion_ids=ids, **columns,
            trainer_state=object(), log_extra=self.log_extra, log_metric=self.log_metric,
        )  # fmt: skip


def test_trl_gets_a_reward_a_completion_in_order(server: Server) -> None:
    trainer = Trainer()
    reward = OverreadReward(server.address, scorers=["soft_f1"], task="grounding", box_format="radvlm", token=TOKEN)
    texts = [GOOD, BAD, HALF] * 100  # more than one request
    given = trainer.call(reward, ["Where?"] * 300, texts, reference=[BOXES] * 300, image=[b""] * 300)
    assert given == pytest.approx([1.0, 0.0, 2 / 3] * 100)
    assert trainer.metrics == {
        "overread/soft_f1": [pytest.approx(5 / 9)],
        "overread/failed": [0.0],
    }


@pytest.mark.parametrize("content", ["a b", [{"type": "text", "text": "a "}, {"type": "text", "text": "b"}]])
def test_trls_conversations_are_scored_by_their_last_answer(server: Server, content: Any) -> None:
    reward = OverreadReward([server.address], weights={"rouge_l": 0.5}, token=TOKEN, reference_column="truth")
    prompt = [{"role": "system", "content": "Be short."}, {"role": "user", "content": [{"type": "image"}]}]
    tool = [{"role": "assistant", "content": "measure"}, {"role": "tool", "name": "m", "content": "1 cm"}]
    completions = [[{"role": "assistant", "content": content}], [*tool, {"role": "assistant", "content": content}]]
    assert Trainer().call(reward, [prompt] * 2, completions, truth=["a b"] * 2) == [0.5, 0.5]


def test_a_missing_score_is_none_for_trl_and_counted(server: Server) -> None:
    trainer = Trainer()
    reward = OverreadReward(server.address, scorers=["made_up"], task="grounding", box_format="radvlm", token=TOKEN)
    given = trainer.call(reward, ["?"] * 4, ["xx", "", "x", ""], reference=[BOXES] * 4)
    assert given == [0.5, None, 1.0, None]  # the scorer fails for a blank answer
    assert trainer.metrics["overread/failed"] == [0.5]
    assert trainer.metrics["overread/made_up"] == [0.75]


def test_the_weights_make_the_reward_and_weight_0_is_only_recorded(server: Server) -> None:
    trainer = Trainer()
    weights = {"rouge_l": 2.0, "overlong": 1.0, "bleu": 0.0}
    reward = OverreadReward(server.address, weights=weights, token=TOKEN)
    assert trainer.call(reward, ["?"], ["testing one two"], reference=["testing two"]) == pytest.approx([1.6])
    assert "overread/bleu" in trainer.metrics


def test_tasks_may_be_mixed_by_columns(server: Server) -> None:
    weights: Any = {"report": {"rouge_l": 1.0}, "grounding": {"soft_f1": 1.0}}
    reward = OverreadReward(server.address, weights=weights, token=TOKEN)
    given = Trainer().call(
        reward, ["?"] * 3, [GOOD, "testing one two", HALF],
        reference=[BOXES, {"report": "testing two", "boxes": None, "labels": None}, BOXES],
        task=["grounding", "report", "grounding"], box_format=["radvlm", None, "radvlm"],
    )  # fmt: skip
    assert given == pytest.approx([1.0, 0.8, 2 / 3])


async def test_trls_reward_works_where_a_loop_runs_already(server: Server) -> None:
    reward = OverreadReward(server.address, scorers=["rouge_l"], token=TOKEN)
    assert Trainer().call(reward, ["?"], ["a"], reference=["a"]) == [1.0]


@pytest.mark.parametrize(("token", "code"), [("wrong", "unauthorized"), (TOKEN, "unreachable")])
def test_trl_stops_where_no_reward_can_be_had(server: Server, token: str, code: str) -> None:
    address = server.address if code == "unauthorized" else f"http://127.0.0.1:{free_port()}"
    reward = OverreadReward(address, scorers=["rouge_l"], token=token, deadline_s=1.0)
    with pytest.raises(RewardError) as error:
        Trainer().call(reward, [SECRET], [SECRET], reference=[SECRET])
    assert error.value.code == code
    assert SECRET not in str(error.value)


async def _call_with_kwargs_async(raw_fn: Any, extra_kwargs: Any, *args: Any, **kwargs: Any) -> Any:
    # As verl's get_custom_reward_fn wraps a reward function (verl 0.9.1, trainer/ppo/reward.py).
    return await raw_fn(*args, **{**kwargs, **extra_kwargs})


def verl(**reward_kwargs: Any) -> Any:
    return partial(_call_with_kwargs_async, compute_score, reward_kwargs)


def verl_call(function: Any, text: str, truth: Any, **extra: Any) -> Any:
    """As verl's NaiveRewardManager.run_single calls it (experimental/reward_loop/reward_manager/naive.py)."""
    extra_info = {**extra, "num_turns": 2, "rollout_reward_scores": {}}
    return function(data_source="openi", solution_str=text, ground_truth=truth, extra_info=extra_info)


async def test_verl_awaits_a_dict_with_the_reward_and_every_score(server: Server) -> None:
    weights = {"rouge_l": 2.0, "bleu": 0.0}
    function = verl(addresses=[server.address], token=TOKEN, weights=weights, task="report")
    assert inspect.iscoroutinefunction(function)  # how verl decides to await it
    given = await verl_call(function, "testing one two", "testing two")
    assert given["score"] == pytest.approx(1.6)
    assert given["rouge_l"] == pytest.approx(0.8)
    assert 0.0 < given["bleu"] < 1.0
    json.dumps(given)


async def test_verl_asks_for_many_completions_at_once(server: Server) -> None:
    function = verl(addresses=[server.address], token=TOKEN, scorers=["soft_f1"], task="grounding", box_format="radvlm")
    truth = {"boxes": np.array([{"box": np.array([0.1, 0.2, 0.3, 0.4]), "label": "nodule"}], dtype=object)}
    given = await asyncio.gather(*(verl_call(function, text, truth) for text in [GOOD, BAD, HALF] * 50))
    assert [result["score"] for result in given] == pytest.approx([1.0, 0.0, 2 / 3] * 50)


async def test_verls_rows_of_several_tasks_have_the_same_keys(server: Server) -> None:
    weights = {"report": {"rouge_l": 1.0}, "grounding": {"soft_f1": 1.0}}
    function = verl(addresses=[server.address], token=TOKEN, weights=weights)
    report = await verl_call(function, "a", "a", task="report")
    grounding = await verl_call(function, GOOD, json.dumps(BOXES), task="grounding", box_format="radvlm")
    assert report.keys() == grounding.keys() == {"score", "rouge_l", "soft_f1"}
    assert (report["score"], grounding["score"]) == (1.0, 1.0)
    assert math.isnan(report["soft_f1"])
    assert math.isnan(grounding["rouge_l"])


async def test_verls_services_may_come_from_the_environment(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "token").write_text(TOKEN)
    monkeypatch.setenv("OVERREAD_REWARD_ADDRESSES", f"{server.address}, {server.address}")
    given = await verl_call(verl(token_file=str(tmp_path / "token"), scorers=["rouge_l"]), "a", "a")
    assert given["score"] == 1.0


async def test_a_missing_score_stops_verl_since_it_can_leave_nothing_out(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    options = {"scorers": ["made_up"], "task": "grounding", "box_format": "radvlm"}
    with pytest.raises(RewardError) as missing:
        await verl_call(verl(addresses=[server.address], token=TOKEN, **options), "", json.dumps(BOXES))
    assert str(missing.value) == "missing_score: no reward for a completion of openi: made_up: scorer_failed"
    away = verl(addresses=[f"http://127.0.0.1:{free_port()}"], deadline_s=1.0, **options)
    with pytest.raises(RewardError) as unreachable:
        await verl_call(away, SECRET, json.dumps(BOXES))
    assert unreachable.value.code == "unreachable"
    assert SECRET not in str(unreachable.value) + caplog.text
