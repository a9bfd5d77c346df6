"""Makes the virtual environment: checks the machine, installs everything at the versions in constraints/.

Role: what ``make setup`` runs; needs nothing but Python's standard library.
Input: the machine, pip's own configuration (indexes, find-links).
Output: ``.venv``, or one line a problem that says what is wrong and what to do.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EXTRAS = "rollout,learner,rewards,clinical,dev"
PYTHONS = ((3, 11), (3, 12))
DISK_GB = {"cpu": 8, "gpu": 20}  # environment and download cache
# vLLM's CPU wheel has kernels for AVX2 and for AVX-512 and takes the better one itself; torch's need FMA as well.
CPU_FLAGS = ("avx2", "fma")
PYTORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"


def problems(device: str) -> Iterator[str]:
    """What keeps this machine from running Overread, one line each."""
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        yield f"needs Linux on x86-64, this is {sys.platform} on {platform.machine()}: use such a machine or container"
        return
    if sys.version_info[:2] not in PYTHONS:
        yield f"needs Python 3.11 or 3.12, this is {platform.python_version()}: make setup PYTHON=/path/to/python3.11"
    flags = set(re.findall(r"\S+", next(iter(re.findall(r"^flags\s*:(.*)$", _cpuinfo(), re.M)), "")))
    missing = [flag for flag in CPU_FLAGS if flag not in flags]
    if missing:
        yield f"this CPU lacks {' and '.join(missing)}, which vLLM and torch need: use a CPU made after 2014"
    free_gb = shutil.disk_usage(ROOT).free / 1e9
    if free_gb < DISK_GB[device]:
        yield f"needs {DISK_GB[device]} GB of free disk at {ROOT}, has {free_gb:.1f} GB: free some"


def _cpuinfo() -> str:
    return Path("/proc/cpuinfo").read_text()


def pip_settings(pip: list[str]) -> dict[str, list[str]]:
    """pip's configured indexes and find-links (files and environment): uv reads none of them."""
    lines = subprocess.run([*pip, "config", "list"], capture_output=True, text=True, check=True).stdout.splitlines()
    settings: dict[str, list[str]] = {}
    for line in lines:
        key, _, quoted = line.partition("=")
        values = quoted.strip("'\"").replace("\\n", " ").split()
        # global.find-links, install.find-links and :env:.find-links add up.
        settings.setdefault(key.rpartition(".")[2], []).extend(values)
    return {name: list(dict.fromkeys(values)) for name, values in settings.items()}


def index_options(settings: dict[str, list[str]]) -> list[str]:
    """The same sources for uv; all of them count as equal, as they do for pip."""
    options = ["--index-strategy", "unsafe-best-match"]
    for url in settings.get("index-url", [])[-1:]:
        options += ["--default-index", url]
    for url in settings.get("extra-index-url", []):
        options += ["--index", url]
    for place in settings.get("find-links", []):
        options += ["--find-links", place]
    for host in settings.get("trusted-host", []):
        options += ["--allow-insecure-host", host]
    return options


def pin(constraints: Path, package: str) -> str:
    """The line of ``package`` in a constraints file."""
    return next(line for line in constraints.read_text().splitlines() if line.startswith(f"{package}=="))


def run(command: list[str], **environment: str) -> None:
    """Run, with its output shown; a failure ends the set-up with the command's own message above ours."""
    status = subprocess.run(command, env={**os.environ, **environment}, check=False).returncode
    if status != 0:
        sys.exit(f"setup: `{' '.join(command[:4])} ...` failed with status {status}; its message is above")


def install(venv: Path, device: str) -> None:
    """Create ``venv`` if it is missing and install the project into it, editable."""
    python = str(venv / "bin" / "python")
    if not Path(python).exists():
        run([sys.executable, "-m", "venv", str(venv)])
    constraints = ROOT / "constraints" / f"{device}.txt"
    pip = [python, "-m", "pip"]
    run([*pip, "install", "--quiet", "--disable-pip-version-check", pin(constraints, "uv")])
    settings = pip_settings(pip)
    environment = {"SSL_CERT_FILE": settings["cert"][-1]} if "cert" in settings else {}
    uv = [str(venv / "bin" / "uv"), "pip", "install", "--python", python, *index_options(settings)]
    if device == "cpu":
        torch = pin(constraints, "torch")
        probe = [*uv, "--dry-run", "--no-deps", "--quiet", torch]
        if subprocess.run(probe, env={**os.environ, **environment}, capture_output=True, check=False).returncode != 0:
            print(f"setup: {torch} is not on the configured package indexes, taking it from {PYTORCH_CPU_INDEX}")
            uv += ["--index", PYTORCH_CPU_INDEX]
    excluded = ROOT / "constraints" / "excluded.txt"
    project = f"{ROOT}[{EXTRAS},{device}]"
    run([*uv, "--constraints", str(constraints), "--excludes", str(excluded), "--editable", project], **environment)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv", help="where the environment lies")
    parser.add_argument("--device", choices=sorted(DISK_GB), default="cpu", help="which builds of torch and vLLM")
    arguments = parser.parse_args()
    started = time.monotonic()
    if found := list(problems(arguments.device)):
        sys.exit("\n".join(f"setup: {problem}" for problem in found))
    install(arguments.venv, arguments.device)
    print(f"setup: {arguments.venv} is ready after {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
