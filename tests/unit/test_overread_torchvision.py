"""The torchvision shim reaches every process, costs nothing where torchvision is not used, and says when it can go."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def python(code: str, *options: str) -> str:
    """What a fresh interpreter of this environment prints, started outside the repository."""
    done = subprocess.run([sys.executable, *options, "-c", code], cwd="/", capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_every_process_gets_it_without_importing_torch() -> None:
    code = "import sys; print(type(sys.meta_path[0]).__module__, 'torch' in sys.modules, 'typing' in sys.modules)"
    assert python(code) == "overread_torchvision False False"


def test_torchvision_imports_in_a_process_that_knows_nothing_of_us() -> None:
    code = """
import torchvision, torch, sys
print(hasattr(torch.ops.torchvision, 'nms'), hasattr(torch.ops.torchvision, 'qnms'))
print(any(type(finder).__module__ == 'overread_torchvision' for finder in sys.meta_path))
"""
    assert python(code).split() == ["True", "True", "False"]


def test_it_leaves_operators_alone_that_are_there() -> None:
    code = """
import sys
sys.meta_path.pop(0)
import torch
library = torch.library.Library("torchvision", "FRAGMENT")
library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
import overread_torchvision
overread_torchvision.define_missing_operators()
print(*overread_torchvision.defined)
"""
    assert python(code) == "qnms"


def test_it_installs_itself_once() -> None:
    code = """
import sys, overread_torchvision
overread_torchvision.install()
print(sum(type(finder).__module__ == 'overread_torchvision' for finder in sys.meta_path))
"""
    assert python(code) == "1"


def test_it_is_still_needed_by_the_pinned_versions() -> None:
    pins = dict(re.findall(r"^(torch|torchvision)==(\S+)$", (ROOT / "constraints" / "cpu.txt").read_text(), re.M))
    installed = {name: version(name) for name in pins}
    if installed != pins:
        pytest.skip(f"this environment has other versions than the pinned ones: {installed}")
    code = "import torchvision, overread_torchvision; print(*overread_torchvision.defined)"
    assert python(code) == "nms qnms", "the pinned torchvision loads by itself: remove overread_torchvision.py"
