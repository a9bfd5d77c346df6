"""Prompt and Conversation: what the policy is asked, and what it is taught.

Role: one prompt of a GRPO group; one SFT conversation.
Made by: prompts/. Read by: every room.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from schemas.base import Noun

Task = Literal["report", "grounding", "classification", "conversation"]
BoxFormat = Literal["radvlm", "qwen3vl"]
Split = Literal["train", "validation", "test"]


class ImageRef(Noun):
    """A picture: a path (absolute, or relative to the folder of its prompts file) or its encoded bytes."""

    path: str | None = None
    data: bytes | None = Field(default=None, repr=False)
    width: int = Field(gt=0, description="pixels, as shown (after EXIF orientation)")
    height: int = Field(gt=0, description="pixels, as shown (after EXIF orientation)")

    @model_validator(mode="after")
    def _one_source(self) -> ImageRef:
        if (self.path is None) == (self.data is None):
            raise ValueError("give exactly one of path and data")
        return self


class Box(Noun):
    """A canonical box: 0-1, relative to the picture, x1 < x2 and y1 < y2."""

    x1: float = Field(ge=0.0, le=1.0)
    y1: float = Field(ge=0.0, le=1.0)
    x2: float = Field(ge=0.0, le=1.0)
    y2: float = Field(ge=0.0, le=1.0)
    label: str | None = None

    @model_validator(mode="after")
    def _ordered(self) -> Box:
        if not (self.x1 < self.x2 and self.y1 < self.y2):
            raise ValueError("a box needs x1 < x2 and y1 < y2")
        return self

    @property
    def corners(self) -> tuple[float, float, float, float]:
        return (self.x1, self.y1, self.x2, self.y2)


class Reference(Noun):
    """The truth that a completion is scored against; what a task does not have is None."""

    report: str | None = Field(default=None, repr=False)
    boxes: tuple[Box, ...] | None = None
    labels: tuple[str, ...] | None = None


class Prompt(Noun):
    """One question about zero or more pictures, with the truth.

    ``prompt_id`` is unique in its data set. ``box_format`` is how the answer writes boxes, None where it writes none.
    """

    prompt_id: str = Field(min_length=1)
    task: Task
    question: str = Field(min_length=1, repr=False)
    images: tuple[ImageRef, ...] = ()
    box_format: BoxFormat | None = None
    reference: Reference
    dataset: str = Field(min_length=1)
    patient_id: str = Field(min_length=1)
    study_id: str = Field(min_length=1)
    split: Split

    @field_validator("question")
    @classmethod
    def _no_vision_markup(cls, question: str) -> str:
        # The chat template places the picture; markup inside the question would be expanded a second time.
        if "<|image_pad|>" in question or "<|vision_start|>" in question:
            raise ValueError("the question must not contain vision tokens")
        return question


class Turn(Noun):
    """One turn of a conversation; ``is_answer`` marks what the loss is taken on."""

    role: Literal["user", "assistant"]
    text: str = Field(repr=False)
    is_answer: bool = False

    @model_validator(mode="after")
    def _assistant_answers(self) -> Turn:
        if self.is_answer and self.role != "assistant":
            raise ValueError("only an assistant's turn can be an answer")
        return self


class Conversation(Noun):
    """An SFT example: pictures (shown before the first user turn), turns, and which turns are answers."""

    conversation_id: str = Field(min_length=1)
    images: tuple[ImageRef, ...] = ()
    turns: tuple[Turn, ...] = Field(min_length=2)
    dataset: str = Field(min_length=1)
    patient_id: str = Field(min_length=1)
    split: Split

    @model_validator(mode="after")
    def _has_answer(self) -> Conversation:
        if not any(turn.is_answer for turn in self.turns):
            raise ValueError("a conversation needs at least one answer turn")
        return self
