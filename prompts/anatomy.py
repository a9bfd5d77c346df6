"""Anatomy: the geometry of one phantom patient's chest.

Role: what stays the same in all films of a patient. Input: a seeded generator.
Output: lengths and positions in 0-1 of the picture (x to the right, y down). The patient's left is on the
picture's right, as on a real frontal film.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

Side = Literal["left", "right"]
SIDES: tuple[Side, Side] = ("right", "left")


@dataclass(frozen=True)
class Anatomy:
    """One chest. A lung is an egg that is widest at its base, cut below by the dome of the diaphragm."""

    mid_x: float
    lung_top: float
    lung_bottom: tuple[float, float]
    """y of the costophrenic angles, right and left."""
    lung_half_width: float
    mediastinum_half_width: float
    dome_height: float
    heart_ratio: float
    """Width of a normal heart divided by the chest's inner width."""
    enlarged_heart_ratio: float
    heart_flatness: float
    """Height of the heart divided by its width, before the tilt."""
    heart_tilt: float
    """Radians."""
    rib_count: float
    rib_phase: float

    @property
    def chest_half_width(self) -> float:
        return 2 * self.lung_half_width + self.mediastinum_half_width

    def lung_centre_x(self, side: Side) -> float:
        return self.mid_x + picture_direction(side) * (self.lung_half_width + self.mediastinum_half_width)

    def lung_base(self, side: Side) -> float:
        return self.lung_bottom[SIDES.index(side)]

    def lung_height(self, side: Side) -> float:
        return self.lung_base(side) - self.lung_top


def picture_direction(side: Side) -> int:
    """Which way the patient's side lies on the picture: -1 left, +1 right."""
    return 1 if side == "left" else -1


def sample_anatomy(rng: np.random.Generator) -> Anatomy:
    """A new patient. The ranges are wide enough that a box can't be guessed without looking at the film."""
    scale = rng.uniform(0.84, 1.0)
    top = rng.uniform(0.09, 0.19)
    base = top + rng.uniform(0.54, 0.66) * min(1.0, scale + 0.06)
    return Anatomy(
        mid_x=0.5 + rng.uniform(-0.055, 0.055),
        lung_top=top,
        lung_bottom=(base - rng.uniform(0.0, 0.03), base + rng.uniform(0.0, 0.02)),
        lung_half_width=scale * rng.uniform(0.150, 0.178),
        mediastinum_half_width=scale * rng.uniform(0.045, 0.065),
        dome_height=rng.uniform(0.05, 0.09),
        heart_ratio=rng.uniform(0.38, 0.46),
        enlarged_heart_ratio=rng.uniform(0.54, 0.63),
        heart_flatness=rng.uniform(0.70, 0.85),
        heart_tilt=rng.uniform(0.2, 0.5),
        rib_count=rng.uniform(8.0, 10.0),
        rib_phase=rng.uniform(0.0, 1.0),
    )


def reposition(anatomy: Anatomy, rng: np.random.Generator) -> Anatomy:
    """The same patient on another day: stands a little differently before the detector."""
    shift_y = rng.uniform(-0.02, 0.02)
    return replace(
        anatomy,
        mid_x=anatomy.mid_x + rng.uniform(-0.02, 0.02),
        lung_top=anatomy.lung_top + shift_y,
        lung_bottom=(anatomy.lung_bottom[0] + shift_y, anatomy.lung_bottom[1] + shift_y),
    )
