from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from orchestration.config import Recipe, validate_recipe
from orchestration.machine import Gpu, Machine, parse_gpus, this_machine
from orchestration.model_facts import model_facts, parameter_count, read_facts
from orchestration.plan import GIB, Plan, check_plan, make_plan, show_plan
from schemas.errors import ConfigError, DataError

LAPTOP = Machine(cores=(0, 1), memory_bytes=24 * GIB)
CARD = Gpu("H100", 80 * GIB)
EIGHT_CARDS = Machine(cores=tuple(range(64)), memory_bytes=1024 * GIB, gpus=(CARD,) * 8)
HUB_8B = "Qwen/Qwen3-VL-8B-Instruct"


def recipe(**keys: Any) -> Recipe:
    tree: dict[str, Any] = {"name": "r", "steps": 10, "data": {"path": "p"}, "reward": {}}
    for key, value in keys.items():
        section, _, name = key.rpartition("__")
        (tree.setdefault(section, {}) if section else tree)[name] = value
    return validate_recipe(tree)


def qwen_config(**text: Any) -> dict[str, Any]:
    """The published config.json of the 8B model, as far as sizes go."""
    return {
        "model_type": "qwen3_vl",
        "tie_word_embeddings": False,
        "text_config": {
            "vocab_size": 151936,
            "hidden_size": 4096,
            "intermediate_size": 12288,
            "num_hidden_layers": 36,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "head_dim": 128,
            **text,
        },
        "vision_config": {
            "depth": 27,
            "hidden_size": 1152,
            "intermediate_size": 4304,
            "num_heads": 16,
            "in_channels": 3,
            "patch_size": 16,
            "temporal_patch_size": 2,
            "spatial_merge_size": 2,
            "out_hidden_size": 4096,
            "num_position_embeddings": 2304,
            "deepstack_visual_indexes": [8, 16, 24],
        },
    }


def shown(plan: Plan) -> str:
    console = Console(file=io.StringIO(), width=200)
    show_plan(plan, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_parameters_of_the_8b_model_are_counted_exactly():
    # transformers' own count of the model built on the meta device, which is what the hub shows for its files.
    assert parameter_count(qwen_config()) == 8_767_123_696


def test_a_local_folder_is_read_and_a_hub_name_that_is_not_here_is_estimated(tmp_path: Path):
    (tmp_path / "config.json").write_text(json.dumps(qwen_config(num_hidden_layers=2)))
    local = model_facts(str(tmp_path))
    assert local.layers == 2
    assert local.source == f"from {tmp_path / 'config.json'}"
    hub = model_facts(HUB_8B)
    assert (hub.parameters, hub.kv_bytes_per_token(2)) == (8_767_123_696, 147_456)
    assert "not on this machine" in hub.source


@pytest.mark.parametrize("name", ["Qwen/Qwen3-VL-9B", "/no/such/Qwen3-VL-8B-Instruct", "someone/llama-8b"])
def test_a_model_that_is_nowhere_is_refused_in_one_line(name: str):
    with pytest.raises(DataError, match=r"^model: must be a folder"):
        model_facts(name)


def test_a_config_without_sizes_is_refused(tmp_path: Path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen3_vl", "text_config": {}}))
    with pytest.raises(DataError, match="must hold a Qwen3-VL's text_config"):
        read_facts(tmp_path, "m")


def test_on_a_laptop_engine_and_learner_get_a_core_each_and_it_fits():
    plan = make_plan(recipe(), LAPTOP)
    check_plan(plan)
    cores = {process.name: process.cores for process in plan.processes}
    assert (cores["rollout-0"], cores["learner-0"]) == ((0,), (1,))
    assert plan.learner_dtype == "float32"
    assert (plan.completions_per_step, plan.tokens_per_step) == (16 * 8, 16 * 8 * 64)
    # 4 layers x (key and value) x 2 heads x 32 numbers x 4 bytes = 2 KiB a token.
    assert plan.kv_tokens == 512 * 2**20 // 2048


def test_a_plan_that_needs_more_cores_is_shown_and_then_refused():
    plan = make_plan(recipe(rollout__workers=2), LAPTOP)
    assert "rollout-1" in shown(plan)
    with pytest.raises(ConfigError, match="must be at most the 2 cores of this machine; given: 3"):
        check_plan(plan)


def test_a_plan_that_needs_more_memory_is_refused_in_one_line():
    plan = make_plan(recipe(model=HUB_8B, rollout__kv_cache_mib=4096), LAPTOP)
    with pytest.raises(ConfigError, match=r"must fit into the 24.0 GiB of this machine; given: \d+") as caught:
        check_plan(plan)
    assert "\n" not in str(caught.value)
    assert "run it on a machine with GPUs, or lower rollout.workers, learner.ranks" in str(caught.value)


@pytest.mark.parametrize(
    ("machine", "served", "pushed"), [(LAPTOP, "bfloat16", "float32"), (EIGHT_CARDS, "float32", "bfloat16")]
)
def test_an_engine_of_another_precision_than_the_learner_on_this_machine_is_refused(
    machine: Machine, served: str, pushed: str
):
    with pytest.raises(ConfigError, match=rf"^rollout\.dtype: must be the learner's, {pushed}") as caught:
        check_plan(make_plan(recipe(rollout__dtype=served), machine))
    assert "\n" not in str(caught.value)
    check_plan(make_plan(recipe(rollout__dtype=pushed), machine))


def test_a_path_with_brackets_is_shown_as_it_is(tmp_path: Path):
    folder = tmp_path / "model[v2]"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(qwen_config()))
    assert "model[v2]:" in shown(make_plan(recipe(model=str(folder)), LAPTOP)).replace("\n", "")


def test_a_kv_cache_too_small_for_one_sequence_is_refused_with_a_size_that_works():
    keys = {"model": HUB_8B, "rollout__dtype": "bfloat16", "rollout__max_model_len": 4096, "rollout__max_tokens": 512}
    with pytest.raises(ConfigError, match=r"rollout\.kv_cache_mib: must hold one sequence") as caught:
        check_plan(make_plan(recipe(**keys, rollout__kv_cache_mib=512), EIGHT_CARDS))
    least = int(str(caught.value).rsplit("set it to ", 1)[1].split()[0])
    assert make_plan(recipe(**keys, rollout__kv_cache_mib=least), EIGHT_CARDS).kv_tokens >= 4096


def test_zero_shards_what_its_stage_says():
    def parts(stage: int) -> dict[str, int]:
        keys = {"model": HUB_8B, "learner__ranks": 4, "learner__zero_stage": stage}
        plan = make_plan(recipe(**keys), EIGHT_CARDS)
        return dict(next(p.memory for p in plan.processes if p.name == "learner-0"))

    count = 8_767_123_696
    assert (parts(1)["weights"], parts(1)["gradients"], parts(1)["optimiser"]) == (2 * count, 6 * count, 3 * count)
    assert (parts(2)["weights"], parts(2)["gradients"]) == (2 * count, 6 * count // 4)
    assert parts(3)["weights"] == 2 * count // 4


def test_a_reference_policy_costs_a_copy_of_the_weights():
    def learner_bytes(kl: float) -> int:
        plan = make_plan(recipe(model=HUB_8B, learner__kl_coefficient=kl), EIGHT_CARDS)
        return next(p.memory_bytes for p in plan.processes if p.name == "learner-0")

    assert learner_bytes(0.01) - learner_bytes(0.0) == 2 * 8_767_123_696


def test_an_8b_run_on_eight_cards_has_a_card_each_and_fits():
    keys = {
        "model": HUB_8B,
        "rollout__workers": 4,
        "rollout__dtype": "bfloat16",
        "rollout__kv_cache_mib": 20_000,
        "learner__ranks": 4,
        "learner__zero_stage": 3,
        "learner__gradient_checkpointing": True,
    }
    plan = make_plan(recipe(**keys), EIGHT_CARDS)
    check_plan(plan)
    assert sorted(p.gpu for p in plan.processes if p.gpu is not None) == list(range(8))
    assert plan.learner_dtype == "bfloat16"
    assert "GPU 7" in shown(plan)


def test_one_card_is_shared_and_its_memory_counted_for_both():
    one_card = Machine(cores=tuple(range(16)), memory_bytes=128 * GIB, gpus=(CARD,))
    small = make_plan(recipe(model="Qwen/Qwen3-VL-2B-Instruct", rollout__dtype="bfloat16"), one_card)
    check_plan(small)
    assert {p.name for p in small.processes if p.gpu == 0} == {"rollout-0", "learner-0"}
    assert small.gpu_bytes(0) == sum(p.memory_bytes for p in small.processes if p.gpu == 0)
    large = make_plan(recipe(model=HUB_8B, rollout__dtype="bfloat16", rollout__kv_cache_mib=2048), one_card)
    with pytest.raises(ConfigError, match=r"of GPU 0;.*add GPUs and raise learner.ranks with learner.zero_stage=3"):
        check_plan(large)


def test_the_plan_is_readable():
    text = shown(make_plan(recipe(sft={"steps": 7}), LAPTOP))
    for words in ("1,223,552 parameters", "2 cores, 24.0 GiB, no GPU", "10 steps, 160 prompts", "7 steps of 32"):
        assert words in text
    assert "reward service" in text
    assert "reward service" not in shown(make_plan(recipe(reward__addresses=["http://rewards:8000"]), LAPTOP))


def test_cards_are_read_from_nvidia_smi():
    text = "NVIDIA H100 80GB HBM3, 81559\nNVIDIA GB10, [N/A]\n"
    assert parse_gpus(text) == (Gpu("NVIDIA H100 80GB HBM3", 81559 * 2**20),)
    assert parse_gpus("") == ()


def test_this_machine_has_cores_and_memory():
    machine = this_machine()
    assert len(machine.cores) >= 1
    assert machine.memory_bytes > GIB
