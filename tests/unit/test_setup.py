"""The set-up refuses a machine that can't work, and takes packages from where pip is told to take them."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
GOOD_CPU = "flags\t\t: fpu fma avx2\n"
PIP_CONFIG = r"""
:env:.find-links='/srv/wheels'
global.find-links='/srv/wheels /srv/more'
global.index-url='https://mirror.example/simple'
global.extra-index-url='https://one.example/simple\nhttps://two.example/simple'
global.cert='/etc/ssl/ca.crt'
global.constraint='/etc/pip/constraints.txt'
install.trusted-host='mirror.example'
"""


@pytest.fixture
def setup(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("overread_setup", ROOT / "scripts" / "setup.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "_cpuinfo", lambda: GOOD_CPU)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: SimpleNamespace(free=100e9))
    return module


def test_a_good_machine_has_no_problem(setup: ModuleType) -> None:
    assert list(setup.problems("cpu")) == []


@pytest.mark.parametrize(
    ("attribute", "value", "words"),
    [
        ("_cpuinfo", lambda: "flags\t\t: fpu avx\n", "this CPU lacks avx2 and fma"),
        ("PYTHONS", ((3, 99),), "needs Python 3.11 or 3.12"),
        ("DISK_GB", {"cpu": 200}, "needs 200 GB of free disk"),
        ("platform", SimpleNamespace(machine=lambda: "aarch64"), "needs Linux on x86-64, this is linux on aarch64"),
    ],
)
def test_each_problem_is_one_line_with_its_remedy(
    setup: ModuleType, monkeypatch: pytest.MonkeyPatch, attribute: str, value: Any, words: str
) -> None:
    if attribute == "PYTHONS":
        monkeypatch.setattr(setup, "platform", SimpleNamespace(machine=lambda: "x86_64", python_version=lambda: "3.9"))
    monkeypatch.setattr(setup, attribute, value)
    (problem,) = setup.problems("cpu")
    assert words in problem
    assert ": " in problem
    assert "\n" not in problem


def fake_pip(tmp_path: Path) -> list[str]:
    script = tmp_path / "pip.py"
    script.write_text(f"print({PIP_CONFIG!r})")
    return [sys.executable, str(script)]


def test_pips_own_sources_are_passed_on(setup: ModuleType, tmp_path: Path) -> None:
    options = setup.index_options(setup.pip_settings(fake_pip(tmp_path)))
    pairs = list(zip(options[::2], options[1::2], strict=True))
    assert pairs == [
        ("--index-strategy", "unsafe-best-match"),
        ("--default-index", "https://mirror.example/simple"),
        ("--index", "https://one.example/simple"),
        ("--index", "https://two.example/simple"),
        ("--find-links", "/srv/wheels"),
        ("--find-links", "/srv/more"),
        ("--allow-insecure-host", "mirror.example"),
    ]


@pytest.mark.parametrize(
    ("device", "found", "asked"), [("cpu", True, False), ("cpu", False, True), ("gpu", False, False)]
)
def test_pytorchs_own_index_is_asked_only_if_no_configured_one_has_the_cpu_torch(
    setup: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, device: str, found: bool, asked: bool
) -> None:
    commands: list[list[str]] = []
    monkeypatch.setattr(setup, "run", lambda command, **_: commands.append(command))
    monkeypatch.setattr(setup, "pip_settings", lambda _: {})
    probe = SimpleNamespace(returncode=0 if found else 1)
    monkeypatch.setattr(setup, "subprocess", SimpleNamespace(run=lambda *_, **__: probe))
    setup.install(tmp_path / "venv", device)
    assert [command[1:3] for command in commands] == [["-m", "venv"], ["-m", "pip"], ["pip", "install"]]
    last = commands[-1]
    assert (setup.PYTORCH_CPU_INDEX in last) is asked
    assert last[-2:] == ["--editable", f"{ROOT}[rollout,learner,rewards,clinical,dev,{device}]"]
    assert str(ROOT / "constraints" / f"{device}.txt") in last


def test_a_failing_installer_ends_the_setup_with_one_line(setup: ModuleType) -> None:
    with pytest.raises(SystemExit, match="failed with status 3"):
        setup.run([sys.executable, "-c", "raise SystemExit(3)"])


def test_every_make_target_is_listed_with_what_it_does() -> None:
    listed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    targets = {line.split()[0] for line in listed.splitlines()}
    assert {"setup", "demo", "test", "test-slow", "check", "bench", "clean", "help"} <= targets
