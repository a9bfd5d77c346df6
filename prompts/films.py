"""Film: a phantom chest film drawn from an anatomy and its findings.

Role: grey values and the true boxes. Input: Anatomy, findings, a seeded generator.
Output: uint8 [192, 192] and the box of every structure and finding, measured on the mask that was drawn.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from prompts.anatomy import SIDES, Anatomy, Side, picture_direction
from prompts.findings import Finding
from schemas.prompt import Box

SIZE = 192
"""Pixels a side: 36 image tokens for a model with 16-pixel patches merged two by two."""

Plane = NDArray[np.float32]

# Pixel centres, 0-1. All planes are float32: it is twice as fast, and bytes come out in the end.
_CENTRES: Plane = ((np.arange(SIZE) + 0.5) / SIZE).astype(np.float32)
_X_W, _Y_H = _CENTRES[None, :], _CENTRES[:, None]
_SOFT_PIXELS = 2.0
# Grey values, 0 black to 1 white: what absorbs more is brighter.
_AIR, _BODY, _LUNG, _HEART, _ABDOMEN = 0.03, 0.50, 0.20, 0.72, 0.64
_EFFUSION, _COLLAPSED, _PLEURAL_LINE, _CONSOLIDATION, _NODULE, _METAL = 0.70, 0.05, 0.55, 0.62, 0.85, 1.0
_PNEUMOTHORAX_END = 0.65
"""How far down the lung the pneumothorax's crescent reaches, as a share of the lung's height."""


@dataclass(frozen=True)
class Film:
    """Pixels uint8 [SIZE, SIZE]; a box for each structure by name; a box for each finding, in the given order."""

    pixels: NDArray[np.uint8]
    structures: dict[str, Box]
    finding_boxes: tuple[Box, ...]


@dataclass(frozen=True)
class _Chest:
    """The masks of the normal structures, each [SIZE, SIZE] in 0-1."""

    anatomy: Anatomy
    lungs: dict[Side, Plane]
    heart: Plane


def draw_film(anatomy: Anatomy, findings: Sequence[Finding], rng: np.random.Generator) -> Film:
    """Draw one film.

    Returns:
        The film; its boxes are tight around the drawn masks, to the pixel.
    """
    # Separate streams: a finding must not change the grain of the rest.
    texture_rng, finding_rng, exposure_rng = rng.spawn(3)
    enlarged = any(f.kind == "cardiomegaly" for f in findings)
    chest = _Chest(
        anatomy=anatomy,
        lungs={side: _soft(_lung_distance(anatomy, side)) for side in SIDES},
        heart=_heart_mask(anatomy, enlarged),
    )
    image_HW = _draw_normal(chest, texture_rng)
    boxes = []
    for finding in findings:
        mask_HW = _draw_finding(image_HW, chest, finding, finding_rng)
        boxes.append(_tight_box(mask_HW, finding.kind))
    structures = {"heart": _tight_box(chest.heart, "heart")}
    for side in SIDES:
        structures[f"{side} lung"] = _tight_box(chest.lungs[side], f"{side} lung")
    return Film(_expose(image_HW, exposure_rng), structures, tuple(boxes))


def _soft(distance: NDArray[np.floating[Any]]) -> Plane:
    """A mask from a signed distance (0-1 of the picture, positive inside), with an edge of _SOFT_PIXELS."""
    mask = np.asarray(distance * (SIZE / _SOFT_PIXELS), dtype=np.float32)
    mask += 0.5
    return np.clip(mask, 0.0, 1.0, out=mask)


def _blend(image_HW: Plane, mask_HW: Plane, grey: float | Plane, opacity: float = 1.0) -> None:
    """Move ``image_HW`` towards ``grey`` where the mask is; in place, since a film is a dozen of these."""
    change_HW = grey - image_HW
    change_HW *= mask_HW if opacity == 1.0 else mask_HW * opacity
    image_HW += change_HW


def _tight_box(mask_HW: Plane, label: str) -> Box:
    inside_HW = mask_HW > 0.5
    columns = np.flatnonzero(inside_HW.any(axis=0))
    rows = np.flatnonzero(inside_HW.any(axis=1))
    return Box(
        x1=float(columns[0] / SIZE),
        y1=float(rows[0] / SIZE),
        x2=float((columns[-1] + 1) / SIZE),
        y2=float((rows[-1] + 1) / SIZE),
        label=label,
    )


def _lung_axis(anatomy: Anatomy, side: Side, t_H: Plane) -> Plane:
    """x of the lung's middle at depth t (0 apex, 1 base): the apex leans towards the spine."""
    lean = 0.25 * anatomy.lung_half_width * picture_direction(side)
    return np.asarray(anatomy.lung_centre_x(side) - lean * (1.0 - np.clip(t_H, 0.0, 1.0)), dtype=np.float32)


def _half_width(anatomy: Anatomy, t_H: Plane) -> Plane:
    """Half the lung's width at depth t: a quarter of an ellipse."""
    t_H = np.clip(t_H, 0.0, 1.0)
    return np.asarray(anatomy.lung_half_width * np.sqrt(t_H * (2.0 - t_H)), dtype=np.float32)


def _lung_distance(anatomy: Anatomy, side: Side) -> Plane:
    t_H = (_Y_H - anatomy.lung_top) / anatomy.lung_height(side)
    sideways = _half_width(anatomy, t_H) - np.abs(_X_W - _lung_axis(anatomy, side, t_H))
    u_W = (_X_W - anatomy.lung_centre_x(side)) / anatomy.lung_half_width
    dome_W = anatomy.lung_base(side) - anatomy.dome_height * np.clip(1.0 - u_W**2, 0.0, 1.0)
    distance = np.minimum(sideways, dome_W - _Y_H)
    # Above the apex the width is 0, whose soft edge would draw a hairline.
    return np.asarray(np.minimum(distance, _Y_H - anatomy.lung_top), dtype=np.float32)


def _heart_mask(anatomy: Anatomy, enlarged: bool) -> Plane:
    ratio = anatomy.enlarged_heart_ratio if enlarged else anatomy.heart_ratio
    half_width = ratio * anatomy.chest_half_width
    half_height = half_width * anatomy.heart_flatness
    base = max(anatomy.lung_bottom) - 0.5 * anatomy.dome_height
    dx = _X_W - (anatomy.mid_x + 0.25 * half_width)
    dy = _Y_H - (base - 0.95 * half_height)
    cos, sin = math.cos(anatomy.heart_tilt), math.sin(anatomy.heart_tilt)
    along, across = dx * cos + dy * sin, dy * cos - dx * sin
    radius = np.sqrt((along / half_width) ** 2 + (across / half_height) ** 2)
    return _soft((1.0 - radius) * half_height)


def _clouds(rng: np.random.Generator, cells: int) -> Plane:
    """Smooth noise of unit spread, [SIZE, SIZE]."""
    coarse = rng.standard_normal((cells, cells), dtype=np.float32)
    return np.asarray(Image.fromarray(coarse).resize((SIZE, SIZE), Image.Resampling.BICUBIC), dtype=np.float32)


def _draw_normal(chest: _Chest, rng: np.random.Generator) -> Plane:
    anatomy = chest.anatomy
    image_HW = np.full((SIZE, SIZE), _AIR, dtype=np.float32)
    shoulder_H = np.clip((_Y_H - anatomy.lung_top + 0.09) / 0.16, 0.0, 1.0)
    torso_H = 0.09 + (anatomy.chest_half_width - 0.04) * np.sqrt(shoulder_H * (2.0 - shoulder_H))
    body = _soft((torso_H - np.abs(_X_W - anatomy.mid_x)) / 2)
    _blend(image_HW, body, _BODY)
    below = np.clip((_Y_H - min(anatomy.lung_bottom) + anatomy.dome_height) / 0.08, 0.0, 1.0)
    _blend(image_HW, body * below, _ABDOMEN)

    lungs = np.maximum(chest.lungs["left"], chest.lungs["right"])
    off_centre = np.abs(_X_W - anatomy.mid_x)
    # Vessels thin out from the hila to the periphery.
    vessels = _clouds(rng, 40) * np.clip(1.1 - off_centre / anatomy.chest_half_width, 0.15, 1.0)
    _blend(image_HW, lungs, _LUNG + 0.05 * vessels)
    # Ribs slope down to the sides; the phase is smooth, so one plane draws all of them.
    phase = anatomy.rib_count * (_Y_H - 1.1 * off_centre**2 - 0.15 * off_centre) / 0.7 + anatomy.rib_phase
    ribs = np.clip(np.cos((2 * np.pi) * phase) * 2.0 - 0.8, 0.0, 1.0)
    image_HW += 0.07 * body * ribs * np.clip(off_centre / 0.1, 0.0, 1.0) * (1.0 - 0.8 * below)
    _draw_clavicles(image_HW, anatomy)

    mediastinum = _soft(0.75 * anatomy.mediastinum_half_width - off_centre) * np.greater(_Y_H, anatomy.lung_top - 0.05)
    _blend(image_HW, mediastinum, 0.58)
    _blend(image_HW, chest.heart, _HEART, opacity=0.92)
    vertebrae = 0.04 + 0.03 * np.cos((2 * np.pi * 14) * _Y_H)
    image_HW += _soft(0.022 - off_centre) * vertebrae
    trachea = _soft(0.013 - off_centre) * np.clip((anatomy.lung_top + 0.14 - _Y_H) / 0.03, 0.0, 1.0)
    _blend(image_HW, trachea * body, 0.33)
    return image_HW


def _draw_clavicles(image_HW: Plane, anatomy: Anatomy) -> None:
    off_centre = np.abs(_X_W - anatomy.mid_x)
    height_W = anatomy.lung_top + 0.055 - 0.22 * off_centre
    bar = _soft(0.012 - np.abs(_Y_H - height_W))
    reach_W = (off_centre > 0.04) & (off_centre < anatomy.chest_half_width)
    image_HW += 0.13 * bar * reach_W


def _draw_finding(image_HW: Plane, chest: _Chest, finding: Finding, rng: np.random.Generator) -> Plane:
    """Draw one finding into ``image_HW`` and return its mask, [SIZE, SIZE]."""
    if finding.slot is None:
        return chest.heart
    side = finding.slot[0]
    if finding.kind == "pleural effusion":
        return _draw_effusion(image_HW, chest, side, finding.severity)
    if finding.kind == "pneumothorax":
        return _draw_pneumothorax(image_HW, chest, side, finding.severity)
    if finding.kind == "pacemaker":
        return _draw_pacemaker(image_HW, chest, side, rng)
    x, y = _spot(chest, finding, rng)
    if finding.kind == "nodule":
        mask = _soft(0.034 + 0.020 * finding.severity - np.sqrt((_X_W - x) ** 2 + (_Y_H - y) ** 2))
        _blend(image_HW, mask, _NODULE)
        return mask
    radius = 0.075 + 0.03 * finding.severity
    width, height = radius * rng.uniform(0.85, 1.15), radius * rng.uniform(0.85, 1.15)
    radius_HW = np.sqrt(((_X_W - x) / width) ** 2 + ((_Y_H - y) / height) ** 2)
    mask = np.asarray(np.clip(0.5 + (1.0 - radius_HW) * 4.0, 0.0, 1.0) * chest.lungs[side], dtype=np.float32)
    _blend(image_HW, mask, _CONSOLIDATION + 0.07 * _clouds(rng, 24), opacity=0.95)
    return mask


def _spot(chest: _Chest, finding: Finding, rng: np.random.Generator) -> tuple[float, float]:
    """Where in the lung a round finding lies: in its zone, clear of the heart."""
    assert finding.slot is not None
    side, zone = finding.slot
    anatomy = chest.anatomy
    low, high = (0.24, 0.40) if zone == "upper" else (0.56, 0.74)
    t = np.asarray([[rng.uniform(low, high)]], dtype=np.float32)
    room = 0.45 * float(_half_width(anatomy, t)[0, 0])
    sideways = rng.uniform(-1.0, 1.0) if zone == "upper" else rng.uniform(0.3, 1.2)
    x = float(_lung_axis(anatomy, side, t)[0, 0]) + picture_direction(side) * room * sideways
    return x, anatomy.lung_top + float(t[0, 0]) * anatomy.lung_height(side)


def _draw_effusion(image_HW: Plane, chest: _Chest, side: Side, severity: float) -> Plane:
    anatomy = chest.anatomy
    level = anatomy.lung_base(side) - (0.24 + 0.26 * severity) * anatomy.lung_height(side)
    outwards_W = picture_direction(side) * (_X_W - anatomy.lung_centre_x(side)) / anatomy.lung_half_width
    # The meniscus climbs along the outer wall.
    meniscus_W = level - 0.05 * np.clip(outwards_W, -1.0, 1.0) ** 3
    mask = _soft(_Y_H - meniscus_W) * chest.lungs[side]
    _blend(image_HW, mask, _EFFUSION, opacity=0.96)
    return mask


def _draw_pneumothorax(image_HW: Plane, chest: _Chest, side: Side, severity: float) -> Plane:
    anatomy = chest.anatomy
    outwards = picture_direction(side)
    height = anatomy.lung_height(side)
    t_H = (_Y_H - anatomy.lung_top) / height
    sunk = 0.16 + 0.14 * severity
    collapse_H = (0.55 + 0.45 * severity) * np.clip(1.0 - t_H / _PNEUMOTHORAX_END, 0.0, 1.0)
    sunk_width_H = _half_width(anatomy, (t_H - sunk) / (1.0 - sunk))
    outwards_HW = outwards * (_X_W - _lung_axis(anatomy, side, t_H))
    # The sunken lung keeps its inner edge (hence the slack there) and leaves the outer wall.
    inner = np.minimum(sunk_width_H * (1.0 - collapse_H) - outwards_HW, 1.15 * sunk_width_H + 0.02 + outwards_HW)
    inner = np.minimum(inner, (t_H - sunk) * height)
    outside = _soft(-inner) * (t_H < _PNEUMOTHORAX_END)
    mask = np.asarray(outside * chest.lungs[side], dtype=np.float32)
    _blend(image_HW, mask, _COLLAPSED, opacity=0.9)
    line = _soft(0.006 - np.abs(inner)) * chest.lungs[side] * (t_H < _PNEUMOTHORAX_END)
    _blend(image_HW, line, _PLEURAL_LINE)
    return mask


def _draw_pacemaker(image_HW: Plane, chest: _Chest, side: Side, rng: np.random.Generator) -> Plane:
    anatomy = chest.anatomy
    half_x, half_y = rng.uniform(0.046, 0.062), rng.uniform(0.036, 0.050)
    x = anatomy.mid_x + picture_direction(side) * anatomy.chest_half_width * rng.uniform(0.62, 0.76)
    y = anatomy.lung_top + rng.uniform(0.10, 0.20)
    heart = _tight_box(chest.heart, "heart")
    tip_x, tip_y = (heart.x1 + heart.x2) / 2, heart.y1 + 0.6 * (heart.y2 - heart.y1)
    # The lead: a bow from the box to the heart, drawn as x over y.
    along_H = np.clip((_Y_H - y) / (tip_y - y), 0.0, 1.0)
    lead_x_H = x + (tip_x - x) * np.sqrt(along_H * (2.0 - along_H))
    slope_H = 1.0 + np.abs(np.gradient(lead_x_H[:, 0]) * SIZE)[:, None]
    lead = _soft(0.006 - np.abs(_X_W - lead_x_H) / slope_H) * (np.greater(_Y_H, y) & np.less(_Y_H, tip_y))
    _blend(image_HW, lead, 0.95, opacity=0.85)
    round_by = 0.012
    over_x = np.maximum(np.abs(_X_W - x) - (half_x - round_by), 0.0)
    over_y = np.maximum(np.abs(_Y_H - y) - (half_y - round_by), 0.0)
    mask = _soft(round_by - np.hypot(over_x, over_y))
    _blend(image_HW, mask, _METAL)
    return mask


def _expose(image_HW: Plane, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Exposure, contrast and noise of the detector; grey values to bytes."""
    contrast, brightness, noise = rng.uniform(0.85, 1.05), rng.uniform(-0.04, 0.04), rng.uniform(0.012, 0.03)
    grain_HW = rng.standard_normal((SIZE, SIZE), dtype=np.float32)
    grain_HW *= noise
    grain_HW += image_HW * contrast
    grain_HW += 0.45 * (1.0 - contrast) + brightness
    return np.asarray(np.clip(grain_HW, 0.0, 1.0, out=grain_HW) * 255.0 + 0.5, dtype=np.uint8)
