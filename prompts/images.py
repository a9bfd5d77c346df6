"""Images: a film on disk, in whatever form, to what a model looks at.

Role: the one reading of a picture. Input: DICOM, PNG or JPEG, as a path or as bytes; 8 or 16 bit, grey or colour.
Output: uint8 [height, width, 3], upright, bright where the body absorbs. Everything undecodable is a DataError.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from pydicom import Dataset, dcmread
from pydicom.pixels import apply_modality_lut, apply_voi_lut

from schemas.errors import DataError
from schemas.prompt import ImageRef

MAX_PIXELS = 64_000_000
"""The largest film accepted; the largest detectors make about 16 million pixels."""

_PERCENTILES = (0.5, 99.5)
"""Grey values that become black and white where nothing says which window to use."""
_EXIF_ORIENTATION = 0x0112
_SIDEWAYS_ORIENTATIONS = (5, 6, 7, 8)
_Read = TypeVar("_Read")
_REMEDY = "give a whole DICOM, PNG or JPEG file"


def load_image(ref: ImageRef) -> NDArray[np.uint8]:
    """Read a picture.

    DICOM: modality rescale, then the VOI table or window where one is given, else percentiles; MONOCHROME1 is
    inverted. 16-bit grey PNG: percentiles. Transparency is laid over black.

    Returns:
        uint8 [height, width, 3].

    Raises:
        DataError: the file is missing, broken, too large, or not a film. It names the path.
    """
    with _opened(ref.path, ref.data) as (name, stream):
        return _decode(name, _read_dicom if _is_dicom(stream) else _read_picture, stream)


def image_ref(path: Path) -> ImageRef:
    """A reference to a picture file; reads the header only.

    Raises:
        DataError: as ``load_image``, except that a broken body goes unnoticed.
    """
    absolute = str(path.absolute())
    with _opened(absolute, None) as (name, stream):
        width, height = _decode(name, _dicom_size if _is_dicom(stream) else _picture_size, stream)
    return ImageRef(path=absolute, width=width, height=height)


@contextmanager
def _opened(path: str | None, data: bytes | None) -> Iterator[tuple[str, BinaryIO]]:
    """The picture's name for messages, and a stream of its bytes."""
    if data is not None:
        yield f"picture of {len(data)} bytes", io.BytesIO(data)
        return
    name = str(path)
    try:
        with Path(name).open("rb") as stream:
            yield name, stream
    except OSError as error:
        raise DataError(name, "the picture must be a readable file", error.strerror, "check the path") from error


def _decode(name: str, read: Callable[[str, BinaryIO], _Read], stream: BinaryIO) -> _Read:
    """The border to the decoders, which raise anything at all on broken bytes."""
    try:
        return read(name, stream)
    except DataError:
        raise
    except Exception as error:
        # The decoders' messages may quote header fields, so only the kind of error is told.
        raise DataError(name, "must be a picture that can be decoded", type(error).__name__, _REMEDY) from error


def _is_dicom(stream: BinaryIO) -> bool:
    head = stream.read(132)
    stream.seek(0)
    return head[128:] == b"DICM"


def _check_size(name: str, width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise DataError(name, f"must have at most {MAX_PIXELS:,} pixels", f"{width} x {height}", "make it smaller")


def _open_picture(name: str, stream: BinaryIO) -> Image.Image:
    try:
        picture = Image.open(stream, formats=("PNG", "JPEG"))
    except Image.DecompressionBombError as error:
        rule = f"must have at most {MAX_PIXELS:,} pixels"
        raise DataError(name, rule, "many more", "make it smaller") from error
    _check_size(name, *picture.size)
    return picture


def _picture_size(name: str, stream: BinaryIO) -> tuple[int, int]:
    picture = _open_picture(name, stream)
    width, height = picture.size
    sideways = picture.getexif().get(_EXIF_ORIENTATION) in _SIDEWAYS_ORIENTATIONS
    return (height, width) if sideways else (width, height)


def _read_picture(name: str, stream: BinaryIO) -> NDArray[np.uint8]:
    picture = ImageOps.exif_transpose(_open_picture(name, stream))
    if picture.mode.startswith("I"):
        return _grey_to_rgb(_stretch(np.asarray(picture, dtype=np.float32)))
    if picture.has_transparency_data:
        shown = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", shown.size, (0, 0, 0, 255)), shown)
    return np.asarray(picture.convert("RGB"), dtype=np.uint8)


def _stretch(values_HW: NDArray[np.floating]) -> NDArray[np.uint8]:
    low, high = np.percentile(values_HW, _PERCENTILES)
    return _scale(values_HW, float(low), float(high))


def _scale(values_HW: NDArray[np.floating], low: float, high: float) -> NDArray[np.uint8]:
    """``low`` becomes 0 and ``high`` 255; a picture of one grey value becomes black."""
    if high <= low:
        return np.zeros(values_HW.shape, dtype=np.uint8)
    shares_HW = np.clip((values_HW - low) / (high - low), 0.0, 1.0)
    return np.asarray(shares_HW * 255.0 + 0.5, dtype=np.uint8)


def _grey_to_rgb(grey_HW: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.repeat(grey_HW[:, :, None], 3, axis=2)


def _dicom_size(name: str, stream: BinaryIO) -> tuple[int, int]:
    header = dcmread(stream, stop_before_pixels=True)
    _check_size(name, int(header.Columns), int(header.Rows))
    return int(header.Columns), int(header.Rows)


def _read_dicom(name: str, stream: BinaryIO) -> NDArray[np.uint8]:
    film = dcmread(stream)
    _check_size(name, int(film.Columns), int(film.Rows))
    frames = int(film.get("NumberOfFrames") or 1)
    if frames != 1:
        raise DataError(name, "must hold one frame", f"{frames} frames", "write each frame as a file of its own")
    photometric = str(film.PhotometricInterpretation)
    stored = film.pixel_array
    if photometric in ("MONOCHROME1", "MONOCHROME2"):
        grey_HW = _shown_grey(film, stored)
        return _grey_to_rgb(255 - grey_HW if photometric == "MONOCHROME1" else grey_HW)
    if stored.ndim == 3 and stored.shape[2] == 3 and stored.dtype == np.uint8:
        return np.ascontiguousarray(stored)  # pydicom has turned YBR into RGB
    raise DataError(name, "must be grey or 8-bit colour", f"{photometric}, {stored.dtype}", "convert it to grey")


def _shown_grey(film: Dataset, stored_HW: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Modality and VOI transformations of DICOM PS3.3 C.11, to bytes."""
    values_HW = np.asarray(apply_modality_lut(stored_HW, film))
    has_table, has_window = bool(film.get("VOILUTSequence")), _usable_window(film)
    if has_table:
        # A table is indexed by whole numbers; the rescaled values are floats.
        values_HW = np.rint(values_HW).astype(np.int64)
    elif not has_window:
        return _stretch(values_HW.astype(np.float64))
    # What lies far outside on either side shows the ends of the output range.
    ends = np.asarray([-(2**40), 2**40], dtype=values_HW.dtype if has_table else np.float64)
    low, high = sorted(np.asarray(apply_voi_lut(ends, film), dtype=np.float64).tolist())
    shown_HW = np.asarray(apply_voi_lut(values_HW, film), dtype=np.float64)
    return _scale(shown_HW, low, high)


def _usable_window(film: Dataset) -> bool:
    """Whether a window is given that means something: some devices write a width of 0."""
    if film.get("WindowCenter") is None or film.get("WindowWidth") is None:
        return False
    element = film["WindowWidth"]
    width = element.value[0] if element.VM > 1 else element.value
    return float(width) >= 1.0
