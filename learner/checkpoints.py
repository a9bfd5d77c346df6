"""Checkpoints and exports of the learner's part.

Input: the DeepSpeed engine. Output: a folder that resumes bit for bit, or a Hugging Face folder.
A checkpoint's caller renames the folder when every part is in it; here the bytes reach the disk.
"""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from learner.policy import Policy
from learner.weight_sender import whole_state
from schemas.errors import DataError, LearnerError

TAG = "deepspeed"  # the sub-folder's name
WEIGHT_FILES = ("*.safetensors", "*.safetensors.index.json", "*.bin", "*.bin.index.json", "config.json")


def save(engine: Any, folder: Path, rank: int, updates_done: int) -> None:
    """Collective: parameters, optimiser, update counter and every rank's random states, written and fsynced."""
    folder.mkdir(parents=True, exist_ok=True)
    engine.save_checkpoint(str(folder), tag=TAG, client_state={"updates_done": updates_done}, save_latest=False)
    torch.save(_random_states(), folder / f"random-rank-{rank}.pt")
    torch.distributed.barrier()
    for path in [folder, *folder.rglob("*")]:
        _fsync(path)
    torch.distributed.barrier()


def load(engine: Any, folder: Path, rank: int) -> int:
    """Collective: the inverse of ``save``; returns the update counter.

    Raises LearnerError where the folder holds no checkpoint for this number of ranks.
    """
    states = folder / f"random-rank-{rank}.pt"
    saved_ranks = len(list(folder.glob("random-rank-*.pt")))
    if not states.is_file() or saved_ranks != torch.distributed.get_world_size():
        raise LearnerError(
            f"{folder}: a checkpoint of {saved_ranks} learner ranks, this run has "
            f"{torch.distributed.get_world_size()}; resume with the same number"
        )
    loaded, client_state = engine.load_checkpoint(str(folder), tag=TAG)
    if loaded is None:
        raise LearnerError(f"{folder}: no learner checkpoint in it")
    _restore_random_states(torch.load(states, weights_only=False))  # our own file, made by ``save``
    return int(client_state["updates_done"])


def export(policy: Policy, folder: Path, model_path: str, rank: int) -> None:
    """Collective: a Hugging Face folder; weights and config from the policy, every other file copied from the source.

    Written beside ``folder`` and renamed. Raises DataError where ``folder`` exists.
    """
    if folder.exists():
        raise DataError("export folder", "must not exist yet", folder, "choose another name or remove it")
    state = whole_state(policy, rank)
    if rank == 0:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            policy.model.save_pretrained(partial, state_dict=state)
            _copy_other_files(_source_folder(model_path), partial)
            for path in [*partial.rglob("*"), partial]:
                _fsync(path)
            partial.chmod(0o755)  # mkdtemp's 0700 is for secrets; a caller's private folder stays private above it
            partial.rename(folder)
            _fsync(folder.parent)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    torch.distributed.barrier()


def _source_folder(model_path: str) -> Path:
    if Path(model_path).is_dir():
        return Path(model_path)
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(model_path, local_files_only=True))


def _copy_other_files(source: Path, target: Path) -> None:
    for path in sorted(source.iterdir()):
        if path.is_file() and not path.name.startswith(".") and not any(path.match(p) for p in WEIGHT_FILES):
            shutil.copyfile(path, target / path.name)


def _random_states() -> dict[str, Any]:
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def _restore_random_states(states: dict[str, Any]) -> None:
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])
    torch.set_rng_state(states["torch"])
    if states["cuda"]:
        torch.cuda.set_rng_state_all(states["cuda"])


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
