"""Lets torchvision be imported next to a torch that it was not compiled for (a CUDA torchvision beside a CPU torch).

Role: Qwen3-VL's processor imports torchvision, whose Python code registers kernels for ``torchvision::nms`` and
``torchvision::qnms``. Where the compiled half does not load, these operators do not exist and the import fails with
``operator torchvision::nms does not exist``. Defining their schemas is enough: nobody here calls them.
Input: the import of torchvision, in any process. ``overread_torchvision.pth`` loads this module at every interpreter
start, since vLLM's engine is a child process that no code of ours starts. Output: the missing schemas, nothing else.
Cost: no import but ``sys``; torch is looked at only once torchvision itself has imported it.

Pinned for: torch 2.13.0, torchvision 0.28.0.
Remove when: the torchvision that ``constraints/cpu.txt`` pins loads beside the torch that it pins. The test
``tests/unit/test_overread_torchvision.py`` then fails: delete this file, the ``.pth``, its lines in pyproject.toml
and that test.
"""

import sys

# Copied from torchvision/csrc/ops/nms.cpp and quantized/cpu/qnms_kernel.cpp.
SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
# torchvision/__init__.py imports torch, then .extension (which tries to load the compiled operators), then this one,
# which fails without them: its import is the first moment when we know that they are missing, and the last to act.
TRIGGER = "torchvision._meta_registrations"

defined: list[str] = []  # operators that this process had to define
_library: object = None  # torch removes the schemas with their Library object


def define_missing_operators() -> None:
    """Define the schemas that the installed torchvision could not load. torch is imported already."""
    global _library
    import torch

    missing = [name for name in SCHEMAS if not hasattr(torch.ops.torchvision, name)]
    if not missing:
        return
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in missing:
        library.define(SCHEMAS[name])
    _library = library
    defined.extend(missing)


class _Finder:
    """Finds nothing: it acts once, just before TRIGGER is imported, and leaves the finding to the others."""

    def find_spec(self, name: str, _path: object = None, _target: object = None) -> None:
        if name == TRIGGER:
            sys.meta_path.remove(self)
            define_missing_operators()


def install() -> None:
    """Hook into this process's imports, once."""
    if TRIGGER not in sys.modules and not any(type(finder).__name__ == "_Finder" for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
