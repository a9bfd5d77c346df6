"""A real film (pydicom-data) and real reports (OpenI, inside torchxrayvision's wheel) go the user's way in."""

from __future__ import annotations

import importlib.util
import json
import tarfile
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from prompts.describe import describe
from prompts.images import image_ref, load_image
from prompts.jsonl import convert_jsonl
from prompts.source import PromptSource
from prompts.store import read_prompts

pytestmark = pytest.mark.integration
REPORTS = 200


def package_file(package: str, path: str) -> Path:
    """A file inside an installed package, found without importing it (torchxrayvision would import torchvision)."""
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / path


@pytest.fixture(scope="module")
def film() -> Path:
    return package_file("data_store", "data/RG1_UNCR.dcm")


@pytest.fixture(scope="module")
def reports() -> dict[str, str]:
    """FINDINGS by report number."""
    found: dict[str, str] = {}
    with tarfile.open(package_file("torchxrayvision", "data/NLMCXR_reports.tgz")) as archive:
        for member in archive:
            content = archive.extractfile(member) if member.name.endswith(".xml") else None
            if content is None:
                continue
            text = ElementTree.parse(content).findtext(".//AbstractText[@Label='FINDINGS']")
            if text:
                found[Path(member.name).stem] = text
            if len(found) == REPORTS:
                break
    return found


def test_a_real_film_is_read_upright_and_bright_where_the_body_absorbs(film: Path) -> None:
    ref = image_ref(film)
    assert (ref.width, ref.height) == (1841, 1955)
    pixels = load_image(ref)
    assert pixels.shape == (1955, 1841, 3)
    grey_HW = pixels[..., 0].astype(float)
    assert grey_HW.std() > 30
    # Stored as MONOCHROME1. The spine absorbs more than the lungs at its sides.
    rows = slice(700, 1000)
    spine, lungs = grey_HW[rows, 880:960].mean(), (grey_HW[rows, 450:650].mean() + grey_HW[rows, 1200:1400].mean()) / 2
    assert spine > lungs + 30


@pytest.mark.parametrize("compressed", ["RG1_J2KR.dcm", "RG1_J2KI.dcm"])
def test_the_compressed_film_is_the_uncompressed_one(film: Path, compressed: str) -> None:
    plain = load_image(image_ref(film)).astype(int)
    shown = load_image(image_ref(film.with_name(compressed))).astype(int)
    assert np.abs(shown - plain).max() <= (0 if compressed == "RG1_J2KR.dcm" else 3)


def test_real_reports_and_the_real_film_go_through_json_lines(
    film: Path, reports: dict[str, str], tmp_path: Path
) -> None:
    assert len(reports) == REPORTS
    records = [
        {
            "id": f"openi-{number}",
            "image": str(film),
            "task": "report",
            "question": "Write the findings of this chest film.",
            "report": report,
            "patient_id": f"openi-{number}",
        }
        for number, report in reports.items()
    ]
    source = tmp_path / "openi.jsonl"
    source.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    assert convert_jsonl(source, tmp_path / "out") == REPORTS

    rows = read_prompts(tmp_path / "out")
    assert [row.reference.report for row in rows] == list(reports.values())
    summary = describe(tmp_path / "out")
    assert set(summary.splits) == {"train", "validation", "test"}
    assert summary.patients_in_several_splits == 0
    assert summary.picture_sizes == {"1841 x 1955": 1}

    prompt, _ = PromptSource(rows, seed=0).next()
    assert load_image(prompt.images[0]).shape == (1955, 1841, 3)
