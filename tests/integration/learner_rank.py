"""One DeepSpeed rank of the learner's tests: ``python learner_rank.py RANK WORLD_SIZE MODEL FOLDER JOBS``.

Input: jobs as JSON, {name: [scenario, its keyword arguments]}. Output: each job's numbers in FOLDER/rank-R.json.
A process of its own, since torch's process group lives as long as it; all jobs in one, since imports cost most.
"""

import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()
sys.path[:0] = [str(HERE.parents[2]), str(HERE.parents[1] / "unit" / "learner")]

import numpy as np  # noqa: E402
import torch  # noqa: E402
from learner_cases import make_conversations, make_groups, special_ids  # noqa: E402

from learner import planning  # noqa: E402
from learner.engine import Learner  # noqa: E402
from learner.settings import LearnerSettings  # noqa: E402
from schemas.weights import WeightBucket  # noqa: E402


@dataclasses.dataclass(frozen=True)
class Place:
    rank: int
    world_size: int
    model_path: str
    folder: Path


def learner(place: Place, **settings: Any) -> Learner:
    # A budget of 100 tokens makes several micro-batches, and on two ranks unequally many.
    return Learner(
        LearnerSettings(**{"learning_rate": 1e-3, "micro_batch_tokens": 100, **settings}),
        place.model_path,
        rank=place.rank,
        world_size=place.world_size,
        forbidden_token_ids=tuple(special_ids(place.model_path).values()),
        total_steps=10,
        seed=0,
    )


def digests(buckets: list[WeightBucket]) -> dict[str, str]:
    return {spec.name: spec.digest for bucket in buckets for spec in bucket.manifest.tensors}


def weights(buckets: list[WeightBucket]) -> dict[str, list[float]]:
    """A few numbers of every tensor."""
    values = {}
    for bucket in buckets:
        for spec in bucket.manifest.tensors:
            raw = bucket.data[spec.offset : spec.offset + spec.nbytes]
            tensor = torch.from_numpy(raw.copy()).view(getattr(torch, spec.dtype)).float()
            values[spec.name] = tensor[:: max(1, len(tensor) // 10)].tolist()
    return values


def rl_steps(
    place: Place, group_count: int, steps: int = 2, head_tokens: int = planning.HEAD_TOKENS, **settings: Any
) -> dict[str, Any]:
    """A few GRPO steps: metrics, log-probabilities before each step, and what the weights became."""
    planning.HEAD_TOKENS = head_tokens
    engine = learner(place, **settings)
    groups = make_groups(place.model_path, group_count)[place.rank :: place.world_size]
    before = engine.logprobs(groups)
    results = [engine.train_step(groups, version=step) for step in range(steps)]
    buckets = engine.weight_buckets(steps)
    return {
        "metrics": [result.metrics for result in results],
        "before": before,
        "learner_logprobs": [result.learner_logprobs for result in results],
        "ref_logprobs": [result.ref_logprobs for result in results],
        "digests": digests(buckets),
        "weights": weights(buckets),
    }


def sft_steps(place: Place, steps: int, **settings: Any) -> dict[str, Any]:
    engine = learner(place, **settings)
    batch = make_conversations(place.model_path, 5)[place.rank :: place.world_size]
    return {"metrics": [engine.sft_step(batch) for _ in range(steps)], "weights": weights(engine.weight_buckets(0))}


def resume(place: Place, **settings: Any) -> dict[str, Any]:
    """Two steps, a checkpoint, two more; then a fresh learner from the checkpoint does the last two again."""
    settings |= {"lr_schedule": "cosine", "warmup_steps": 1}
    groups = make_groups(place.model_path, 4)[place.rank :: place.world_size]
    checkpoint = place.folder / "checkpoint"

    def last_two(engine: Learner) -> dict[str, Any]:
        metrics = [engine.train_step(groups, version=v).metrics for v in (2, 3)]
        timeless = [{k: v for k, v in m.items() if not k.endswith("_per_s")} for m in metrics]
        return {"metrics": timeless, "digests": digests(engine.weight_buckets(4)), "random": torch.rand(3).tolist()}

    engine = learner(place, **settings)
    for version in (0, 1):
        engine.train_step(groups, version)
    engine.save_checkpoint(checkpoint)
    saved = digests(engine.weight_buckets(2))
    straight = last_two(engine)
    again = learner(place, **settings)
    untouched = digests(again.weight_buckets(0))
    again.load_checkpoint(checkpoint)
    return {
        "saved": saved,
        "untouched": untouched,
        "loaded": digests(again.weight_buckets(2)),
        "straight": straight,
        "resumed": last_two(again),
    }


def not_finite(place: Place, **settings: Any) -> dict[str, Any]:
    """A step whose picture holds a NaN, between two good ones."""
    engine = learner(place, **settings)
    good = make_groups(place.model_path, 2)[place.rank :: place.world_size]
    group, processed = good[0]
    pixels_ND = processed.pixel_values_ND.copy()
    if place.rank == 0:
        pixels_ND[0, 0] = np.nan
    broken = dataclasses.replace(processed, pixel_values_ND=pixels_ND)
    bad = [(group.model_copy(update={"fingerprint": broken.fingerprint()}), broken), *good[1:]]
    metrics, seen = [], []
    for version, groups in enumerate((good, bad, good)):
        metrics.append(engine.train_step(groups, version).metrics)
        seen.append(digests(engine.weight_buckets(version)))
    return {"metrics": metrics, "digests": seen}


def export(place: Place, **settings: Any) -> dict[str, Any]:
    """A trained model's export, what was sent to the engines, and its log-probabilities."""
    from schemas.errors import DataError

    engine = learner(place, **settings)
    groups = make_groups(place.model_path, 3)
    engine.train_step(groups[place.rank :: place.world_size], 0)
    engine.export(place.folder / "exported")
    try:
        engine.export(place.folder / "exported")
        refused = ""
    except DataError as error:
        refused = str(error)
    return {"digests": digests(engine.weight_buckets(1)), "logprobs": engine.logprobs(groups), "refused": refused}


SCENARIOS = {f.__name__: f for f in (rl_steps, sft_steps, resume, not_finite, export)}


def main() -> None:
    rank, world_size, model_path, folder, jobs = sys.argv[1:]
    torch.set_num_threads(1)
    results = {}
    for name, (scenario, arguments) in json.loads(jobs).items():
        place = Place(int(rank), int(world_size), model_path, Path(folder) / name)
        place.folder.mkdir(exist_ok=True)
        results[name] = SCENARIOS[scenario](place, **arguments)
    results["compiled"] = [path.name for path in Path(os.environ["TORCH_EXTENSIONS_DIR"]).iterdir()]
    (Path(folder) / f"rank-{rank}.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main()
