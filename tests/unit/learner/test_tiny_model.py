"""The tiny Qwen3-VL is a whole Qwen3-VL: files, tokens, chat format, picture expansion, weights."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from learner.tiny_model import build_tiny_model
from learner.tiny_tokenizer import COORDINATES, MARKUP_TOKENS, SPECIAL_TOKENS
from schemas.errors import DataError

CORPUS = (
    "There is a nodule in the right upper lobe.",
    "The lungs are clear, the heart is not enlarged.",
    "The opacity is located at [0.12, 0.34, 0.56, 0.78] and [0.50, 0.50, 1.00, 1.00].",
    "Where is the opacity?",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("models") / "tiny"
    build_tiny_model(out, CORPUS, seed=0)
    return out


@pytest.fixture(scope="module")
def processor(folder: Path) -> Any:
    return AutoProcessor.from_pretrained(folder)


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    return AutoModelForImageTextToText.from_pretrained(folder)


def film(width: int, height: int, seed: int = 0) -> Image.Image:
    pixels_HW3 = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels_HW3)


def test_loads_in_transformers_as_qwen3_vl(processor: Any, model: Any) -> None:
    assert type(processor).__name__ == "Qwen3VLProcessor"
    assert type(processor.tokenizer).__name__ == "Qwen2Tokenizer"
    assert type(model).__name__ == "Qwen3VLForConditionalGeneration"
    assert model.config.vision_config.deepstack_visual_indexes == [0, 1]
    rope = model.config.text_config.rope_parameters
    assert rope["mrope_interleaved"] is True
    assert sum(rope["mrope_section"]) == model.config.text_config.head_dim // 2
    assert model.lm_head.weight is model.model.language_model.embed_tokens.weight
    assert model.dtype == torch.float32
    assert sum(p.numel() for p in model.parameters()) < 1_300_000


def test_every_two_decimal_coordinate_is_one_token_and_a_box_is_nine(processor: Any) -> None:
    tokenizer = processor.tokenizer
    ids = [tokenizer.encode(coordinate) for coordinate in COORDINATES]
    assert all(len(one) == 1 for one in ids)
    assert len({one[0] for one in ids}) == 101
    assert (COORDINATES[0], COORDINATES[7], COORDINATES[-1]) == ("0.00", "0.07", "1.00")
    assert len(tokenizer.encode("[0.12, 0.34, 0.56, 0.78]")) == 9


def test_the_vocabulary_is_a_few_hundred_ids_and_the_models_own(processor: Any, model: Any) -> None:
    vocabulary = processor.tokenizer.get_vocab()
    assert sorted(vocabulary.values()) == list(range(len(vocabulary)))
    assert len(vocabulary) == model.config.text_config.vocab_size <= 768
    assert set(SPECIAL_TOKENS + MARKUP_TOKENS) < set(vocabulary)


def test_qwens_markup_is_one_token_each_and_ends_a_turn(processor: Any, model: Any) -> None:
    tokenizer = processor.tokenizer
    for token in SPECIAL_TOKENS + MARKUP_TOKENS:
        assert len(tokenizer.encode(token)) == 1
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.pad_token == "<|endoftext|>"
    assert model.generation_config.eos_token_id == [tokenizer.eos_token_id, tokenizer.pad_token_id]
    assert tokenizer.decode(tokenizer.encode("<think>no</think><|im_end|>"), skip_special_tokens=True) == (
        "<think>no</think>"
    )


@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_any_text_comes_back(processor: Any, text: str) -> None:
    # NFC is Qwen's own normalisation; what it changes can't come back.
    normal = unicodedata.normalize("NFC", text)
    assert processor.tokenizer.decode(processor.tokenizer.encode(normal)) == normal


PICTURE = "<|vision_start|><|image_pad|><|vision_end|>"
IMAGE = {"type": "image"}


def words(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


@pytest.mark.parametrize(
    ("messages", "options", "expected"),
    [
        pytest.param(
            [{"role": "user", "content": [IMAGE, words("Where is it?")]}],
            {"add_generation_prompt": True},
            f"<|im_start|>user\n{PICTURE}Where is it?<|im_end|>\n<|im_start|>assistant\n",
            id="one picture and a question",
        ),
        pytest.param(
            [{"role": "user", "content": [IMAGE, IMAGE, words("Compare.")]}],
            {},
            f"<|im_start|>user\n{PICTURE}{PICTURE}Compare.<|im_end|>\n",
            id="two pictures",
        ),
        pytest.param(
            [
                {"role": "user", "content": [IMAGE, words("One.")]},
                {"role": "assistant", "content": "Yes."},
                {"role": "user", "content": [{"image": "a.png"}, {"type": "video"}, words("Two.")]},
            ],
            {"add_vision_id": True},
            f"<|im_start|>user\nPicture 1: {PICTURE}One.<|im_end|>\n<|im_start|>assistant\nYes.<|im_end|>\n"
            f"<|im_start|>user\nPicture 2: {PICTURE}Video 1: <|vision_start|><|video_pad|><|vision_end|>Two."
            "<|im_end|>\n",
            id="numbered pictures over turns",
        ),
        pytest.param(
            [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "A\n b "},
                {"role": "assistant", "content": [words("C"), words("D")]},
                {"role": "user", "content": "E"},
            ],
            {"add_generation_prompt": True},
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nA\n b <|im_end|>\n"
            "<|im_start|>assistant\nCD<|im_end|>\n<|im_start|>user\nE<|im_end|>\n<|im_start|>assistant\n",
            id="system and several turns, text kept as it is",
        ),
        pytest.param(
            [
                {"role": "user", "content": "Q"},
                {
                    "role": "assistant",
                    "content": "Let me look.",
                    "tool_calls": [
                        {"function": {"name": "zoom", "arguments": {"x": 1}}},
                        {"name": "zoom", "arguments": "{}"},
                    ],
                },
                {"role": "tool", "content": "r1"},
                {"role": "tool", "content": [IMAGE]},
                {"role": "assistant", "content": "", "tool_calls": [{"name": "zoom", "arguments": "{}"}]},
            ],
            {},
            "<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\nLet me look.\n"
            '<tool_call>\n{"name": "zoom", "arguments": {"x": 1}}\n</tool_call>\n'
            '<tool_call>\n{"name": "zoom", "arguments": {}}\n</tool_call><|im_end|>\n'
            "<|im_start|>user\n<tool_response>\nr1\n</tool_response>\n"
            f"<tool_response>\n{PICTURE}\n</tool_response><|im_end|>\n"
            '<|im_start|>assistant\n<tool_call>\n{"name": "zoom", "arguments": {}}\n</tool_call><|im_end|>\n',
            id="tool calls and results",
        ),
        pytest.param(
            [{"role": "system", "content": "S"}, {"role": "user", "content": "Q"}],
            {"tools": [{"type": "function", "function": {"name": "zoom"}}]},
            "<|im_start|>system\nS\n\n# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
            "You are provided with function signatures within <tools></tools> XML tags:\n<tools>\n"
            '{"type": "function", "function": {"name": "zoom"}}\n</tools>\n\n'
            "For each function call, return a json object with function name and arguments within "
            '<tool_call></tool_call> XML tags:\n<tool_call>\n{"name": <function-name>, "arguments": '
            "<args-json-object>}\n</tool_call><|im_end|>\n<|im_start|>user\nQ<|im_end|>\n",
            id="tools offered",
        ),
    ],
)
def test_the_chat_format_is_qwen3_vls(
    processor: Any, messages: list[dict[str, Any]], options: dict[str, Any], expected: str
) -> None:
    assert processor.apply_chat_template(messages, tokenize=False, **options) == expected


@pytest.mark.parametrize(
    ("size", "tokens"),
    [((192, 192), 36), ((96, 192), 18), ((32, 32), 1), ((2000, 2000), 36), ((10, 10), 1)],
)
def test_a_picture_becomes_its_tokens(processor: Any, size: tuple[int, int], tokens: int) -> None:
    inputs = processor(text=[f"{PICTURE}Where?"], images=[film(*size)], return_tensors="pt")
    assert int((inputs["input_ids"] == processor.image_token_id).sum()) == tokens
    assert inputs["pixel_values"].shape == (4 * tokens, 3 * 2 * 16 * 16)


def test_the_model_sees_the_picture(processor: Any, model: Any) -> None:
    def next_token_logits(picture: Image.Image) -> torch.Tensor:
        inputs = processor(text=[f"{PICTURE}Where?"], images=[picture], return_tensors="pt")
        with torch.no_grad():
            return model(**inputs).logits[0, -1]

    one, same, other = (next_token_logits(film(192, 192, seed)) for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert (one - other).abs().max() > 1e-3


def test_a_fresh_model_is_almost_undecided(processor: Any, model: Any) -> None:
    inputs = processor(text=[f"{PICTURE}Where?"], images=[film(192, 192)], return_tensors="pt")
    with torch.no_grad():
        logprobs_V = model(**inputs).logits[0, -1].log_softmax(-1)
    entropy = float(-(logprobs_V.exp() * logprobs_V).sum())
    assert entropy > 0.9 * np.log(len(logprobs_V))


def test_the_same_seed_gives_the_same_bytes_and_another_seed_other_weights(folder: Path, tmp_path: Path) -> None:
    build_tiny_model(tmp_path / "again", CORPUS, seed=0)
    build_tiny_model(tmp_path / "other", CORPUS, seed=1)
    names = sorted(path.name for path in folder.iterdir())
    assert names == sorted(path.name for path in (tmp_path / "again").iterdir())
    for name in names:
        assert (folder / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
        same_as_other_seed = (folder / name).read_bytes() == (tmp_path / "other" / name).read_bytes()
        assert same_as_other_seed == (name != "model.safetensors")


def test_a_full_folder_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "keep.txt").write_text("keep")
    with pytest.raises(DataError, match="must be a new or empty folder"):
        build_tiny_model(tmp_path / "mine", CORPUS)
    assert [path.name for path in tmp_path.rglob("*")] == ["mine", "keep.txt"]


def test_a_failure_leaves_nothing_behind(tmp_path: Path) -> None:
    def broken_corpus() -> Any:
        yield "a sentence"
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        build_tiny_model(tmp_path / "tiny", broken_corpus())
    assert list(tmp_path.iterdir()) == []
