"""One description of a run (promise 13): recipe file + overrides -> one resolved Recipe.

Role: composes the rooms' settings models; the only place that reads a recipe.
Input: a TOML file and ``--section.key=value`` overrides. Output: a Recipe, or one line that says what is wrong.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast, get_args

import tomli_w
from pydantic import BaseModel, Field, ValidationError, model_validator

from learner.settings import LearnerSettings, SftSettings
from prompts.settings import DataSettings
from rewards.settings import RewardServiceSettings
from rollout.settings import RolloutSettings
from schemas.base import Settings
from schemas.errors import ConfigError

TINY_MODEL = "tiny"


class EvaluationSettings(Settings):
    """Held-out evaluation before and after training (and between, if ``every`` says so)."""

    split: Literal["validation", "test"] = Field(
        default="test",
        description="held-out split whose prompts are generated greedily and scored: validation or test",
    )
    prompts_per_task: int = Field(
        default=200,
        ge=0,
        description="prompts of each task, seeded choice; 0 = no evaluation; more narrows the intervals",
    )
    every: int = Field(
        default=0, ge=0, description="steps between evaluations during training; 0 = before and after only"
    )


class BoundSettings(Settings):
    """Figures that the run is meant to keep: measured by the run, printed at its end. Left out = not looked at."""

    minutes: float | None = Field(
        default=None, gt=0, description="minutes from start to end, with installation if timed"
    )
    logprob_gap: float | None = Field(
        default=None, gt=0, description="nats; largest gap between engine and learner on tokens of the current version"
    )
    push_s: float | None = Field(default=None, gt=0, description="seconds of the longest weight push")
    driver_mib: float | None = Field(
        default=None, gt=0, description="MiB of memory that the driver may take at its peak"
    )
    gains: dict[str, float] = Field(
        default={},
        description="held-out metric -> least change from before to after; above 0 its interval must be so too",
    )


class Recipe(Settings):
    """A whole run."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="of the run; its folder is runs_dir/name, then name-2, ..."
    )
    runs_dir: str = Field(default="runs", description="folder that holds the run folders")
    assets_dir: str = Field(
        default=".cache/overread",
        description="folder for what recipes make once and reuse: phantoms, tiny model, warm start",
    )
    seed: int = Field(default=0, ge=0, description="of prompt order, sampling, initialisation and bootstrap")
    model: str = Field(
        default=TINY_MODEL,
        min_length=1,
        description="policy to start from: a Qwen3-VL's folder or cached hub name; `tiny` makes the tiny one",
    )
    steps: int = Field(ge=1, description="training steps; each ends in one weight push")
    groups_per_step: int = Field(default=16, ge=1, description="prompts that one step trains on")
    max_staleness: int = Field(
        default=1, ge=0, description="policy versions a token may be behind the learner; 0 = synchronous, on-policy"
    )
    checkpoint_every: int = Field(default=50, ge=1, description="steps between checkpoints")
    keep_checkpoints: int = Field(default=2, ge=1, description="newest checkpoints kept")
    data: DataSettings
    sft: SftSettings | None = Field(
        default=None, description="warm start before RL; without the section RL starts from `model` as it is"
    )
    rollout: RolloutSettings = Field(default_factory=RolloutSettings)
    reward: RewardServiceSettings
    learner: LearnerSettings = Field(default_factory=LearnerSettings)
    evaluation: EvaluationSettings = Field(default_factory=EvaluationSettings)
    bounds: BoundSettings = Field(default_factory=BoundSettings)

    @model_validator(mode="after")
    def _ranks_share_the_groups(self) -> Recipe:
        parts = self.learner.ranks * self.learner.updates_per_step
        if self.groups_per_step % parts:
            raise ValueError(
                f"groups_per_step ({self.groups_per_step}) must be a multiple of learner.ranks x"
                f" learner.updates_per_step ({parts})"
            )
        return self

    @model_validator(mode="after")
    def _groups_have_siblings(self) -> Recipe:
        if self.rollout.group_size < 2:
            raise ValueError("rollout.group_size must be at least 2: an advantage compares completions of one prompt")
        return self

    @model_validator(mode="after")
    def _every_task_has_a_reward(self) -> Recipe:
        for task in self.data.tasks:
            if task not in self.reward.weights:
                raise ConfigError(
                    f"reward.weights.{task}",
                    f"is required: data.tasks names {task}",
                    "nothing",
                    f"add [reward.weights.{task}], or leave {task} out of data.tasks",
                )
        return self

    @model_validator(mode="after")
    def _engines_serve_what_the_learner_pushes(self) -> Recipe:
        # What "auto" means depends on the machine: orchestration/plan.py looks at that.
        if self.learner.dtype not in ("auto", self.rollout.dtype):
            raise ConfigError(
                "rollout.dtype", f"must be learner.dtype, {self.learner.dtype}", self.rollout.dtype, "set one of them"
            )
        return self


def load_recipe(path: Path, overrides: Mapping[str, str]) -> Recipe:
    """Read a recipe and apply overrides such as ``{"rollout.group_size": "4"}``.

    Relative paths count from the current folder and come back absolute: ``train --resume`` may be called from another
    folder, and actors have other ones.

    Raises:
        ConfigError: no such file, not TOML, an unknown key, or a value out of range. One line.
    """
    if not path.is_file():
        near = sorted(str(p) for p in Path("recipes").glob("*.toml"))
        raise ConfigError(
            "recipe", "must be a TOML file", path, f"choose one of: {', '.join(near) or 'recipes/*.toml'}"
        )
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError("recipe", f"must be valid TOML ({error})", path, "mend that line") from error
    for key, text in overrides.items():
        _set(tree, key, _parse_value(text))
    return _with_absolute_paths(validate_recipe(tree))


def _with_absolute_paths(recipe: Recipe) -> Recipe:
    paths: dict[str, object] = {
        "runs_dir": str(Path(recipe.runs_dir).absolute()),
        "assets_dir": str(Path(recipe.assets_dir).absolute()),
        "data": recipe.data.model_copy(update={"path": recipe.data.path.absolute()}),
    }
    if recipe.model != TINY_MODEL and Path(recipe.model).is_dir():  # else it is a hub name
        paths["model"] = str(Path(recipe.model).absolute())
    if recipe.reward.token_file is not None:
        paths["reward"] = recipe.reward.model_copy(update={"token_file": recipe.reward.token_file.absolute()})
    return recipe.model_copy(update=paths)


def validate_recipe(tree: Mapping[str, Any]) -> Recipe:
    """A tree of tables as a Recipe. Raises ConfigError with the first thing that is wrong."""
    _refuse_unknown(tree, Recipe, "")
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        raise _first_problem(error) from error


def _parse_value(text: str) -> object:
    # An override's value is TOML where it can be (numbers, booleans, lists), else a plain string.
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _set(tree: dict[str, Any], dotted: str, value: object) -> None:
    *sections, last = dotted.split(".")
    for section in sections:
        branch = tree.setdefault(section, {})
        if not isinstance(branch, dict):
            raise ConfigError(dotted, f"{section} is a value, not a section", value, f"set {section} itself")
        tree = cast("dict[str, Any]", branch)
    tree[last] = value


def _section_model(annotation: object) -> type[BaseModel] | None:
    candidates = (annotation, *get_args(annotation))
    return next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)


def _all_keys(model: type[BaseModel], prefix: str = "") -> list[str]:
    keys: list[str] = []
    for name, field in model.model_fields.items():
        section = _section_model(field.annotation)
        keys += _all_keys(section, f"{prefix}{name}.") if section else [f"{prefix}{name}"]
    return keys


def _refuse_unknown(tree: Mapping[str, Any], model: type[BaseModel], prefix: str) -> None:
    for name, value in tree.items():
        if name not in model.model_fields:
            full = f"{prefix}{name}"
            while isinstance(value, Mapping) and value:  # of an unknown section its first key says more
                first, value = next(iter(cast("Mapping[str, Any]", value).items()))
                full = f"{full}.{first}"
            remedy = f"the nearest known key is {nearest_key(full)}"
            raise ConfigError(full, "unknown recipe key", _shown(value), remedy)
        section = _section_model(model.model_fields[name].annotation)
        if section is not None and isinstance(value, Mapping):
            _refuse_unknown(cast("Mapping[str, Any]", value), section, f"{prefix}{name}.")


def nearest_key(key: str) -> str:
    """The known recipe key that is most like ``key``, by its last part first."""
    known = _all_keys(Recipe)
    last = key.rsplit(".", 1)[-1]
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.75)
    if close:
        return close[0]
    return max(known, key=lambda k: difflib.SequenceMatcher(None, last, k.rsplit(".", 1)[-1]).ratio())


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _first_problem(error: ValidationError) -> ConfigError:
    problem = error.errors(include_url=False)[0]
    field = ".".join(str(part) for part in problem["loc"]) or "recipe"
    rule = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "missing":
        return ConfigError(field, "is required", "nothing", f"add it to the recipe or pass --{field}=...")
    given = "the whole section" if isinstance(problem["input"], Mapping) else _shown(problem["input"])
    return ConfigError(field, rule, given, "see docs/recipes.md for its range")


def to_toml(recipe: Recipe, header: Sequence[str] = ()) -> str:
    """The resolved recipe as TOML that ``load_recipe`` reads back to an equal Recipe.

    Args:
        header: comment lines: versions, git commit, command.
    """
    comments = "".join(f"# {line}\n" for line in header)
    return comments + tomli_w.dumps(recipe.model_dump(mode="json", exclude_none=True))
