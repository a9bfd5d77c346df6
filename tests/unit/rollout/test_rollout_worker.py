"""Whatever goes wrong with a group is a RolloutError without a word of its texts. No engine is started here."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rollout.settings import RolloutSettings
from rollout.worker import RolloutWorker
from schemas.errors import RolloutError
from schemas.group import Sampling
from schemas.processed import ProcessedPrompt
from schemas.prompt import ImageRef, Prompt, Reference

SECRET = "a report of a patient"
PROMPT = Prompt(
    prompt_id="p",
    task="report",
    question="Describe the film.",
    images=(ImageRef(path="film.png", width=4, height=2000),),
    reference=Reference(),
    dataset="d",
    patient_id="x",
    study_id="y",
    split="train",
)
PROCESSED = ProcessedPrompt(
    input_ids_P=np.arange(3, dtype=np.int32),
    pixel_values_ND=np.zeros((0, 0), dtype=np.float32),
    image_grid_thw_I3=np.zeros((0, 3), dtype=np.int64),
)


def _fail(*_: object) -> Any:
    raise ValueError(SECRET)


def _worker(model: Path, load_image: Callable[[ImageRef], NDArray[np.uint8]]) -> RolloutWorker:
    from rollout.processor import Processor

    worker = RolloutWorker(RolloutSettings(), str(model), load_image, "w")
    worker._processor = Processor(str(model))
    return worker


async def _error_of(worker: RolloutWorker) -> RolloutError:
    with pytest.raises(RolloutError) as caught:
        await worker.generate_group(
            PROMPT, group_id="g", epoch=0, incarnation=0, sampling=Sampling(max_tokens=4), group_size=1
        )
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    assert worker.stats() == {"running": 0, "waiting": 0}
    return caught.value


async def test_a_picture_of_an_impossible_shape_is_a_fault_of_its_prompt(tiny_model: Path) -> None:
    # Above an aspect ratio of 200 transformers' smart_resize raises a ValueError.
    error = await _error_of(_worker(tiny_model, lambda _: np.zeros((2000, 4, 3), dtype=np.uint8)))
    assert (error.cause, error.message) == ("prompt", "ValueError")


async def test_an_unforeseen_error_of_a_picture_is_a_fault_of_its_prompt(tiny_model: Path) -> None:
    error = await _error_of(_worker(tiny_model, _fail))
    assert (error.cause, error.message) == ("prompt", "ValueError")


def _completion(**changes: object) -> SimpleNamespace:
    logprobs = SimpleNamespace(logprobs=[-0.5], token_ids=[7])
    fields = {"token_ids": [7], "logprobs": logprobs, "finish_reason": "stop", "weight_versions": [], **changes}
    return SimpleNamespace(prompt_token_ids=[0, 1, 2], outputs=[SimpleNamespace(**fields)])


@pytest.mark.parametrize(
    ("output", "kind"),
    [
        (None, "ValueError"),  # the engine raises something of its own
        (_completion(), "ValidationError"),  # no version covers the token
        (_completion(logprobs=None), "AttributeError"),
    ],
)
async def test_an_unforeseen_error_after_the_preparation_is_the_engines(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, output: SimpleNamespace | None, kind: str
) -> None:
    async def complete(*_: object) -> list[SimpleNamespace]:
        return [output] if output else _fail()

    worker = _worker(tiny_model, _fail)
    monkeypatch.setattr(worker, "_prepare", lambda *_: (PROCESSED, SimpleNamespace(token_ids=[0, 1, 2])))
    monkeypatch.setattr(worker._processor, "decode", lambda _: SECRET)
    monkeypatch.setattr(worker, "_engine", SimpleNamespace(complete=complete), raising=False)
    error = await _error_of(worker)
    assert (error.cause, error.message) == ("engine_error", kind)
