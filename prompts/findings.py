"""Finding: one abnormality of a phantom film, and which ones a film has.

Role: six of the 14 CheXpert observations, chosen because each looks different at 192 x 192 pixels.
Input: a seeded generator. Output: 0-3 findings that do not hide each other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from prompts.anatomy import SIDES, Side

Kind = Literal["cardiomegaly", "consolidation", "nodule", "pleural effusion", "pneumothorax", "pacemaker"]
Zone = Literal["upper", "lower"]
Slot = tuple[Side, Zone]

OBSERVATIONS: dict[Kind, str] = {
    "cardiomegaly": "Cardiomegaly",
    "consolidation": "Consolidation",
    "nodule": "Lung Lesion",
    "pleural effusion": "Pleural Effusion",
    "pneumothorax": "Pneumothorax",
    "pacemaker": "Support Devices",
}
"""The CheXpert observation of each kind. The order is that of a report's sentences."""

KINDS: tuple[Kind, ...] = tuple(OBSERVATIONS)
_COUNT_SHARES = (0.30, 0.35, 0.25, 0.10)
_BILATERAL_SHARE = 0.25
_MOST_FINDINGS = 3
# The kinds that need a given slot choose first.
_PLACING_ORDER: tuple[Kind, ...] = (
    "cardiomegaly",
    "pleural effusion",
    "pneumothorax",
    "pacemaker",
    "consolidation",
    "nodule",
)


@dataclass(frozen=True)
class Finding:
    """One abnormality. ``slot`` is None for the heart's; ``severity`` (0-1) sets its size within its kind."""

    kind: Kind
    slot: Slot | None
    severity: float

    @property
    def side(self) -> Side | None:
        return None if self.slot is None else self.slot[0]

    @property
    def size(self) -> Literal["small", "large"]:
        return "small" if self.severity < 0.5 else "large"


def sample_findings(rng: np.random.Generator) -> tuple[Finding, ...]:
    """The findings of one film, in report order; pleural effusions may be on both sides."""
    count = int(rng.choice(len(_COUNT_SHARES), p=_COUNT_SHARES))
    chosen = {KINDS[i] for i in rng.permutation(len(KINDS))[:count]}
    free: set[Slot] = {(side, zone) for side in SIDES for zone in ("upper", "lower")}
    if "cardiomegaly" in chosen:
        blocked: set[Slot] = {("left", "lower"), ("right", "lower")}  # behind the wide heart
    else:
        blocked = set()
    findings: list[Finding] = []
    for kind in _PLACING_ORDER:
        if kind not in chosen:
            continue
        slot = _choose_slot(kind, free, blocked, rng)
        findings.append(Finding(kind, slot, float(rng.uniform())))
        if slot is not None:
            free.remove(slot)
        if kind == "pleural effusion" and count < _MOST_FINDINGS and rng.uniform() < _BILATERAL_SHARE:
            other = next(s for s in sorted(free) if s[1] == "lower")
            findings.append(Finding(kind, other, float(rng.uniform())))
            free.remove(other)
    return tuple(sorted(findings, key=lambda f: (KINDS.index(f.kind), f.side == "left")))


def _choose_slot(kind: Kind, free: set[Slot], blocked: set[Slot], rng: np.random.Generator) -> Slot | None:
    if kind == "cardiomegaly":
        return None
    if kind == "pleural effusion":
        options = {s for s in free if s[1] == "lower"}
    elif kind in ("pneumothorax", "pacemaker"):
        options = {s for s in free if s[1] == "upper"}
    else:
        options = free - blocked
    ordered = sorted(options)
    return ordered[int(rng.integers(len(ordered)))]


def observations(findings: tuple[Finding, ...]) -> tuple[str, ...]:
    """The positive CheXpert observations, with ``No Finding`` where only a device or nothing is seen."""
    present = tuple(dict.fromkeys(OBSERVATIONS[f.kind] for f in findings))
    if any(name != "Support Devices" for name in present):
        return present
    return ("No Finding", *present)
