"""A synthetic run folder for the report's tests: every file that the report reads, with plausible numbers.

Run it to develop the page: ``python tests/unit/orchestration/synthetic_run.py FOLDER``.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from PIL import Image, ImageDraw

from schemas.arrow import groups_to_table
from schemas.group import Completion, RolloutGroup, Sampling, Score, VersionSpan
from schemas.prompt import Box, ImageRef, Prompt, Reference

FINDINGS = ("nodule", "pleural effusion", "consolidation", "cardiomegaly")
CONFIG = """# overread 0.1.0, commit 3f2a91c
name = "phantom-cpu"
seed = 0
model = "tiny"
steps = 60
groups_per_step = 16
max_staleness = 1

[rollout]
group_size = 8
max_tokens = 64

[learner]
ranks = 1
learning_rate = 0.0002

[bounds]
logprob_gap = 0.001
"""


def write_film(path: Path, boxes: list[Box], seed: int) -> None:
    """A grey chest of 192 x 192 pixels with a brighter patch in every box."""
    rng = np.random.default_rng(seed)
    picture = Image.new("L", (192, 192), 150)
    draw = ImageDraw.Draw(picture)
    draw.ellipse((24, 24, 90, 172), fill=38)
    draw.ellipse((102, 24, 168, 172), fill=38)
    draw.ellipse((76, 92, 132, 164), fill=165)
    for rib in range(5):
        draw.arc((14, 20 + 26 * rib, 178, 82 + 26 * rib), 200, 340, fill=92, width=4)
    for box in boxes:
        draw.ellipse([192 * c for c in box.corners], fill=118)
    noisy = np.asarray(picture, dtype=np.float64) + rng.normal(0, 9, size=(192, 192))
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(path)


def completion(text: str, scores: dict[str, float], version: int) -> Completion:
    return Completion(
        token_ids=(1, 2, 3),
        rollout_logprobs=(-0.1, -0.2, -0.3),
        versions=(VersionSpan(version=version, start=0, end=3),),
        finish_reason="stop",
        text=text,
        scores={name: Score(value=value) for name, value in scores.items()},
    )


def group(prompt: Prompt, text: str, scores: dict[str, float], version: int) -> RolloutGroup:
    return RolloutGroup(
        group_id=f"eval-{version}-{prompt.prompt_id}",
        prompt=prompt,
        epoch=0,
        incarnation=0,
        sampling=Sampling(temperature=0.0, max_tokens=64),
        completions=(completion(text, scores, version),),
        fingerprint="0" * 32,
        worker="rollout-0",
        generate_s=0.4,
    )


def _loosened(box: Box, factor: float, shift: float) -> Box:
    x, y = (box.x1 + box.x2) / 2 + shift, (box.y1 + box.y2) / 2 - shift
    w, h = factor * (box.x2 - box.x1) / 2, factor * (box.y2 - box.y1) / 2
    return Box(x1=max(0.0, x - w), y1=max(0.0, y - h), x2=min(1.0, x + w), y2=min(1.0, y + h))


def _sentence(finding: str, boxes: list[Box]) -> str:
    places = " and ".join("[" + ", ".join(f"{c:.2f}" for c in box.corners) + "]" for box in boxes)
    return f"The {finding} is at {places}."


def make_groups(films: Path, studies: int) -> tuple[list[RolloutGroup], list[RolloutGroup]]:
    """Two prompts a study (grounding and report), answered loosely before and better after."""
    rng = np.random.default_rng(1)
    before: list[RolloutGroup] = []
    after: list[RolloutGroup] = []
    for number in range(studies):
        finding = FINDINGS[number % len(FINDINGS)]
        boxes = []
        for side in range(1 + number % 2):
            x, y = rng.uniform(0.16, 0.3) + 0.42 * side, rng.uniform(0.25, 0.6)
            boxes.append(Box(x1=x, y1=y, x2=x + 0.16, y2=y + 0.18, label=finding))
        image = films / f"study-{number:03d}.png"
        write_film(image, boxes, number)
        common = {
            "images": (ImageRef(path=str(image), width=192, height=192),),
            "dataset": "phantoms",
            "patient_id": f"patient-{number:03d}",
            "study_id": f"study-{number:03d}",
            "split": "test",
        }
        grounding = Prompt(
            prompt_id=f"p{number:03d}-g",
            task="grounding",
            question=f"Where is the {finding}?",
            box_format="radvlm",
            reference=Reference(boxes=tuple(boxes)),
            **common,
        )
        truth = (
            f"The heart is of normal size. There is a {finding} in the "
            f"{'right lung' if len(boxes) == 1 else 'right and left lung'}. "
            "No pneumothorax is seen. The bones are intact."
        )
        report = Prompt(
            prompt_id=f"p{number:03d}-r",
            task="report",
            question="Write the findings of this chest film.",
            reference=Reference(report=truth),
            **common,
        )
        loose = [_loosened(b, 1.6, 0.03) for b in boxes]
        tight = [_loosened(b, 1.12, 0.01) for b in boxes]
        early = f"The heart is enlarged. There is a {finding}, unchanged since the earlier film. The bones are intact."
        late = truth.replace("of normal size", "not enlarged") if number % 3 == 0 else truth
        before.append(group(grounding, _sentence(finding, loose), {"soft_f1": 0.36, "format": 1.0}, 0))
        after.append(group(grounding, _sentence(finding, tight), {"soft_f1": 0.74, "format": 1.0}, 60))
        before.append(group(report, early, {"rouge_l": 0.48, "chexpert_f1": 0.5, "prior_references": 1.0}, 0))
        after.append(group(report, late, {"rouge_l": 0.93, "chexpert_f1": 1.0, "prior_references": 0.0}, 60))
    return before, after


def metric_rows(steps: int) -> list[dict[str, float | int | None]]:
    rng = np.random.default_rng(2)
    rows: list[dict[str, float | int | None]] = []
    for step in range(1, steps + 1):
        gain = 1 - math.exp(-3 * step / steps)
        wait, train, push = rng.gamma(3, 0.12), 0.95 + rng.normal(0, 0.05), 0.09 + rng.gamma(2, 0.01)
        rows.append(
            {
                "step": step,
                "policy_version": step,
                "reward/mean": 0.42 + 0.22 * gain + rng.normal(0, 0.03),
                "reward/std": 0.21 - 0.05 * gain + rng.normal(0, 0.01),
                "score/soft_f1/mean": 0.33 + 0.11 * gain + rng.normal(0, 0.03),
                "score/rouge_l/mean": 0.56 + 0.12 * gain + rng.normal(0, 0.02),
                "score/chexpert_f1/mean": 0.6 + 0.1 * gain + rng.normal(0, 0.03),
                "score/format/mean": 0.97 + 0.02 * gain,
                "groups/trained": 16,
                "groups/dropped": int(rng.random() < 0.05),
                "groups/zero_advantage": int(rng.integers(0, 3)),
                "staleness/mean": 0.0 if step == 1 else float(rng.uniform(0.5, 0.9)),
                "staleness/max": 0 if step == 1 else 1,
                "loss": rng.normal(0, 0.01),
                "kl": 0.02 * gain + abs(rng.normal(0, 0.001)),
                "clip_fraction": 0.01 + abs(rng.normal(0, 0.004)),
                "grad_norm": 0.6 + rng.gamma(2, 0.1),
                "logprob_gap/max": None if step % 9 == 0 else 10 ** rng.normal(-5.6, 0.2),
                "policy_gap/max": None if step == 1 else 10 ** rng.normal(-1.2, 0.2),
                "push/canary_gap": 10 ** rng.normal(-6.0, 0.2),
                "eval/phantoms/soft_f1": None if step % 20 else 0.33 + 0.1 * gain,
                "rollout/tokens_per_s": 3400 + rng.normal(0, 120),
                "learner/tokens_per_s": 5100 + rng.normal(0, 200),
                "completion/tokens_mean": 38 - 4 * gain + rng.normal(0, 1),
                "time/step_s": wait + train + push + 0.08,
                "time/wait_for_groups_s": wait,
                "time/train_s": train,
                "time/push_s": push,
                "time/reward_s": 0.03 + rng.gamma(2, 0.005),
            }
        )
    return rows


def event_rows(steps: int) -> list[dict[str, object]]:
    start = 1_760_000_000.0
    events: list[dict[str, object]] = [{"time": start, "kind": "started", "incarnation": 0}]
    events.append({"time": start + 41.2, "kind": "evaluation", "when": "before", "prompts": 160})
    for step in range(1, steps + 1):
        events.append(
            {"time": start + 60 + 1.6 * step, "kind": "push", "version": step, "seconds": 0.091, "bytes": 4_612_096}
        )
    events.append({"time": start + 101.0, "kind": "reward_outage", "waited_s": 5.04, "cause": "unreachable"})
    events.append({"time": start + 106.1, "kind": "reward_back"})
    events.append({"time": start + 60 + 1.6 * steps, "kind": "checkpoint", "step": steps})
    return sorted(events, key=lambda event: float(str(event["time"])))


SUMMARY = {
    "name": "phantom-cpu",
    "status": "finished",
    "steps": 60,
    "model": "tiny",
    "machine": {"cores": 2, "memory_gib": 23.5},
    "seconds": {
        "phantoms": 6.3,
        "tiny model": 1.8,
        "warm start": 152.0,
        "cluster": 61.5,
        "evaluation before": 14.2,
        "training": 104.6,
        "evaluation after": 13.1,
        "total": 356.9,
    },
    "eval": {
        "before": {
            "soft_f1": {"mean": 0.331, "ci95": [0.301, 0.362], "n": 160},
            "rouge_l": {"mean": 0.562, "ci95": [0.540, 0.584], "n": 160},
            "chexpert_f1": {"mean": 0.611, "ci95": [0.566, 0.655], "n": 160},
            "prior_references": {"mean": 0.256, "ci95": [0.194, 0.325], "n": 160},
        },
        "after": {
            "soft_f1": {"mean": 0.425, "ci95": [0.391, 0.459], "n": 160},
            "rouge_l": {"mean": 0.654, "ci95": [0.630, 0.677], "n": 160},
            "chexpert_f1": {"mean": 0.626, "ci95": [0.582, 0.670], "n": 160},
            "prior_references": {"mean": 0.019, "ci95": [0.0, 0.044], "n": 160},
        },
        "difference": {
            "soft_f1": {"mean": 0.094, "ci95": [0.061, 0.127], "n": 160},
            "rouge_l": {"mean": 0.092, "ci95": [0.070, 0.114], "n": 160},
            "chexpert_f1": {"mean": 0.015, "ci95": [-0.021, 0.052], "n": 160},
            "prior_references": {"mean": -0.237, "ci95": [-0.306, -0.169], "n": 160},
        },
    },
    "bounds": [
        {"what": "demo, from clone to end", "measured": 11.2, "bound": 12, "goal": 9, "unit": "min", "met": True},
        {"what": "soft_f1 gained", "measured": 0.094, "bound": 0.05, "unit": "", "met": True},
        {"what": "logprob_gap/max", "measured": 4.1e-6, "bound": 1e-3, "unit": "nats", "met": True},
        {"what": "slowest weight push", "measured": 0.61, "bound": 0.5, "unit": "s", "met": False},
        {"what": "driver's peak memory", "measured": 412, "bound": 1024, "unit": "MiB", "met": True},
    ],
    "groups": {"by_state": {"trained": 960, "dropped": 3}, "dropped_by_cause": {"deadline": 2, "few_scores": 1}},
    "versions": {"overread": "0.1.0", "torch": "2.13.0", "vllm": "0.32.0", "deepspeed": "0.19.8", "ray": "2.60.0"},
    "command": "overread train recipes/phantom-cpu.toml",
}


def write_run(folder: Path, steps: int = 60, studies: int = 12) -> Path:
    """Write a whole run folder and return it."""
    films = folder / "films"
    films.mkdir(parents=True)
    (folder / "evaluations").mkdir()
    (folder / "config.toml").write_text(CONFIG)
    (folder / "summary.json").write_text(json.dumps(SUMMARY))
    for name, rows in (("metrics.jsonl", metric_rows(steps)), ("events.jsonl", event_rows(steps))):
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    before, after = make_groups(films, studies)
    pq.write_table(groups_to_table(before), folder / "evaluations" / "before.parquet")
    pq.write_table(groups_to_table(after), folder / "evaluations" / "after.parquet")
    return folder


if __name__ == "__main__":
    write_run(Path(sys.argv[1]))
