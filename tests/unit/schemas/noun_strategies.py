"""Hypothesis strategies for every noun: whatever the models accept, not only what is usual."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from schemas.group import Completion, RolloutGroup, Sampling, Score, ScoreError, VersionSpan
from schemas.processed import ProcessedPrompt
from schemas.prompt import Box, Conversation, ImageRef, Prompt, Reference, Turn

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
name = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
finite = st.floats(allow_nan=False, allow_infinity=False)
int32 = st.integers(0, 2**31 - 1)
split = st.sampled_from(["train", "validation", "test"])


@st.composite
def boxes(draw: st.DrawFn) -> Box:
    x1, x2 = sorted(draw(st.lists(st.floats(0.0, 1.0), min_size=2, max_size=2, unique=True)))
    y1, y2 = sorted(draw(st.lists(st.floats(0.0, 1.0), min_size=2, max_size=2, unique=True)))
    return Box(x1=x1, y1=y1, x2=x2, y2=y2, label=draw(st.none() | text))


size = st.integers(1, 2**31 - 1)
images = st.builds(ImageRef, path=name, width=size, height=size) | st.builds(
    ImageRef, data=st.binary(max_size=20), width=size, height=size
)
references = st.builds(
    Reference,
    report=st.none() | text,
    boxes=st.none() | st.lists(boxes(), max_size=3).map(tuple),
    labels=st.none() | st.lists(text, max_size=3).map(tuple),
)
prompts = st.builds(
    Prompt,
    prompt_id=name,
    task=st.sampled_from(["report", "grounding", "classification", "conversation"]),
    question=name,
    images=st.lists(images, max_size=3).map(tuple),
    box_format=st.sampled_from([None, "radvlm", "qwen3vl"]),
    reference=references,
    dataset=name,
    patient_id=name,
    study_id=name,
    split=split,
)
turns = st.builds(Turn, role=st.just("user"), text=text) | st.builds(
    Turn, role=st.just("assistant"), text=text, is_answer=st.booleans()
)
conversations = st.builds(
    Conversation,
    conversation_id=name,
    images=st.lists(images, max_size=2).map(tuple),
    turns=st.lists(turns, min_size=1, max_size=3).map(
        lambda some: (*some, Turn(role="assistant", text="yes", is_answer=True))
    ),
    dataset=name,
    patient_id=name,
    split=split,
)


@st.composite
def completions(draw: st.DrawFn) -> Completion:
    token_ids = draw(st.lists(int32, max_size=8))
    cuts = draw(st.sets(st.integers(1, len(token_ids) - 1))) if len(token_ids) > 1 else set()
    edges = [0, *sorted(cuts), len(token_ids)] if token_ids else []
    return Completion(
        token_ids=tuple(token_ids),
        rollout_logprobs=tuple(draw(st.floats(-1e30, 0.0)) for _ in token_ids),
        versions=tuple(VersionSpan(version=draw(int32), start=start, end=end) for start, end in pairwise(edges)),
        finish_reason=draw(st.sampled_from(["stop", "length", "abort"])),
        text=draw(text),
        scores=draw(
            st.dictionaries(text, st.builds(Score, value=finite, details=st.dictionaries(text, finite, max_size=3)))
        ),
        errors=draw(st.dictionaries(text, st.builds(ScoreError, code=text, message=text), max_size=2)),
        reward=draw(st.none() | finite),
        advantage=draw(st.none() | finite),
    )


groups = st.builds(
    RolloutGroup,
    group_id=text,
    prompt=prompts,
    epoch=int32,
    incarnation=int32,
    sampling=st.builds(
        Sampling,
        temperature=st.floats(0.0, 10.0),
        top_p=st.floats(0.0, 1.0, exclude_min=True),
        top_k=int32,
        max_tokens=st.integers(1, 2**31 - 1),
        seed=st.integers(0, 2**63 - 1),
    ),
    completions=st.lists(completions(), max_size=3).map(tuple),
    fingerprint=text,
    worker=text,
    generate_s=st.floats(0.0, 1e6),
    score_s=st.floats(0.0, 1e6),
)


@st.composite
def processed_prompts(draw: st.DrawFn) -> ProcessedPrompt:
    patches, width = draw(st.integers(0, 4)), draw(st.integers(1, 3))
    pixels: Any = arrays(np.float32, (patches, width), elements=st.floats(-1e3, 1e3, width=32))
    grid: Any = arrays(np.int64, (draw(st.integers(0, 2)), 3), elements=st.integers(1, 1000))
    return ProcessedPrompt(
        input_ids_P=draw(arrays(np.int32, st.integers(0, 6), elements=int32)),
        pixel_values_ND=draw(pixels),
        image_grid_thw_I3=draw(grid),
    )
