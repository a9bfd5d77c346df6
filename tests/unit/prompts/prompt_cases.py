"""Small prompts, conversations and pictures that the tests of this room share."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from schemas.prompt import Box, Conversation, ImageRef, Prompt, Reference, Split, Task, Turn

CONFIDENTIAL = "confidential wording about somebody"


def make_prompt(index: int, split: Split = "train", task: Task = "report", image: str | None = None) -> Prompt:
    return Prompt(
        prompt_id=f"prompt-{index}",
        task=task,
        question="What does this film show?",
        images=() if image is None else (ImageRef(path=image, width=4, height=3),),
        box_format="radvlm" if task == "grounding" else None,
        reference=Reference(
            report=CONFIDENTIAL if task == "report" else None,
            boxes=(Box(x1=0.1, y1=0.2, x2=0.3, y2=0.4, label="nodule"),) if task == "grounding" else None,
        ),
        dataset="cases",
        patient_id=f"patient-{index}",
        study_id=f"study-{index}",
        split=split,
    )


def make_conversation(index: int, split: Split = "train", image: str | None = None) -> Conversation:
    return Conversation(
        conversation_id=f"conversation-{index}",
        images=() if image is None else (ImageRef(path=image, width=4, height=3),),
        turns=(Turn(role="user", text="Where?"), Turn(role="assistant", text="There.", is_answer=True)),
        dataset="cases",
        patient_id=f"patient-{index}",
        split=split,
    )


def encode(picture: Image.Image, form: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format=form, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def ref_of(data: bytes) -> ImageRef:
    return ImageRef(data=data, width=1, height=1)


def dicom(stored_HW: NDArray[np.generic], photometric: str = "MONOCHROME2", **tags: object) -> Dataset:
    """A minimal uncompressed DICOM film."""
    film = Dataset()
    film.file_meta = FileMetaDataset()
    film.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    film.SOPClassUID, film.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.1", "1.2.3"
    film.Rows, film.Columns = stored_HW.shape[:2]
    film.SamplesPerPixel = 1 if stored_HW.ndim == 2 else 3
    if film.SamplesPerPixel == 3:
        film.PlanarConfiguration = 0
    film.PhotometricInterpretation = photometric
    film.BitsAllocated = film.BitsStored = stored_HW.dtype.itemsize * 8
    film.HighBit = film.BitsStored - 1
    film.PixelRepresentation = int(stored_HW.dtype.kind == "i")
    film.PixelData = stored_HW.tobytes()
    for name, value in tags.items():
        setattr(film, name, value)
    return film


def dicom_bytes(film: Dataset) -> bytes:
    buffer = io.BytesIO()
    film.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def write_picture(path: Path, width: int = 8, height: int = 6) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.arange(width * height, dtype=np.uint8).reshape(height, width)).save(path)
    return path
