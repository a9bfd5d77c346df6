"""Weights: where the published files of a clinical model are, and the models that this process has loaded.

Role: what all clinical models share; never touches the network. Batches of texts are beside it, in batches.py.
Input: a model's name, its ModelSettings, the repository and files it was published as. Output: paths; loaded models.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from rewards.resources import ModelSettings, NotReadyError, Resources

if TYPE_CHECKING:
    import torch

M = TypeVar("M")


def find_files(model: str, settings: ModelSettings, repo_id: str, files: Sequence[str]) -> dict[str, Path]:
    """Where each file is: in the model's folder if one is set, else in the local Hugging Face cache.

    Args:
        model: the model's name in the settings, e.g. chexbert.
        repo_id: the Hugging Face repository that publishes the files.
        files: their names in it.

    Raises:
        NotReadyError: a file is missing. Nothing is ever downloaded: a service that starts must not hang on a hub.
    """
    if settings.folder is not None:
        place = f"the folder {settings.folder} (reward.models.{model}.folder)"
        found = {name: _in_folder(settings.folder.expanduser(), name) for name in files}
        remedy = f"`hf download {repo_id} {{}} --local-dir {settings.folder}`"
    else:
        from huggingface_hub import constants

        place = f"the Hugging Face cache {constants.HF_HUB_CACHE}"
        found = {name: _in_cache(repo_id, name) for name in files}
        remedy = f"`hf download {repo_id} {{}}`, or set reward.models.{model}.folder to a folder that has it"
    missing = [name for name, path in found.items() if path is None]
    if missing:
        raise NotReadyError(f"{model}: no {', '.join(missing)} in {place}; {remedy.format(' '.join(missing))}")
    return {name: path for name, path in found.items() if path is not None}


def _in_folder(folder: Path, name: str) -> Path | None:
    path = folder / name
    return path if path.is_file() else None


def _in_cache(repo_id: str, name: str) -> Path | None:
    from huggingface_hub import constants, try_to_load_from_cache

    path = try_to_load_from_cache(repo_id, name, cache_dir=constants.HF_HUB_CACHE)
    return Path(path) if isinstance(path, str) else None


def device_of(model: str, settings: ModelSettings) -> str:
    """The torch device of a model: ``auto`` is the first GPU, or the CPU where there is none.

    Raises:
        NotReadyError: the settings ask for a GPU that is not there.
    """
    import torch

    if settings.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=settings.device)
    # torch says it with different exceptions: a name it does not know, no driver, not compiled with CUDA.
    except (RuntimeError, AssertionError) as error:
        raise NotReadyError(
            f"{model}: the device {settings.device} can't be used here; set reward.models.{model}.device to auto or cpu"
        ) from error
    return settings.device


def every(*steps: Callable[[], M]) -> list[M]:
    """What each step returns; the steps that are not ready are named together, so that a user mends all at once.

    Raises:
        NotReadyError: at least one step raised it.
    """
    results: list[M] = []
    remedies: dict[str, None] = {}
    for step in steps:
        try:
            results.append(step())
        except NotReadyError as error:
            remedies[error.remedy] = None
    if remedies:
        raise NotReadyError("; also ".join(remedies))
    return results


def fill(
    model: str, network: torch.nn.Module, state: Mapping[str, torch.Tensor], source: Path, unused: tuple[str, ...]
) -> None:
    """Gives a network its weights.

    Args:
        source: the file that they come from.
        unused: how the names of weights begin that the file has and the network does not need.

    Raises:
        NotReadyError: the file does not have what the network needs: it is another model's, or broken.
    """
    wanted = {name: tensor for name, tensor in state.items() if not name.startswith(unused)}
    try:
        network.load_state_dict(wanted)
    except RuntimeError as error:  # missing, surplus or misshapen weights; the message names hundreds of them
        raise not_published(model, source) from error


def not_published(model: str, source: Path) -> NotReadyError:
    """The error for a file that is there and is not what its name says."""
    return NotReadyError(
        f"{model}: {source} does not have the published weights, or config.json is another model's; download both again"
    )


# This process's own, so that scorers that need the same model share it.
_LOADED: dict[str, tuple[ModelSettings, Any]] = {}


def loaded(name: str, resources: Resources, loader: Callable[[ModelSettings], M]) -> M:
    """The model of that name, loaded by the first scorer that asks; other settings load it anew.

    For a scorer's ``load``; its ``score`` gets the same model from ``in_use``.
    """
    settings = resources.model(name)
    if name not in _LOADED or _LOADED[name][0] != settings:
        _LOADED[name] = (settings, loader(settings))
    model: M = _LOADED[name][1]
    return model


def in_use(name: str, kind: type[M]) -> M:
    """The model that ``loaded`` has loaded. Raises LookupError where nobody has."""
    if name not in _LOADED:
        raise LookupError(f"{name} is not loaded: a scorer's load comes before its score")
    model = _LOADED[name][1]
    assert isinstance(model, kind)
    return model
