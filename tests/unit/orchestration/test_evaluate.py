from __future__ import annotations

from pathlib import Path

import numpy as np

from orchestration.evaluate import Evaluation, choose_prompts, difference
from schemas.prompt import Prompt, Reference, Task


def _prompt(number: int, task: Task) -> Prompt:
    return Prompt(
        prompt_id=f"{task}-{number}",
        task=task,
        question="q",
        reference=Reference(report="r"),
        dataset="d",
        patient_id=f"p{number // 2}",
        study_id="s",
        split="test",
    )


def _evaluation(values: dict[str, float]) -> Evaluation:
    return Evaluation(
        values={"soft_f1": values},
        patients={prompt_id: prompt_id for prompt_id in values},
        datasets=dict.fromkeys(values, "d"),
        missing=0,
    )


def test_the_choice_of_prompts_is_seeded_per_task_and_independent_of_their_order() -> None:
    prompts = [_prompt(n, task) for n in range(30) for task in ("report", "grounding")]
    chosen = choose_prompts(prompts, 5, seed=3)
    assert sorted(p.task for p in chosen) == ["grounding"] * 5 + ["report"] * 5
    assert choose_prompts(prompts[::-1], 5, seed=3) == chosen
    assert choose_prompts(prompts, 5, seed=4) != chosen
    assert len(choose_prompts(prompts, 1000, seed=3)) == len(prompts)


def test_a_difference_is_after_minus_before_over_the_prompts_that_both_scored() -> None:
    before = _evaluation({"a": 0.1, "b": 0.2, "c": 0.9})
    after = _evaluation({"a": 0.3, "b": 0.4, "d": 0.0})
    interval = difference(before, after, seed=0)["soft_f1"]
    assert interval.n == 2
    assert np.isclose(interval.mean, 0.2)
    assert np.allclose(interval.ci95, 0.2)


def test_an_evaluation_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    evaluation = _evaluation({"a": 0.1, "b": 0.2})
    evaluation.write(tmp_path / "e.json")
    assert Evaluation.read(tmp_path / "e.json") == evaluation
    assert np.isclose(evaluation.means()["eval/d/soft_f1"], 0.15)
