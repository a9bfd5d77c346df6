from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from prompt_cases import dicom, dicom_bytes, encode, ref_of, write_picture
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from prompts.images import MAX_PIXELS, image_ref, load_image
from schemas.errors import DataError
from schemas.prompt import ImageRef

RAMP = np.arange(48, dtype=np.uint8).reshape(6, 8) * 5


def load(data: bytes) -> np.ndarray:
    pixels = load_image(ref_of(data))
    assert pixels.dtype == np.uint8
    assert pixels.ndim == 3
    assert pixels.shape[2] == 3
    return pixels


def grey(data: bytes) -> np.ndarray:
    pixels = load(data)
    assert (pixels[..., 0] == pixels[..., 1]).all()
    assert (pixels[..., 0] == pixels[..., 2]).all()
    return pixels[..., 0]


def png_header(width: int, height: int) -> bytes:
    """A PNG that promises a picture of this size and holds none."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    written = [struct.pack(">I", len(c)) + n + c + struct.pack(">I", zlib.crc32(n + c)) for n, c in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(written)


def test_eight_bit_grey_png_comes_through_unchanged() -> None:
    assert np.array_equal(grey(encode(Image.fromarray(RAMP))), RAMP)


def test_eight_bit_grey_jpeg_comes_through_nearly_unchanged() -> None:
    smooth = np.tile(np.linspace(0, 255, 32).astype(np.uint8), (24, 1))
    shown = grey(encode(Image.fromarray(smooth), "JPEG", quality=95))
    assert np.abs(shown.astype(int) - smooth).max() <= 6


def test_colour_and_palette_pictures_keep_their_colours() -> None:
    colours = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    assert np.array_equal(load(encode(Image.fromarray(colours))), colours)
    palette = Image.new("P", (8, 6), 1)
    palette.putpalette([0, 0, 0, 200, 10, 30])
    assert (load(encode(palette)) == [200, 10, 30]).all()


def test_transparent_pixels_are_black() -> None:
    picture = np.full((6, 8, 4), 255, dtype=np.uint8)
    picture[:3, :, 3] = 0
    shown = load(encode(Image.fromarray(picture)))
    assert (shown[:3] == 0).all()
    assert (shown[3:] == 255).all()


def test_sixteen_bit_png_is_stretched_whatever_its_used_bits() -> None:
    twelve_bit = np.linspace(0, 4095, 4000).astype(np.uint16).reshape(50, 80)
    shown = grey(encode(Image.fromarray(twelve_bit)))
    assert shown.min() == 0
    assert shown.max() == 255
    assert (np.diff(shown.reshape(-1).astype(int)) >= 0).all()
    assert abs(float(shown.mean()) - 127.5) < 2
    assert np.array_equal(shown, grey(encode(Image.fromarray(twelve_bit * 16))))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_and_sizes_agree(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = tmp_path / "film.png"
    file.write_bytes(encode(Image.fromarray(RAMP), exif=exif))
    upright = {
        1: RAMP,
        2: RAMP[:, ::-1],
        3: RAMP[::-1, ::-1],
        4: RAMP[::-1],
        5: RAMP.T,
        6: RAMP[::-1].T,
        7: RAMP[::-1, ::-1].T,
        8: RAMP[:, ::-1].T,
    }[orientation]
    ref = image_ref(file)
    pixels = load_image(ref)
    assert np.array_equal(pixels[..., 0], upright)
    assert (ref.height, ref.width) == upright.shape


def test_a_reference_is_absolute_and_knows_the_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_picture(tmp_path / "film.png", width=8, height=6)
    (tmp_path / "film.dcm").write_bytes(dicom_bytes(dicom(RAMP)))
    monkeypatch.chdir(tmp_path)
    for name in ("film.png", "film.dcm"):
        assert image_ref(Path(name)) == ImageRef(path=str(tmp_path / name), width=8, height=6)


def test_a_dicom_window_maps_its_range_to_black_and_white() -> None:
    stored = np.asarray([[0, 900, 1000, 1100, 1200, 4000]], dtype=np.uint16)
    shown = grey(dicom_bytes(dicom(stored, WindowCenter=1000.5, WindowWidth=201, BitsStored=12, HighBit=11)))
    # PS3.3 C.11.2.1.2.1: (x - (c - 0.5)) / (w - 1) + 0.5.
    assert shown.tolist() == [[0, 0, 128, 255, 255, 255]]


def test_rescaling_comes_before_the_window() -> None:
    stored = np.asarray([[0, 100, 200]], dtype=np.uint16)
    film = dicom(stored, RescaleSlope=2, RescaleIntercept=-200, WindowCenter=0.5, WindowWidth=401)
    assert grey(dicom_bytes(film)).tolist() == [[0, 128, 255]]


def test_the_first_of_several_windows_counts() -> None:
    stored = np.asarray([[0, 50, 100]], dtype=np.uint16)
    film = dicom(stored, WindowCenter=[50.5, 5000], WindowWidth=[101, 100])
    assert grey(dicom_bytes(film)).tolist() == [[0, 128, 255]]


def test_a_voi_table_is_applied() -> None:
    table = Dataset()
    table.LUTDescriptor = [4, 10, 8]
    table.add_new("LUTData", "OW", np.asarray([0, 51, 102, 255], dtype="<u2").tobytes())
    film = dicom(np.asarray([[0, 10, 11, 12, 13, 99]], dtype=np.uint16), VOILUTSequence=Sequence([table]))
    assert grey(dicom_bytes(film)).tolist() == [[0, 0, 51, 102, 255, 255]]


def test_monochrome1_is_inverted() -> None:
    stored = np.asarray([[0, 50, 100]], dtype=np.uint16)
    tags = {"WindowCenter": 50.5, "WindowWidth": 101}
    plain = grey(dicom_bytes(dicom(stored, "MONOCHROME2", **tags)))
    assert np.array_equal(grey(dicom_bytes(dicom(stored, "MONOCHROME1", **tags))), 255 - plain)


@pytest.mark.parametrize("tags", [{}, {"WindowCenter": 100, "WindowWidth": 0}])
def test_without_a_usable_window_the_percentiles_decide(tags: dict[str, float]) -> None:
    stored = np.arange(1000, dtype=np.int16).reshape(20, 50) - 500
    stored[0, 0] = 30000  # a burnt-out pixel must not darken the film
    shown = grey(dicom_bytes(dicom(stored, **tags)))
    assert shown[0, 0] == 255
    assert abs(float(shown.mean()) - 127.5) < 2


def test_colour_dicom_is_read() -> None:
    colours = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    assert np.array_equal(load(dicom_bytes(dicom(colours, "RGB"))), colours)


def test_a_picture_of_one_grey_value_is_black() -> None:
    assert (grey(dicom_bytes(dicom(np.full((4, 4), 700, dtype=np.uint16)))) == 0).all()


@pytest.mark.parametrize(
    "film",
    [
        dicom(np.zeros((4, 4), dtype=np.uint8), NumberOfFrames=2, PixelData=bytes(32)),
        dicom(np.zeros((4, 4, 3), dtype=np.uint16), "RGB"),
    ],
)
def test_a_dicom_that_is_no_film_is_refused(film: Dataset) -> None:
    with pytest.raises(DataError, match=r"one frame|8-bit colour"):
        load(dicom_bytes(film))


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(("width", "height"), [(8001, 8001), (12000, 12000), (60000, 60000)])
def test_decompression_bombs_are_refused_before_decoding(tmp_path: Path, width: int, height: int) -> None:
    assert width * height > MAX_PIXELS
    file = tmp_path / "bomb.png"
    file.write_bytes(png_header(width, height))
    film = dicom(np.zeros((1, 1), dtype=np.uint8), Rows=height, Columns=width)
    (tmp_path / "bomb.dcm").write_bytes(dicom_bytes(film))
    for bomb in (file, tmp_path / "bomb.dcm"):
        for read in (lambda path: load_image(ImageRef(path=str(path), width=1, height=1)), image_ref):
            with pytest.raises(DataError, match="at most 64,000,000 pixels") as caught:
                read(bomb)
            assert caught.value.field == str(bomb)


@pytest.mark.parametrize("kind", ["png", "jpg", "dcm"])
def test_truncated_files_name_their_path(tmp_path: Path, kind: str) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    if kind == "dcm":
        whole = dicom_bytes(dicom(picture))
    else:
        whole = encode(Image.fromarray(picture), {"png": "PNG", "jpg": "JPEG"}[kind])
    file = tmp_path / f"film.{kind}"
    for size in (0, 4, 100, 140, len(whole) // 2, len(whole) - 60):
        file.write_bytes(whole[:size])
        with pytest.raises(DataError) as caught:
            load_image(ImageRef(path=str(file), width=64, height=64))
        assert caught.value.field == str(file)
        assert "\n" not in str(caught.value)


def test_a_missing_file_a_folder_and_other_formats_name_their_path(tmp_path: Path) -> None:
    other = tmp_path / "film.gif"
    other.write_bytes(encode(Image.fromarray(RAMP), "GIF"))
    for path in (tmp_path / "absent.png", tmp_path, other):
        for read in (lambda path: load_image(ImageRef(path=str(path), width=1, height=1)), image_ref):
            with pytest.raises(DataError) as caught:
                read(path)
            assert caught.value.field == str(path)


NOISY = np.random.default_rng(1).integers(0, 256, (16, 16), dtype=np.uint8)
WHOLE_FILES = [encode(Image.fromarray(NOISY)), encode(Image.fromarray(NOISY), "JPEG"), dicom_bytes(dicom(NOISY))]


@given(st.sampled_from(WHOLE_FILES), st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=6))
@settings(max_examples=200, deadline=None)
@pytest.mark.filterwarnings("ignore")
def test_damaged_bytes_give_a_picture_or_a_data_error(whole: bytes, damage: list[tuple[float, int]]) -> None:
    data = bytearray(whole)
    for place, value in damage:
        data[int(place * (len(data) - 1))] = value
    try:
        pixels = load_image(ref_of(bytes(data)))
    except DataError as error:
        assert f"{len(data)} bytes" in error.field  # noqa: PT017 (either outcome is right)
    else:
        assert pixels.dtype == np.uint8
        assert pixels.shape[2] == 3
