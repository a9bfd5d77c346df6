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
DEADLINE_S = 400
RL = {"group_count": 5, "updates_per_step": 2, "kl_coefficient": 0.05}
ONE_RANK_JOBS = {
    "rl": ["rl_steps", RL],
    "rl again": ["rl_steps", RL],
    "rl bfloat16 1": ["rl_steps", {"dtype": "bfloat16", "zero_stage": 1, **RL}],
    "rl bfloat16 3": ["rl_steps", {"dtype": "bfloat16", "zero_stage": 3, **RL}],
    "sft": ["sft_steps", {"steps": 4}],
    "resume": ["resume", {"zero_stage": 1}],
    "not finite": ["not_finite", {"zero_stage": 1}],
    "export 1": ["export", {"zero_stage": 1}],
    "export 3": ["export", {"zero_stage": 3}],
}
TWO_RANKS_JOBS = {
    "rl 1": ["rl_steps", {"zero_stage": 1, **RL}],
    "rl 2": ["rl_steps", {"zero_stage": 2, **RL}],
    # The two ways of recomputing (layers, slices of the head) under the stage that they are needed for.
    "rl 3": ["rl_steps", {"zero_stage": 3, "gradient_checkpointing": True, "head_tokens": 16, **RL}],
    "sft 1": ["sft_steps", {"steps": 4, "zero_stage": 1}],
    "sft 2": ["sft_steps", {"steps": 4, "zero_stage": 2}],
    "sft 3": ["sft_steps", {"steps": 4, "zero_stage": 3}],
    "resume": ["resume", {"zero_stage": 3}],
    "not finite": ["not_finite", {"zero_stage": 3}],
}
Results = list[dict[str, Any]]  # by rank, by job


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_model(tmp_path_factory.mktemp("learner") / "tiny")


def run_ranks(model_path: str, folder: Path, world_size: int, jobs: dict[str, Any]) -> Results:
    """Runs the jobs of learner_rank.py in one process a rank."""
    (folder / "extensions").mkdir()
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
    processes = []
    for rank in range(world_size):
        command = [sys.executable, str(HERE.parent / "learner_rank.py"), str(rank), str(world_size), model_path]
        with (folder / f"rank-{rank}.log").open("w") as log:
            processes.append(
                subprocess.Popen([*command, str(folder), json.dumps(jobs)], env=environment, stdout=log, stderr=log)
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


@pytest.fixture(scope="module")
def one_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("one")


@pytest.fixture(scope="module")
def one(model_path: str, one_folder: Path) -> dict[str, Any]:
    return run_ranks(model_path, one_folder, 1, ONE_RANK_JOBS)[0]


@pytest.fixture(scope="module")
def two(model_path: str, tmp_path_factory: pytest.TempPathFactory) -> Results:
    return run_ranks(model_path, tmp_path_factory.mktemp("two"), 2, TWO_RANKS_JOBS)


def assert_close_weights(left: dict[str, list[float]], right: dict[str, list[float]]) -> None:
    assert left.keys() == right.keys()
    for name, values in left.items():
        # Four updates of AdamW at 1e-3 move a number by up to 4e-3. Its first steps turn a gradient's sign into a full
        # step, so a number whose gradient is rounding noise may differ by more than rounding.
        assert values == pytest.approx(right[name], abs=2e-4), name


def assert_close_logprobs(left: list[list[list[float]]], right: list[list[list[float]]]) -> None:
    assert [[len(c) for c in group] for group in left] == [[len(c) for c in group] for group in right]
    for group, expected in zip(left, right, strict=True):
        for got_T, expected_T in zip(group, expected, strict=True):
            assert got_T == pytest.approx(expected_T, abs=1e-5)


@pytest.mark.parametrize("zero_stage", [1, 2, 3])
def test_two_ranks_give_the_same_loss_gradient_and_weights_as_one(one: dict[str, Any], two: Results, zero_stage: int):
    expected = one["rl"]
    first, second = (results[f"rl {zero_stage}"] for results in two)
    for step, metrics in enumerate(expected["metrics"]):
        gap = "policy_gap/max" if step else "logprob_gap/max"
        for name in ("loss", "kl", "clip_fraction", "grad_norm", "staleness/mean", gap, "lr"):
            assert first["metrics"][step][name] == pytest.approx(metrics[name], rel=1e-4, abs=1e-6), (step, name)
            assert second["metrics"][step][name] == first["metrics"][step][name]
    for rank, results in enumerate((first, second)):
        assert_close_logprobs(results["learner_logprobs"][0], expected["learner_logprobs"][0][rank::2])
    assert_close_weights(first["weights"], expected["weights"])
    assert second["weights"] == {}


@pytest.mark.parametrize("zero_stage", [1, 3])
def test_bfloat16_parameters_train_on_a_float32_master(one: dict[str, Any], zero_stage: int):
    got, expected = one[f"rl bfloat16 {zero_stage}"], one["rl"]
    for metrics, exact in zip(got["metrics"], expected["metrics"], strict=True):
        assert metrics["updates_skipped"] == 0.0
        assert metrics["loss"] == pytest.approx(exact["loss"], abs=0.03)
        assert metrics["grad_norm"] == pytest.approx(exact["grad_norm"], rel=0.1)
    # One step of AdamW is below bfloat16's resolution of a number near 1; only a float32 master adds four of them up.
    norm = "model.language_model.norm.weight"
    assert got["weights"][norm] == pytest.approx(expected["weights"][norm], abs=4e-3)
    assert got["digests"] != expected["digests"]


def test_learner_logprobs_are_those_before_the_step_even_with_several_updates(one: dict[str, Any]):
    before, after = one["rl"]["learner_logprobs"]
    assert_close_logprobs(before, one["rl"]["before"])
    assert before != after


def test_the_reference_is_the_start_model_and_stays_it(one: dict[str, Any]):
    first, second = one["rl"]["ref_logprobs"]
    assert first == second
    assert_close_logprobs(first, one["rl"]["before"])
    assert one["rl"]["metrics"][1]["kl"] > one["rl"]["metrics"][0]["kl"] > 0.0


def test_starting_deepspeed_compiles_nothing(one: dict[str, Any], two: Results):
    assert [results["compiled"] for results in (one, *two)] == [[], [], []]


def test_deepspeed_still_compiles_at_its_start_if_one_lets_it():
    """When this fails, deepspeed_start's table of compatible ops is no longer needed."""
    code = "import inspect; from deepspeed.comm import TorchBackend; print(inspect.getsource(TorchBackend.__init__))"
    environment = {**os.environ, "DS_ACCELERATOR": "cpu"}
    source = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert "build_shm_op()" in source.stdout


def test_the_same_seed_and_batches_give_the_same_numbers_bit_for_bit(one: dict[str, Any]):
    assert one["rl again"]["digests"] == one["rl"]["digests"]
    for got, expected in zip(one["rl again"]["metrics"], one["rl"]["metrics"], strict=True):
        assert (got["loss"], got["grad_norm"]) == (expected["loss"], expected["grad_norm"])


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_resumed_learner_continues_bit_for_bit(one: dict[str, Any], two: Results, world_size: int):
    results = [r["resume"] for r in ([one] if world_size == 1 else two)]
    for result in results:
        assert result["loaded"] == result["saved"]
        assert result["resumed"] == result["straight"]
        rates = [metrics["lr"] for metrics in result["straight"]["metrics"]]
        assert rates[0] > rates[1]
    assert results[0]["untouched"] != results[0]["saved"]


@pytest.mark.parametrize("world_size", [1, 2])
def test_an_update_that_is_not_finite_is_skipped_and_counted(one: dict[str, Any], two: Results, world_size: int):
    results = [r["not finite"] for r in ([one] if world_size == 1 else two)]
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
    one: dict[str, Any], one_folder: Path, model_path: str, zero_stage: int
):
    from learner.batching import group_batch
    from learner.policy import Policy, load_model
    from learner.weight_sender import weight_buckets

    result = one[f"export {zero_stage}"]
    folder = one_folder / f"export {zero_stage}" / "exported"
    policy = Policy(load_model(str(folder), torch.float32), tuple(special_ids(model_path).values()))
    sent = {s.name: s.digest for bucket in weight_buckets(policy, 1, 0) for s in bucket.manifest.tensors}
    assert sent == result["digests"]
    expected = [v for group in result["logprobs"] for completion in group for v in completion]
    with torch.no_grad():
        got_T = policy(group_batch(make_groups(model_path, 3), [0, 1, 2], policy.facts()).rows, True)
    torch.testing.assert_close(got_T, torch.tensor(expected), atol=1e-5, rtol=0)
    copied = {p.name for p in Path(model_path).iterdir()} - {"model.safetensors", "config.json"}
    assert copied <= {p.name for p in folder.iterdir()}
    assert "must not exist" in result["refused"]


@pytest.mark.parametrize("zero_stage", [1, 2, 3])
def test_sft_learns_and_two_ranks_learn_the_same_though_only_one_of_them_has_pictures(
    one: dict[str, Any], two: Results, zero_stage: int
):
    got = two[0][f"sft {zero_stage}"]
    losses, norms = ([m[name] for m in one["sft"]["metrics"]] for name in ("loss", "grad_norm"))
    assert losses[3] < losses[0] - 0.05
    assert [m["loss"] for m in got["metrics"]] == pytest.approx(losses, rel=1e-4)
    assert [m["grad_norm"] for m in got["metrics"]] == pytest.approx(norms, rel=1e-3)
    assert_close_weights(got["weights"], one["sft"]["weights"])
