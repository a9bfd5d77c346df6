"""A recorded step holds every rank's groups with the log-probabilities of learner and reference policy."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from orchestration import actors
from schemas.arrow import groups_to_table, table_to_groups
from schemas.group import Completion, RolloutGroup, Sampling, VersionSpan
from schemas.prompt import Prompt, Reference

PROMPT = Prompt(
    prompt_id="p",
    task="report",
    question="Describe the film.",
    reference=Reference(),
    dataset="d",
    patient_id="x",
    study_id="y",
    split="train",
)


def _group(number: int) -> RolloutGroup:
    completion = Completion(
        token_ids=(5, 6),
        rollout_logprobs=(-0.5, -1.5),
        versions=(VersionSpan(version=0, start=0, end=2),),
        finish_reason="stop",
        text="clear lungs",
    )
    return RolloutGroup(
        group_id=f"g{number}",
        prompt=PROMPT,
        epoch=0,
        incarnation=0,
        sampling=Sampling(max_tokens=2),
        completions=(completion, completion),
        fingerprint="f",
        worker="w",
        generate_s=1.0,
    )


def _logprobs(start: float) -> list[list[float]]:
    """Of one group: two completions of two tokens, all different, all exact in float32."""
    return [[start, start - 0.25], [start - 0.5, start - 0.75]]


@pytest.mark.parametrize("with_reference", [True, False])
def test_a_step_of_two_ranks_is_read_back_with_each_groups_own_logprobs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, with_reference: bool
) -> None:
    monkeypatch.setattr(actors, "log_to", lambda _: None)  # it would take this process's output away
    groups = [_group(number) for number in (0, 2, 1)]  # rank 0 trained on two of them, rank 1 on one
    learner = [_logprobs(-1.0), _logprobs(-2.0), _logprobs(-3.0)]
    ref = [_logprobs(-11.0), _logprobs(-12.0), _logprobs(-13.0)] if with_reference else None
    ranks = [
        actors.StepLogprobs(learner[:2], ref[:2] if ref else None),
        actors.StepLogprobs(learner[2:], ref[2:] if ref else None),
    ]
    path = tmp_path / "step.parquet"
    size = actors.Recorder(tmp_path / "log").write_step(path, 7, 2, *ranks, *(groups_to_table([g]) for g in groups))
    table = pq.read_table(path)
    assert size == path.stat().st_size
    assert table_to_groups(table) == groups
    assert table["step"].to_pylist() == [7, 7, 7]
    assert table["learner_logprobs"].to_pylist() == learner
    assert table["ref_logprobs"].to_pylist() == (ref or [None] * 3)
