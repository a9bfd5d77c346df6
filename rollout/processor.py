"""Processor: a prompt or a conversation as the tensors that the model reads.

Role: the one processing of a prompt (promise 10), with the model's own chat template and picture processor.
Input: Prompt or Conversation and its pictures. Output: ProcessedPrompt or ProcessedConversation. No vllm here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from transformers import AutoConfig, AutoProcessor

from schemas.errors import ConfigError, DataError
from schemas.processed import ProcessedConversation, ProcessedPrompt
from schemas.prompt import Conversation, Prompt

MODEL_TYPE = "qwen3_vl"
END_OF_TURN = "<|im_end|>"
# What a completion must never contain: the learner would look for pictures that are not there.
VISION_TOKENS = ("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>")


class Processor:
    """The chat template, tokenizer and picture processor of one model folder.

    Args:
        model_path: a Hugging Face folder or the name of a model that is in the local cache.

    Raises:
        ConfigError: the folder is missing, incomplete, or not a Qwen3-VL model.
    """

    def __init__(self, model_path: str) -> None:
        try:
            model_type = AutoConfig.from_pretrained(model_path).model_type
            if model_type == MODEL_TYPE:
                self._processor: Any = AutoProcessor.from_pretrained(model_path)
        except (OSError, ValueError) as error:
            raise ConfigError(
                "model",
                "a Hugging Face folder with config, tokenizer and processor",
                f"{model_path} ({type(error).__name__})",
                "give a folder that exists, or make one with `overread data tiny-model OUT`",
            ) from error
        if model_type != MODEL_TYPE:
            raise ConfigError("model", f"a {MODEL_TYPE} model", f"{model_path} ({model_type})", "give a Qwen3-VL model")
        self.tokenizer: Any = self._processor.tokenizer
        vocabulary = self.tokenizer.get_vocab()
        self._end_of_turn_id: int = vocabulary[END_OF_TURN]
        self.image_token_id: int = vocabulary["<|image_pad|>"]
        self.merge_size: int = self._processor.image_processor.merge_size
        self.vision_token_ids: tuple[int, ...] = tuple(
            sorted(vocabulary[token] for token in VISION_TOKENS if token in vocabulary)
        )

    def process_prompt(self, prompt: Prompt, images: Sequence[NDArray[np.uint8]]) -> ProcessedPrompt:
        """One user turn (pictures, then the question) and the start of the answer.

        Args:
            prompt: the question; its references to pictures are not opened here.
            images: its pictures in order, uint8 [H, W, 3].

        Raises:
            DataError: the number of pictures is not the prompt's.
        """
        _check_count(f"prompt {prompt.prompt_id}", len(prompt.images), len(images))
        text = self._render([_user_message(prompt.question, len(images))], add_generation_prompt=True)
        tensors = self._processor(text=[text], images=_pictures(images) or None, return_tensors="np")
        return _processed(tensors["input_ids"][0], tensors)

    def process_conversation(
        self, conversation: Conversation, images: Sequence[NDArray[np.uint8]]
    ) -> ProcessedConversation:
        """A whole conversation, with the loss on its answers and their end-of-turn tokens.

        Text before, inside and after an answer is tokenised separately: in a rollout the answer's tokens also
        follow a finished prompt, so no token may straddle the border.

        Args:
            conversation: its pictures stand before the first user turn.
            images: its pictures in order, uint8 [H, W, 3].

        Raises:
            DataError: wrong number of pictures, or the chat template rewrites earlier turns.
        """
        name = f"conversation {conversation.conversation_id}"
        _check_count(name, len(conversation.images), len(images))
        tensors: dict[str, Any] = {}
        if images:
            tensors = self._processor.image_processor(images=_pictures(images), return_tensors="np")
        grid_I3 = np.asarray(tensors.get("image_grid_thw", np.zeros((0, 3))), dtype=np.int64)

        ids: list[int] = []
        loss_mask: list[bool] = []
        for text, is_answer in self._pieces(name, conversation, len(images)):
            piece = self.tokenizer(text, add_special_tokens=False)["input_ids"]
            ids.extend(piece)
            loss_mask.extend([is_answer] * len(piece))
        input_ids_P, loss_mask_P = self._expand_pictures(ids, loss_mask, grid_I3)
        return ProcessedConversation(_processed(input_ids_P, tensors), loss_mask_P)

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of a completion, without special tokens."""
        return str(self.tokenizer.decode(list(token_ids), skip_special_tokens=True))

    def _render(self, messages: list[dict[str, Any]], *, add_generation_prompt: bool) -> str:
        return str(
            self._processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=add_generation_prompt)
        )

    def _pieces(self, name: str, conversation: Conversation, image_count: int) -> list[tuple[str, bool]]:
        """The rendered conversation cut at its answers: (text, is it an answer)."""
        messages: list[dict[str, Any]] = []
        pieces: list[tuple[str, bool]] = []
        done = ""
        for turn in conversation.turns:
            if turn.role == "user":
                messages.append(_user_message(turn.text, image_count))
                image_count = 0
                continue
            if turn.is_answer:
                before = self._render(messages, add_generation_prompt=True)
                pieces.append((_suffix(name, before, done), False))
                done = before
            messages.append({"role": "assistant", "content": [{"type": "text", "text": turn.text}]})
            if turn.is_answer:
                answer = _suffix(name, self._render(messages, add_generation_prompt=False), done)
                answer = answer[: answer.rindex(END_OF_TURN) + len(END_OF_TURN)]
                pieces.append((answer, True))
                done += answer
        pieces.append((_suffix(name, self._render(messages, add_generation_prompt=False), done), False))
        return pieces

    def _expand_pictures(
        self, ids: list[int], loss_mask: list[bool], grid_I3: NDArray[np.int64]
    ) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
        """Repeat the i-th picture placeholder once per merged patch of picture i."""
        ids_T = np.asarray(ids, dtype=np.int32)
        repeats_T = np.ones(len(ids), dtype=np.int64)
        repeats_T[ids_T == self.image_token_id] = grid_I3.prod(axis=1) // self.merge_size**2
        return np.repeat(ids_T, repeats_T), np.repeat(np.asarray(loss_mask, dtype=np.bool_), repeats_T)


def _user_message(text: str, image_count: int) -> dict[str, Any]:
    return {"role": "user", "content": [*({"type": "image"},) * image_count, {"type": "text", "text": text}]}


def _pictures(images: Sequence[NDArray[np.uint8]]) -> list[Image.Image]:
    # As PIL pictures, since the processor guesses the channel axis of small arrays.
    return [Image.fromarray(image) for image in images]


def _processed(ids: NDArray[Any], tensors: Any) -> ProcessedPrompt:
    has_pictures = "pixel_values" in tensors
    return ProcessedPrompt(
        input_ids_P=np.asarray(ids, dtype=np.int32),
        pixel_values_ND=np.ascontiguousarray(tensors["pixel_values"], dtype=np.float32)
        if has_pictures
        else np.zeros((0, 0), dtype=np.float32),
        image_grid_thw_I3=np.asarray(tensors["image_grid_thw"], dtype=np.int64)
        if has_pictures
        else np.zeros((0, 3), dtype=np.int64),
    )


def _suffix(name: str, rendered: str, done: str) -> str:
    if not rendered.startswith(done):
        raise DataError(
            name,
            "turns that the chat template renders one after the other",
            "a template that rewrites earlier turns",
            "split the conversation into one per answer",
        )
    return rendered[len(done) :]


def _check_count(name: str, expected: int, given: int) -> None:
    if expected != given:
        raise DataError(name, f"{expected} pictures", f"{given} pictures", "load every picture that it names")
