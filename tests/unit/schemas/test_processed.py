"""The fingerprint changes with anything that the model reads, and with nothing else (promise 10)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from noun_strategies import processed_prompts

from schemas.processed import ProcessedPrompt


@pytest.fixture
def processed() -> ProcessedPrompt:
    rng = np.random.default_rng(0)
    return ProcessedPrompt(
        input_ids_P=rng.integers(0, 700, 9, dtype=np.int32),
        pixel_values_ND=rng.normal(size=(4, 6)).astype(np.float32),
        image_grid_thw_I3=np.array([[1, 2, 2]], dtype=np.int64),
    )


def test_a_copy_has_the_same_fingerprint_whatever_its_memory_layout(processed: ProcessedPrompt) -> None:
    copy = ProcessedPrompt(
        input_ids_P=processed.input_ids_P.astype(np.int64)[:],  # type: ignore[arg-type]
        pixel_values_ND=np.asfortranarray(processed.pixel_values_ND),
        image_grid_thw_I3=processed.image_grid_thw_I3.copy(),
    )
    assert copy.fingerprint() == processed.fingerprint()


def test_the_fingerprint_is_known() -> None:
    # blake2b-128 over b"(3,)", the ids as <i4, b"(0, 3)", b"(0, 6)", by another program. If it changes, recorded steps
    # fail their check.
    empty = ProcessedPrompt(
        input_ids_P=np.array([1, 2, 3], dtype=np.int32),
        pixel_values_ND=np.zeros((0, 6), dtype=np.float32),
        image_grid_thw_I3=np.zeros((0, 3), dtype=np.int64),
    )
    assert empty.fingerprint() == "a3b09c8233a45281cda7fc671623e0bd"


@given(st.data())
def test_any_changed_id_or_grid_entry_changes_it(data: st.DataObject) -> None:
    processed = data.draw(processed_prompts())
    field = data.draw(st.sampled_from(["input_ids_P", "image_grid_thw_I3"]))
    array = getattr(processed, field).copy()
    if array.size == 0:
        return
    index = data.draw(st.integers(0, array.size - 1))
    array.flat[index] ^= 1 << data.draw(st.integers(0, 30))
    assert replace(processed, **{field: array}).fingerprint() != processed.fingerprint()


@given(st.integers(0, 23), st.integers(0, 31))
def test_any_flipped_bit_of_a_pixel_changes_it(index: int, bit: int) -> None:
    pixels_ND = np.random.default_rng(1).normal(size=(4, 6)).astype(np.float32)
    flipped_ND = pixels_ND.copy()
    flipped_ND.view(np.uint32).flat[index] ^= np.uint32(1 << bit)
    ids, grid = np.arange(3, dtype=np.int32), np.array([[1, 2, 2]], dtype=np.int64)
    assert ProcessedPrompt(ids, pixels_ND, grid).fingerprint() != ProcessedPrompt(ids, flipped_ND, grid).fingerprint()


def test_the_same_numbers_in_another_shape_or_place_change_it(processed: ProcessedPrompt) -> None:
    seen = {
        processed.fingerprint(),
        replace(processed, pixel_values_ND=processed.pixel_values_ND.reshape(6, 4)).fingerprint(),
        replace(processed, pixel_values_ND=processed.pixel_values_ND[::-1]).fingerprint(),
        replace(processed, input_ids_P=processed.input_ids_P[:-1]).fingerprint(),
        replace(processed, input_ids_P=np.append(processed.input_ids_P, np.int32(0))).fingerprint(),
        replace(processed, image_grid_thw_I3=np.array([[1, 4, 1]], dtype=np.int64)).fingerprint(),
        replace(processed, image_grid_thw_I3=np.zeros((0, 3), dtype=np.int64)).fingerprint(),
    }
    assert len(seen) == 7
