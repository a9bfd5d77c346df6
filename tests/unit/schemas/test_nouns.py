"""Nouns refuse what breaks their promises, keep patient text out of their repr, and can't be changed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from noun_strategies import completions, groups
from pydantic import ValidationError

from schemas.base import Settings
from schemas.group import Completion, RolloutGroup, Sampling, Score, VersionSpan
from schemas.prompt import Box, Conversation, ImageRef, Prompt, Reference, Turn
from schemas.weights import TensorSpec, digest_of

PROMPT: dict[str, Any] = {
    "prompt_id": "p1",
    "task": "grounding",
    "question": "Where is the nodule?",
    "reference": Reference(report="a report of a patient", boxes=(Box(x1=0.1, y1=0.1, x2=0.2, y2=0.3),)),
    "dataset": "d",
    "patient_id": "1",
    "study_id": "2",
    "split": "train",
}
ANSWER: dict[str, Any] = {
    "token_ids": (5, 6, 7),
    "rollout_logprobs": (-0.1, -0.2, -0.3),
    "versions": (VersionSpan(version=0, start=0, end=2), VersionSpan(version=1, start=2, end=3)),
    "finish_reason": "stop",
    "text": "a report of a patient",
}


def refused(model: Any, fields: dict[str, Any], rule: str) -> None:
    with pytest.raises(ValidationError, match=rule):
        model(**fields)


@pytest.mark.parametrize("fields", [{}, {"path": "a.png", "data": b"x"}])
def test_a_picture_has_exactly_one_source(fields: dict[str, Any]) -> None:
    refused(ImageRef, {"width": 1, "height": 1, **fields}, "exactly one of path and data")


@pytest.mark.parametrize(
    "corners", [(0.5, 0.1, 0.5, 0.2), (0.6, 0.1, 0.5, 0.2), (0.1, 0.3, 0.2, 0.3), (0.1, 0.4, 0.2, 0.3)]
)
def test_a_box_has_an_area(corners: tuple[float, ...]) -> None:
    refused(Box, dict(zip(("x1", "y1", "x2", "y2"), corners, strict=True)), "x1 < x2 and y1 < y2")


@pytest.mark.parametrize("value", [-0.01, 1.01, float("nan"), float("inf")])
def test_a_box_lies_inside_the_picture(value: float) -> None:
    refused(Box, {"x1": 0.1, "y1": 0.1, "x2": value, "y2": 0.2}, "x2")


@pytest.mark.parametrize("markup", ["<|image_pad|>", "<|vision_start|>"])
def test_a_question_can_not_smuggle_in_a_picture(markup: str) -> None:
    refused(Prompt, {**PROMPT, "question": f"Where? {markup}"}, "must not contain vision tokens")


@pytest.mark.parametrize(
    "change", [{"prompt_id": ""}, {"question": ""}, {"task": "poem"}, {"split": "dev"}, {"new": 1}]
)
def test_a_prompt_refuses_empty_unknown_and_additional_fields(change: dict[str, Any]) -> None:
    refused(Prompt, {**PROMPT, **change}, next(iter(change)))


def test_only_assistants_answer_and_a_conversation_has_an_answer() -> None:
    refused(Turn, {"role": "user", "text": "q", "is_answer": True}, "only an assistant")
    turns = (Turn(role="user", text="q"), Turn(role="assistant", text="a"))
    rest = {"conversation_id": "c", "dataset": "d", "patient_id": "1", "split": "train"}
    refused(Conversation, {**rest, "turns": turns}, "at least one answer")
    answered = (turns[0], Turn(role="assistant", text="a", is_answer=True))
    assert Conversation(turns=answered, **rest).turns == answered


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"rollout_logprobs": (-0.1,)}, "same length"),
        ({"versions": ()}, "cover every token"),
        ({"versions": (VersionSpan(version=0, start=0, end=2),)}, "cover every token"),
        ({"versions": (VersionSpan(version=0, start=1, end=3),)}, "without gaps"),
        (
            {"versions": (VersionSpan(version=0, start=0, end=2), VersionSpan(version=1, start=1, end=3))},
            "without gaps",
        ),
        ({"versions": (VersionSpan(version=0, start=0, end=4),)}, "cover every token"),
        ({"finish_reason": "tired"}, "finish_reason"),
        ({"reward": float("nan")}, "reward"),
        ({"rollout_logprobs": (-0.1, float("-inf"), -0.3)}, "rollout_logprobs"),
    ],
)
def test_a_completion_accounts_for_every_token(change: dict[str, Any], rule: str) -> None:
    refused(Completion, {**ANSWER, **change}, rule)


def test_every_token_knows_its_version() -> None:
    completion = Completion(**ANSWER)
    assert completion.version_of_tokens().tolist() == [0, 0, 1]
    assert completion.oldest_version == 0


@given(completions())
def test_spans_and_tokens_agree_on_versions(completion: Completion) -> None:
    versions_T = completion.version_of_tokens()
    assert len(versions_T) == len(completion.token_ids)
    assert completion.oldest_version == (int(versions_T.min()) if len(versions_T) else None)
    assert {span.version for span in completion.versions} == set(versions_T.tolist())


@given(groups)
def test_a_groups_oldest_version_and_tokens_are_those_of_its_completions(group: RolloutGroup) -> None:
    assert group.token_count == sum(len(c.token_ids) for c in group.completions)
    ages = [c.oldest_version for c in group.completions if c.token_ids]
    assert group.oldest_version == (min(a for a in ages if a is not None) if ages else None)


def test_logprobs_are_float32_from_the_start() -> None:
    completion = Completion(**{**ANSWER, "rollout_logprobs": (-0.1, -0.2, -0.3)})
    assert completion.rollout_logprobs == tuple(float(np.float32(value)) for value in (-0.1, -0.2, -0.3))


@pytest.mark.parametrize(
    "change", [{"temperature": -1.0}, {"top_p": 0.0}, {"top_p": 1.1}, {"top_k": -1}, {"max_tokens": 0}]
)
def test_sampling_refuses_what_no_engine_can_do(change: dict[str, Any]) -> None:
    refused(Sampling, {"max_tokens": 8, **change}, next(iter(change)))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_score_is_a_number(value: float) -> None:
    refused(Score, {"value": value}, "finite")


def test_nouns_do_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Completion(**ANSWER).reward = 1.0


def test_no_patient_text_in_a_repr() -> None:
    prompt = Prompt(**PROMPT, images=(ImageRef(data=b"pixels", width=1, height=1),))
    shown = repr([prompt, Completion(**ANSWER), Turn(role="user", text="a report of a patient")])
    assert "patient'" not in shown.replace("patient_id='1'", "")
    assert "nodule" not in shown
    assert "pixels" not in shown


@pytest.mark.parametrize(
    ("model", "fields"),
    [
        (Completion, {**ANSWER, "versions": ()}),
        (Completion, {**ANSWER, "text": ["a report of a patient"]}),
        (Prompt, {**PROMPT, "question": "a report of a patient <|image_pad|>"}),
        (Prompt, {**PROMPT, "reference": {"report": ["a report of a patient"]}}),
        (Settings, {"report": "a report of a patient"}),
    ],
)
def test_no_patient_text_in_a_validation_error(model: Any, fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        model(**fields)
    assert "a report of" not in str(caught.value)


def test_a_digest_covers_every_byte_and_is_what_a_spec_holds() -> None:
    data = np.arange(64, dtype=np.uint8)
    changed = data.copy()
    changed[63] ^= 1
    assert digest_of(data) == digest_of(data.tobytes()) == digest_of(memoryview(data.tobytes()))
    assert digest_of(data) != digest_of(changed) != digest_of(data[:63])
    spec = {"name": "w", "dtype": "float32", "shape": (16,), "offset": 0, "nbytes": 64}
    assert TensorSpec(digest=digest_of(data), **spec).nbytes == data.nbytes
    refused(TensorSpec, {**spec, "digest": "short"}, "digest")
