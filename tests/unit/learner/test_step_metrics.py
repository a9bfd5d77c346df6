from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from learner_cases import make_group, make_prompt

from learner.step_metrics import UpdateSums, token_metrics, update_metrics
from schemas.group import RolloutGroup, VersionSpan

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _one_rank(tmp_path: Path) -> Iterator[None]:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def group_of(model_path: str, spans: list[tuple[VersionSpan, ...]]) -> RolloutGroup:
    rng = np.random.default_rng(0)
    processed = make_prompt(model_path, rng, ())
    group = make_group("g", processed, rng, lengths=tuple(s[-1].end for s in spans))
    completions = tuple(c.model_copy(update={"versions": s}) for c, s in zip(group.completions, spans, strict=True))
    return group.model_copy(update={"completions": completions})


def test_gaps_are_kept_apart_by_the_version_that_made_the_token(model_path: str):
    # Tokens 0-1 from version 4, tokens 2-4 from version 5, which is the learner's.
    spans = [(VersionSpan(version=4, start=0, end=2), VersionSpan(version=5, start=2, end=5))]
    group = group_of(model_path, spans)
    gaps_T = torch.tensor([0.5, -0.25, 0.001, -0.002, 0.0])
    logprobs_T = torch.tensor(group.completions[0].rollout_logprobs) + gaps_T
    metrics = token_metrics([group], {0: logprobs_T}, 5, CPU)
    assert metrics["policy_gap/max"] == pytest.approx(0.5, abs=1e-6)
    assert metrics["logprob_gap/max"] == pytest.approx(0.002, abs=1e-6)
    assert metrics["staleness/mean"] == pytest.approx(0.4)
    assert metrics["staleness/max"] == 1.0


def test_a_step_without_tokens_of_its_own_version_has_no_log_probability_gap(model_path: str):
    group = group_of(model_path, [(VersionSpan(version=2, start=0, end=3),)])
    metrics = token_metrics([group], {0: torch.zeros(3)}, 4, CPU)
    assert metrics["logprob_gap/max"] is None
    assert metrics["policy_gap/max"] is not None
    assert metrics["staleness/mean"] == 2.0


def test_a_nan_is_no_agreement(model_path: str):
    group = group_of(model_path, [(VersionSpan(version=2, start=0, end=3),)])
    metrics = token_metrics([group], {0: torch.tensor([-6.0, torch.nan, -6.0])}, 2, CPU)
    assert metrics["logprob_gap/max"] is None


def test_sums_become_token_means_and_skipped_updates_are_counted():
    updates = [
        UpdateSums(loss=8.0, kl=2.0, clipped=1.0, tokens=4.0, grad_norm=3.0, applied=True),
        UpdateSums(loss=1.0, kl=0.0, clipped=1.0, tokens=2.0, grad_norm=float("inf"), applied=False),
    ]
    metrics = update_metrics(updates, CPU)
    assert metrics == {"loss": 1.25, "kl": 0.25, "clip_fraction": 0.375, "grad_norm": 3.0, "updates_skipped": 1.0}


def test_a_loss_that_is_not_finite_is_none():
    skipped = UpdateSums(loss=float("nan"), kl=0.0, clipped=0.0, tokens=4.0, grad_norm=float("inf"), applied=False)
    metrics = update_metrics([skipped], CPU)
    assert metrics["loss"] is None
    assert metrics["grad_norm"] is None
