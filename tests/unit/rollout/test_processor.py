"""A prompt and a conversation become the tensors that the model was made for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from schemas.errors import ConfigError, DataError
from schemas.prompt import Conversation, ImageRef, Prompt, Reference, Turn

FILM = ImageRef(path="film.png", width=192, height=192)
PIXELS = np.random.default_rng(0).integers(0, 255, (192, 192, 3), dtype=np.uint8)
QUESTION = "Where is the nodule?"
ANSWER = "There is a nodule at [0.12, 0.34, 0.56, 0.78]."


@pytest.fixture(scope="module")
def processor(tiny_model: Path) -> Any:
    from rollout.processor import Processor

    return Processor(str(tiny_model))


def _prompt(pictures: int) -> Prompt:
    return Prompt(
        prompt_id="p",
        task="grounding",
        question=QUESTION,
        images=(FILM,) * pictures,
        reference=Reference(),
        dataset="d",
        patient_id="x",
        study_id="y",
        split="train",
    )


def _conversation(turns: list[Turn], pictures: int) -> Conversation:
    return Conversation(
        conversation_id="c", images=(FILM,) * pictures, turns=turns, dataset="d", patient_id="x", split="train"
    )


@pytest.mark.parametrize("pictures", [0, 1, 2])
def test_a_prompt_is_what_transformers_makes_of_it(processor: Any, tiny_model: Path, pictures: int) -> None:
    from transformers import AutoProcessor

    theirs = AutoProcessor.from_pretrained(tiny_model)
    content = [*[{"type": "image", "image": Image.fromarray(PIXELS)}] * pictures, {"type": "text", "text": QUESTION}]
    expected = theirs.apply_chat_template(
        [{"role": "user", "content": content}],
        tokenize=True,
        add_generation_prompt=True,
        return_dict=True,
        return_tensors="np",
    )
    processed = processor.process_prompt(_prompt(pictures), [PIXELS] * pictures)
    np.testing.assert_array_equal(processed.input_ids_P, expected["input_ids"][0])
    assert len(processed.image_grid_thw_I3) == pictures
    if pictures:
        np.testing.assert_array_equal(processed.pixel_values_ND, expected["pixel_values"])
        np.testing.assert_array_equal(processed.image_grid_thw_I3, expected["image_grid_thw"])
        assert (processed.input_ids_P == processor.image_token_id).sum() == 36 * pictures
    assert processed.input_ids_P.dtype == np.int32
    assert processed.pixel_values_ND.dtype == np.float32


def test_there_is_no_system_message(processor: Any) -> None:
    text = processor.tokenizer.decode(processor.process_prompt(_prompt(0), []).input_ids_P)
    assert text == f"<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n"


def test_a_conversation_continues_the_prompt_exactly(processor: Any) -> None:
    prompt = processor.process_prompt(_prompt(1), [PIXELS])
    turns = [Turn(role="user", text=QUESTION), Turn(role="assistant", text=ANSWER, is_answer=True)]
    conversation = processor.process_conversation(_conversation(turns, 1), [PIXELS])
    length = len(prompt.input_ids_P)
    np.testing.assert_array_equal(conversation.prompt.input_ids_P[:length], prompt.input_ids_P)
    np.testing.assert_array_equal(conversation.prompt.pixel_values_ND, prompt.pixel_values_ND)
    assert not conversation.loss_mask_P[:length].any()


def test_the_loss_is_on_answers_and_their_end_of_turn_alone(processor: Any) -> None:
    turns = [
        Turn(role="user", text=QUESTION),
        Turn(role="assistant", text="Where?"),
        Turn(role="user", text="Describe the film."),
        Turn(role="assistant", text=ANSWER, is_answer=True),
        Turn(role="user", text=QUESTION),
        Turn(role="assistant", text="No.", is_answer=True),
    ]
    conversation = processor.process_conversation(_conversation(turns, 2), [PIXELS] * 2)
    learned = conversation.prompt.input_ids_P[conversation.loss_mask_P]
    assert processor.tokenizer.decode(learned) == f"{ANSWER}<|im_end|>No.<|im_end|>"
    whole = processor.tokenizer.decode(conversation.prompt.input_ids_P).replace("<|image_pad|>", "")
    pictures = "<|vision_start|><|vision_end|>" * 2
    assert whole == (
        f"<|im_start|>user\n{pictures}{QUESTION}<|im_end|>\n<|im_start|>assistant\nWhere?<|im_end|>\n"
        f"<|im_start|>user\nDescribe the film.<|im_end|>\n<|im_start|>assistant\n{ANSWER}<|im_end|>\n"
        f"<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\nNo.<|im_end|>\n"
    )
    assert len(conversation.loss_mask_P) == len(conversation.prompt.input_ids_P)


def test_every_vision_id_is_forbidden_and_no_other(processor: Any) -> None:
    tokens = processor.tokenizer.convert_ids_to_tokens(list(processor.vision_token_ids))
    assert set(tokens) == {
        "<|vision_start|>",
        "<|vision_end|>",
        "<|vision_pad|>",
        "<|image_pad|>",
        "<|video_pad|>",
    }


def test_a_picture_too_few_is_an_error(processor: Any) -> None:
    with pytest.raises(DataError, match="1 pictures"):
        processor.process_prompt(_prompt(1), [])


def test_a_missing_folder_is_one_line(tmp_path: Path) -> None:
    from rollout.processor import Processor

    with pytest.raises(ConfigError, match="tiny-model"):
        Processor(str(tmp_path / "nowhere"))


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    from rollout.processor import Processor

    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ConfigError, match="llama"):
        Processor(str(tmp_path))
