from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prompts.anatomy import picture_direction, sample_anatomy
from prompts.films import SIZE, draw_film
from prompts.findings import KINDS, Finding, Kind, observations, sample_findings
from schemas.prompt import Box

seeds = st.integers(0, 2**32 - 1)


def inside(pixels: np.ndarray, box: Box) -> np.ndarray:
    x1, y1, x2, y2 = (round(value * SIZE) for value in box.corners)
    return pixels[y1:y2, x1:x2].astype(float)


def film_pair(kind: Kind, seed: int) -> tuple[np.ndarray, np.ndarray, Box]:
    """A film with one finding, the same film without it, and the finding's box."""
    anatomy = sample_anatomy(np.random.default_rng(seed))
    slot = None
    if kind != "cardiomegaly":
        slot = ("left", "lower") if kind == "pleural effusion" else ("left", "upper")
    finding = Finding(kind, slot, 0.7)  # type: ignore[arg-type]
    film = draw_film(anatomy, [finding], np.random.default_rng(seed))
    plain = draw_film(anatomy, [], np.random.default_rng(seed))
    return film.pixels, plain.pixels, film.finding_boxes[0]


@given(seeds)
@settings(max_examples=60, deadline=None)
def test_boxes_lie_in_the_picture_and_findings_at_their_side(seed: int) -> None:
    rng = np.random.default_rng(seed)
    anatomy, findings = sample_anatomy(rng), sample_findings(rng)
    film = draw_film(anatomy, findings, rng)
    assert film.pixels.shape == (SIZE, SIZE)
    assert film.pixels.dtype == np.uint8
    assert set(film.structures) == {"heart", "left lung", "right lung"}
    for finding, box in zip(findings, film.finding_boxes, strict=True):
        assert box.label == finding.kind
        assert box.x2 - box.x1 > 0.04
        assert box.y2 - box.y1 > 0.04
        if finding.side is not None:
            # The patient's left is on the picture's right.
            assert ((box.x1 + box.x2) / 2 - anatomy.mid_x) * picture_direction(finding.side) > 0


@given(seeds)
@settings(max_examples=200, deadline=None)
def test_a_film_has_at_most_three_findings_that_share_no_place(seed: int) -> None:
    findings = sample_findings(np.random.default_rng(seed))
    assert len(findings) <= 3
    slots = [f.slot for f in findings if f.slot is not None]
    assert len(set(slots)) == len(slots)
    kinds = [f.kind for f in findings]
    assert kinds == sorted(kinds, key=KINDS.index)
    assert all(kinds.count(kind) == 1 for kind in kinds if kind != "pleural effusion")


def test_every_kind_and_every_count_occurs() -> None:
    films = [sample_findings(np.random.default_rng([1, index])) for index in range(400)]
    assert {len(findings) for findings in films} == {0, 1, 2, 3}
    for kind in KINDS:
        share = sum(any(f.kind == kind for f in findings) for findings in films) / len(films)
        assert 0.1 < share < 0.35


@pytest.mark.parametrize("kind", ["consolidation", "nodule", "pleural effusion", "pacemaker"])
def test_bright_findings_brighten_their_box(kind: Kind) -> None:
    for seed in range(8):
        film, plain, box = film_pair(kind, seed)
        assert (inside(film, box) - inside(plain, box)).mean() > 12


def test_a_pneumothorax_darkens_its_box() -> None:
    for seed in range(8):
        film, plain, box = film_pair("pneumothorax", seed)
        assert (inside(film, box) - inside(plain, box)).mean() < -5


def test_cardiomegaly_widens_the_heart_clearly() -> None:
    for seed in range(30):
        anatomy = sample_anatomy(np.random.default_rng(seed))
        wide = draw_film(anatomy, [Finding("cardiomegaly", None, 0.5)], np.random.default_rng(seed))
        normal = draw_film(anatomy, [], np.random.default_rng(seed))
        widths = [film.structures["heart"].x2 - film.structures["heart"].x1 for film in (wide, normal)]
        chest = 2 * anatomy.chest_half_width
        assert widths[0] / chest > 0.5 > widths[1] / chest
        assert wide.finding_boxes[0].corners == wide.structures["heart"].corners


@pytest.mark.parametrize("kind", ["consolidation", "nodule", "pleural effusion"])
def test_a_finding_changes_nothing_outside_its_box(kind: Kind) -> None:
    for seed in range(8):
        film, plain, box = film_pair(kind, seed)
        edge = 4  # pixels of the soft edge
        x1, y1, x2, y2 = (round(value * SIZE) for value in box.corners)
        changed = film != plain
        changed[max(0, y1 - edge) : y2 + edge, max(0, x1 - edge) : x2 + edge] = False
        assert not changed.any()


def test_observations_follow_chexpert() -> None:
    pacemaker = Finding("pacemaker", ("left", "upper"), 0.5)
    effusions = (
        Finding("pleural effusion", ("right", "lower"), 0.2),
        Finding("pleural effusion", ("left", "lower"), 0.2),
    )
    assert observations(()) == ("No Finding",)
    assert observations((pacemaker,)) == ("No Finding", "Support Devices")
    assert observations((*effusions, pacemaker)) == ("Pleural Effusion", "Support Devices")
