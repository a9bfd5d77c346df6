"""Each room imports alone: without the other rooms, and without the third parties that are not its business."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = frozenset({"schemas", "prompts", "rollout", "rewards", "learner", "orchestration"})
HEAVY = frozenset({"torch", "transformers", "vllm", "deepspeed", "ray"})

# What each room's every file must be able to live without.
FORBIDDEN = {
    "schemas": HEAVY | {"fastapi", "httpx", "PIL", "scipy", "rich", "typer"},
    "prompts": HEAVY | {"fastapi", "scipy"},
    "rewards": HEAVY,
    "learner": {"vllm", "ray", "fastapi"},
    "rollout": {"deepspeed", "ray"},  # vLLM itself imports fastapi; that we don't is an import contract
    # The driver: it moves references and numbers (promise 8), so it needs neither a model nor a tensor.
    "orchestration": HEAVY - {"ray"} | {"fastapi"},
}
MAY_IMPORT = {"schemas": {"schemas"}, "orchestration": ROOMS} | {
    room: {room, "schemas"} for room in ("prompts", "rewards", "learner", "rollout")
}

# Neural networks of our own: their classes need torch, so only a scorer's load imports them (extra: clinical).
NETWORKS = {"rewards.clinical.radgraph_model"}

IMPORT_ALL = """
import importlib, pkgutil, sys

room, blocked, only, left_out = {room!r}, {blocked!r}, {only!r}, {left_out!r}

class Wall:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in blocked:
            raise ImportError(name + " is blocked for " + room)

sys.meta_path.insert(0, Wall())
package = importlib.import_module(room)
for module in pkgutil.walk_packages(package.__path__, room + "."):
    if only in ("", module.name) and module.name not in left_out:
        importlib.import_module(module.name)
        print(module.name)
"""


def imported(room: str, blocked: frozenset[str] | set[str], only: str = "") -> list[str]:
    """The modules of a room that a fresh interpreter imports behind a wall; fails with the first that needs more."""
    code = IMPORT_ALL.format(room=room, blocked=sorted(blocked), only=only, left_out=sorted(NETWORKS - {only}))
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.split()


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_a_room_imports_without_the_other_rooms_and_their_packages(room: str) -> None:
    modules = imported(room, (ROOMS - MAY_IMPORT[room]) | FORBIDDEN[room])
    assert len(modules) >= len(list((ROOT / room).glob("[a-z]*.py")))


@pytest.mark.parametrize("module", sorted(NETWORKS))
def test_a_network_needs_torch_and_nothing_else_that_is_heavy(module: str) -> None:
    room = module.partition(".")[0]
    assert imported(room, (ROOMS - MAY_IMPORT[room]) | HEAVY - {"torch"}, only=module) == [module]


@pytest.mark.parametrize("room", sorted(ROOMS - {"schemas", "orchestration"}))
def test_a_rooms_settings_are_cheap(room: str) -> None:
    wall = (ROOMS - MAY_IMPORT[room]) | HEAVY | {"fastapi", "pyarrow", "PIL", "httpx"}
    assert imported(room, wall, only=f"{room}.settings") == [f"{room}.settings"]


def test_the_wall_stops_a_forbidden_import() -> None:
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL.format(room="schemas", blocked=["pyarrow"], only="", left_out=[])],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "pyarrow is blocked for schemas" in done.stderr
