"""The learner on real DeepSpeed: ranks and ZeRO stages agree, checkpoints resume, exports load, NaN is skipped."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

HERE = Path(__file__).resolve()
sys.path.insert(0, str(HERE.parents[1] / "unit" / "learner"))

from learner_cases import make_groups, make_model, special_ids  # noqa: E402

pytestmark = pytest.mark.integration
DEADLINE_S = 300


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_model(tmp_path_factory.mktemp("learner") / "tiny")


class Ranks:
    """Runs a scenario of learner_rank.py in one process a rank."""

    def __init__(self, model_path: str, folder: Path) -> None:
        self.model_path = model_path
        self.folder = folder

    def run(self, scenario: str, world_size: int = 1, **arguments: Any) -> list[dict[str, Any]]:
        folder = self.folder / f"{scenario}-{len(list(self.folder.iterdir()))}"
        (folder / "extensions").mkdir(parents=True)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        environment = {
            **os.environ,
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "OMP_NUM_THREADS": "1",
            "TORCH_EXTENSIONS_DIR": str(folder / "extensions"),
        }
        script = str(HERE.parent / "learner_rank.py")
        processes = []
        for rank in range(world_size):
            command = [sys.executable, script, scenario, str(rank), str(world_size), self.model_path, str(folder)]
            with (folder / f"rank-{rank}.log").open("w") as log:
                processes.append(
                    subprocess.Popen([*command, json.dumps(arguments)], env=environment, stdout=log, stderr=log)
                )
        try:
            for rank, process in enumerate(processes):
                status = process.wait(DEADLINE_S)
                assert status == 0, (folder / f"rank-{rank}.log").read_text()[-3000:]
        finally:
            for process in processes:
                process.kill()
                process.wait()
        return [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(world_size)]


@pytest.fixture
def ranks(model_path: str, tmp_path: Path) -> Ranks:
    return Ranks(model_path, tmp_path)


@pytest.fixture(scope="module")
def one_rank(model_path: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Two steps of two updates on five groups, with a KL loss, on one rank."""
    return Ranks(model_path, tmp_path_factory.mktemp("one")).run("rl_steps", **CASE)[0]


CASE = {"group_count": 5, "updates_per_step": 2, "kl_coefficient": 0.05}


def assert_close_weights(left: dict[str, list[float]], right: dict[str, list[float]]) -> None:
    assert left.keys() == right.keys()
    for name, values in left.items():
        # Two updates of AdamW move a number by up to 4e-3; its first steps turn a gradient's sign into a full step,
        # so numbers whose gradient is rounding noise may differ by a little more than rounding.
        assert values == pytest.approx(right[name], abs=2e-4), name


@pytest.mark.parametrize("zero_stage", [1, 2, 3])
def test_two_ranks_give_the_same_loss_gradient_and_weights_as_one(
    ranks: Ranks, one_rank: dict[str, Any], zero_stage: int
):
    two = ranks.run("rl_steps", 2, zero_stage=zero_stage, **CASE)
    for step, expected in enumerate(one_rank["metrics"]):
        got = two[0]["metrics"][step]
        assert two[1]["metrics"][step].keys() == got.keys()
        gap = "policy_gap/max" if step else "logprob_gap/max"
        for name in ("loss", "kl", "clip_fraction", "grad_norm", "staleness/mean", gap, "lr"):
            assert got[name] == pytest.approx(expected[name], rel=1e-4, abs=1e-6), (step, name)
            assert two[1]["metrics"][step][name] == got[name]
    for rank in (0, 1):
        for index, group in enumerate(two[rank]["learner_logprobs"][0]):
            for got_T, expected_T in zip(group, one_rank["learner_logprobs"][0][rank + 2 * index], strict=True):
                assert got_T == pytest.approx(expected_T, abs=1e-5)
    assert two[1]["weights"] == {}
    assert_close_weights(two[0]["weights"], one_rank["weights"])


def test_learner_logprobs_are_those_before_the_step_even_with_several_updates(one_rank: dict[str, Any]):
    for group, expected in zip(one_rank["learner_logprobs"][0], one_rank["before"], strict=True):
        for got_T, expected_T in zip(group, expected, strict=True):
            assert got_T == pytest.approx(expected_T, abs=1e-5)
    assert one_rank["learner_logprobs"][1] != one_rank["learner_logprobs"][0]


def test_the_reference_is_the_start_model_and_stays_it(one_rank: dict[str, Any]):
    first, second = one_rank["ref_logprobs"]
    assert first == second
    for group, expected in zip(first, one_rank["before"], strict=True):
        for got_T, expected_T in zip(group, expected, strict=True):
            assert got_T == pytest.approx(expected_T, abs=1e-5)
    assert one_rank["metrics"][1]["kl"] > one_rank["metrics"][0]["kl"] > 0.0


def test_starting_deepspeed_compiles_nothing(one_rank: dict[str, Any]):
    assert one_rank["compiled"] == []


def test_deepspeed_still_compiles_at_its_start_if_one_lets_it():
    """When this fails, deepspeed_start's table of compatible ops is no longer needed."""
    code = "import inspect, deepspeed.comm.torch as t; print(inspect.getsource(t.TorchBackend.__init__))"
    environment = {**os.environ, "DS_ACCELERATOR": "cpu"}
    source = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert "build_shm_op()" in source.stdout


def test_the_same_seed_and_batches_give_the_same_numbers_bit_for_bit(ranks: Ranks, one_rank: dict[str, Any]):
    again = ranks.run("rl_steps", **CASE)[0]
    assert again["digests"] == one_rank["digests"]
    for got, expected in zip(again["metrics"], one_rank["metrics"], strict=True):
        assert (got["loss"], got["grad_norm"]) == (expected["loss"], expected["grad_norm"])


@pytest.mark.parametrize(("world_size", "zero_stage"), [(1, 1), (2, 3)])
def test_a_resumed_learner_continues_bit_for_bit(ranks: Ranks, world_size: int, zero_stage: int):
    results = ranks.run("resume", world_size, zero_stage=zero_stage)
    for result in results:
        assert result["loaded"] == result["saved"]
        assert result["resumed"] == result["straight"]
        rates = [metrics["lr"] for metrics in result["straight"]["metrics"]]
        assert rates[0] > rates[1]
    assert results[0]["untouched"] != results[0]["saved"]


@pytest.mark.parametrize(("world_size", "zero_stage"), [(1, 1), (2, 3)])
def test_an_update_that_is_not_finite_is_skipped_and_counted(ranks: Ranks, world_size: int, zero_stage: int):
    results = ranks.run("not_finite", world_size, zero_stage=zero_stage)
    for result in results:
        assert [m["updates_skipped"] for m in result["metrics"]] == [0.0, 1.0, 0.0]
        assert result["metrics"][1]["loss"] is None
        assert result["metrics"][1]["grad_norm"] is None
        assert result["metrics"][2]["loss"] is not None
    before, after_bad, after_good = results[0]["digests"]
    assert after_bad == before
    assert after_good != before


@pytest.mark.parametrize("zero_stage", [1, 3])
def test_an_export_loads_in_transformers_with_the_learners_numbers_and_the_sent_bytes(
    ranks: Ranks, model_path: str, zero_stage: int
):
    from learner.batching import group_batch
    from learner.policy import Policy, load_model
    from learner.weight_sender import weight_buckets

    result = ranks.run("export", zero_stage=zero_stage)[0]
    folder = next(ranks.folder.glob("export-*")) / "exported"
    policy = Policy(load_model(str(folder), torch.float32), tuple(special_ids(model_path).values()))
    sent = {s.name: s.digest for bucket in weight_buckets(policy, 1, 0) for s in bucket.manifest.tensors}
    assert sent == result["digests"]
    groups = make_groups(model_path, 3)
    expected = [v for group in result["logprobs"] for completion in group for v in completion]
    with torch.no_grad():
        got_T = policy(group_batch(groups, [0, 1, 2], policy.facts()).rows, True)
    torch.testing.assert_close(got_T, torch.tensor(expected), atol=1e-5, rtol=0)
    copied = {p.name for p in Path(model_path).iterdir()} - {"model.safetensors", "config.json"}
    assert copied <= {p.name for p in folder.iterdir()}
    assert "must not exist" in result["refused"]


def test_sft_learns_and_two_ranks_learn_the_same(ranks: Ranks):
    one = ranks.run("sft_steps", steps=4)[0]
    two = ranks.run("sft_steps", 2, steps=4, zero_stage=2)[0]
    losses = [m["loss"] for m in one["metrics"]]
    assert losses[3] < losses[0] - 0.05
    assert [m["loss"] for m in two["metrics"]] == pytest.approx(losses, rel=1e-4)
    assert [m["grad_norm"] for m in two["metrics"]] == pytest.approx([m["grad_norm"] for m in one["metrics"]], rel=1e-3)
    assert_close_weights(two["weights"], one["weights"])
