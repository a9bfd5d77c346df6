from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from orchestration.config import Recipe, load_recipe, nearest_key, to_toml
from schemas.errors import ConfigError

RECIPES = sorted(Path(__file__).parents[3].joinpath("recipes").glob("*.toml"))
DEMO = next(path for path in RECIPES if path.stem == "phantom-cpu")


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_loads_and_its_resolved_form_reads_back_equal(path: Path, tmp_path: Path) -> None:
    recipe = load_recipe(path, {})
    resolved = tmp_path / "config.toml"
    resolved.write_text(to_toml(recipe, ["made by a test"]))
    assert load_recipe(resolved, {}) == recipe


def test_every_recipe_is_named_after_its_file() -> None:
    assert RECIPES
    assert all(load_recipe(path, {}).name == path.stem for path in RECIPES)


def test_overrides_reach_every_level_and_keep_their_types() -> None:
    recipe = load_recipe(
        DEMO, {"steps": "3", "rollout.group_size": "4", "reward.weights.grounding.soft_f1": "0.5", "name": "my-run"}
    )
    assert (recipe.steps, recipe.rollout.group_size, recipe.name) == (3, 4, "my-run")
    assert recipe.reward.weights["grounding"]["soft_f1"] == 0.5


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("learner.learning_rte", "learner.learning_rate"),
        ("rolout.group_size", "rollout.group_size"),
        ("group_size", "rollout.group_size"),
        ("max_stalenes", "max_staleness"),
        ("learner.kl_coef", "learner.kl_coefficient"),
    ],
)
def test_an_unknown_key_names_the_nearest_known_one(key: str, nearest: str) -> None:
    assert nearest_key(key) == nearest
    with pytest.raises(ConfigError) as error:
        load_recipe(DEMO, {key: "1"})
    assert nearest in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("steps", "0", "greater than or equal to 1"),
        ("max_staleness", "-1", "greater than or equal to 0"),
        ("learner.clip_low", "1.5", "less than 1"),
        ("rollout.group_size", "1", "at least 2"),
        ("groups_per_step", "'many'", "integer"),
        ("learner.ranks", "3", "multiple of learner.ranks"),
        ("reward.weights.grounding.soft_f2", "1.0", "no such scorer"),
        ("data.tasks", "['report', 'classification']", "reward.weights.classification: is required"),
        ("learner.dtype", "bfloat16", "rollout.dtype: must be learner.dtype, bfloat16"),
        ("rollout.dtype", "float16", "float32"),
    ],
)
def test_a_value_out_of_range_is_one_line_with_field_rule_and_value(key: str, value: str, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_recipe(DEMO, {key: value})
    message = str(error.value)
    assert said in message
    assert "\n" not in message
    assert key.split(".")[0] in message or "recipe" in message


def test_paths_count_from_the_current_folder_and_are_kept_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my-model").mkdir()
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe(DEMO, {"model": "my-model", "data.path": "prompts", "reward.token_file": "token"})
    assert recipe.data.path == tmp_path / "prompts"
    assert recipe.model == str(tmp_path / "my-model")
    assert (recipe.runs_dir, recipe.assets_dir) == (str(tmp_path / "runs"), str(tmp_path / ".cache" / "overread"))
    assert recipe.reward.token_file == tmp_path / "token"
    (tmp_path / "config.toml").write_text(to_toml(recipe))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert load_recipe(tmp_path / "config.toml", {}) == recipe


@pytest.mark.parametrize("model", ["tiny", "Qwen/Qwen3-VL-8B-Instruct"])
def test_a_model_that_is_no_folder_keeps_its_name(model: str) -> None:
    assert load_recipe(DEMO, {"model": model}).model == model


def test_a_missing_key_says_how_to_give_it(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text('name = "x"\n[data]\npath = "d"\n[reward]\n')
    with pytest.raises(ConfigError, match="steps: is required"):
        load_recipe(path, {})


def test_a_missing_recipe_lists_those_that_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(DEMO.parents[1])
    with pytest.raises(ConfigError, match=r"phantom-cpu\.toml"):
        load_recipe(Path("recipes/none.toml"), {})


def test_broken_toml_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text("name = \n")
    with pytest.raises(ConfigError, match="line 1"):
        load_recipe(path, {})


def test_recipe_settings_stay_few() -> None:
    """About 80 keys in all (docs/development.md): a recipe is read by people."""

    def count(schema: type) -> int:
        total = 0
        for field in schema.model_fields.values():  # type: ignore[attr-defined]
            candidates = (field.annotation, *getattr(field.annotation, "__args__", ()))
            inner = [candidate for candidate in candidates if hasattr(candidate, "model_fields")]
            total += count(inner[0]) if inner else 1
        return total

    assert count(Recipe) <= 90
    assert tomllib.loads(to_toml(load_recipe(DEMO, {})))["name"] == "phantom-cpu"
