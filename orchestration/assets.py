"""What a recipe makes once and reuses: phantoms, the tiny model, the warm start.

Role: start any recipe on a fresh clone. Each asset lies in a folder whose name says what made it; made anew only when
it is missing. Input: a recipe. Output: the folder of prompts and the folder of the policy to start RL from.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from orchestration.config import TINY_MODEL, Recipe
from prompts.phantoms import corpus, write_phantoms
from schemas.errors import DataError, OverreadError

Note = Callable[[str], None]
MODEL_TYPE = "qwen3_vl"
_TINY_MODEL_VERSION = 1  # raise it when learner/tiny_model.py makes something else from the same arguments


def _in_own_process(function: Callable[..., None], *arguments: object) -> None:
    """Run ``function`` in a fresh process: it imports torch, and the driver stays small (promise 8)."""
    process = get_context("spawn").Process(target=function, args=arguments)
    process.start()
    process.join()
    if process.exitcode:
        raise OverreadError(f"{function.__name__} ended with status {process.exitcode}; its error is printed above")


def make_tiny_model(out: Path, seed: int) -> None:
    """Build the tiny Qwen3-VL with the phantoms' vocabulary, in a process of its own."""
    _in_own_process(_build_tiny_model, out, seed)


def _build_tiny_model(out: Path, seed: int) -> None:
    from learner.tiny_model import build_tiny_model

    try:
        build_tiny_model(out, corpus(), seed)
    except OverreadError as error:
        sys.exit(str(error))


def ensure_data(recipe: Recipe, note: Note) -> Path:
    """The folder or file of the recipe's prompts; phantoms are made if the recipe says so and nothing is there.

    Raises:
        DataError: nothing is there, and the recipe makes nothing.
    """
    path = recipe.data.path
    if path.exists():
        return path
    if recipe.data.phantom_count == 0:
        remedy = "convert your data first: overread data convert jsonl SRC OUT, or set data.phantom_count"
        raise DataError("data.path", "must exist", path, remedy)
    note(f"making {recipe.data.phantom_count} phantom films in {path}")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_phantoms(path, recipe.data.phantom_count, recipe.data.phantom_seed)
    return path


def ensure_model(recipe: Recipe, note: Note) -> Path:
    """The folder of the recipe's model before any warm start.

    Raises:
        DataError: it is no folder and not in the Hugging Face cache, or is no Qwen3-VL.
    """
    if recipe.model == TINY_MODEL:
        folder = Path(recipe.assets_dir) / f"tiny-model-{_TINY_MODEL_VERSION}-{recipe.seed}"
        if not folder.exists():
            note(f"building the tiny Qwen3-VL in {folder}")
            folder.parent.mkdir(parents=True, exist_ok=True)
            make_tiny_model(folder, recipe.seed)
        return folder
    folder = find_model(recipe.model)
    check_qwen3_vl(folder)
    return folder


def find_model(name: str) -> Path:
    """A local folder, or a model that lies in the Hugging Face cache; nothing is downloaded.

    Raises:
        DataError: it is neither.
    """
    folder = Path(name)
    if folder.is_dir():
        return folder
    if not name.startswith((".", "/", "~")) and name.count("/") == 1:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError

        try:
            return Path(snapshot_download(name, local_files_only=True))
        except LocalEntryNotFoundError as error:
            remedy = f"download it first: hf download {name}"
            raise DataError("model", "must be a folder, or in the Hugging Face cache", name, remedy) from error
    raise DataError(
        "model", "must be a folder, or a hub name such as Qwen/Qwen3-VL-8B-Instruct", name, "check the path"
    )


def check_qwen3_vl(folder: Path) -> None:
    """Raises DataError unless the folder's config.json is a Qwen3-VL's."""
    config = folder / "config.json"
    try:
        model_type = json.loads(config.read_text(encoding="utf-8")).get("model_type")
    except (OSError, ValueError, AttributeError) as error:
        raise DataError(
            str(config), "must be a model's config.json", type(error).__name__, "check the model's folder"
        ) from error
    if model_type != MODEL_TYPE:
        remedy = "choose a Qwen3-VL, such as Qwen/Qwen3-VL-8B-Instruct"
        raise DataError("model", f"must be of model_type {MODEL_TYPE}", model_type, remedy)


def warm_start_folder(recipe: Recipe, base_model: Path) -> Path:
    """Where the warm start of this recipe lies: the name follows from everything that it depends on."""
    assert recipe.sft is not None
    config = json.loads((base_model / "config.json").read_text(encoding="utf-8"))
    made_of: dict[str, Any] = {
        "sft": recipe.sft.model_dump(mode="json"),
        "data": recipe.data.model_dump(mode="json", include={"path", "phantom_count", "phantom_seed", "tasks"}),
        "model": recipe.model,
        "config": config,
        "seed": recipe.seed,
        "dtype": recipe.learner.dtype,
        "weight_decay": recipe.learner.weight_decay,
        "gradient_clip": recipe.learner.gradient_clip,
    }
    digest = hashlib.blake2b(json.dumps(made_of, sort_keys=True).encode(), digest_size=6).hexdigest()
    return Path(recipe.assets_dir) / f"warm-start-{digest}"


def find_checkpoint(name: Path) -> Path:
    """The Hugging Face folder behind a run folder, a checkpoint, a model folder or a cached hub name.

    Raises:
        DataError: there is none, or it is no Qwen3-VL.
    """
    folder = model_of(name) if name.exists() else find_model(str(name))
    check_qwen3_vl(folder)
    return folder


def model_of(path: Path) -> Path:
    """The Hugging Face folder of a run's last checkpoint, of a checkpoint, or ``path`` itself if it is one.

    Raises:
        DataError: there is none.
    """
    checkpoints = sorted((path / "checkpoints").glob("step-*/model"))
    candidates = [path, path / "model", *reversed(checkpoints)]
    found = next((folder for folder in candidates if (folder / "config.json").is_file()), None)
    if found is None:
        raise DataError("CHECKPOINT", "must be a model folder, a checkpoint or a run folder", path, "check the path")
    return found
