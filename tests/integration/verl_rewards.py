"""verl's own reward loop with the reward service: ``python verl_rewards.py JOB.json``, in verl's own environment.

Input: verl's command-line overrides, a tokenizer's folder, rows (completion, truth, extra_info). Output: on standard
output, one JSON list of what verl's RewardLoopWorker made of each row, or the name and message of what it raised.
"""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any


def batch(rows: list[dict[str, Any]], tokenizer: Any) -> Any:
    """The rows as verl holds them after a rollout."""
    import numpy as np
    import torch
    from verl import DataProto

    texts = [tokenizer.encode(row["completion"], add_special_tokens=False) for row in rows]
    longest = max(map(len, texts))
    padded = [[*ids, *[tokenizer.pad_token_id] * (longest - len(ids))] for ids in texts]
    mask = [[1, *[1] * len(ids), *[0] * (longest - len(ids))] for ids in texts]  # a prompt of one token
    return DataProto.from_dict(
        tensors={
            "prompts": torch.ones(len(rows), 1, dtype=torch.int64),
            "responses": torch.tensor(padded),
            "attention_mask": torch.tensor(mask),
        },
        non_tensors={
            "data_source": np.array(["openi"] * len(rows), dtype=object),
            "reward_model": np.array([{"style": "rule", "ground_truth": row["truth"]} for row in rows], dtype=object),
            "extra_info": np.array([row["extra_info"] for row in rows], dtype=object),
        },
    )


async def rewards(job: dict[str, Any]) -> list[Any]:
    from hydra import compose, initialize_config_module
    from verl.experimental.reward_loop.reward_loop import RewardLoopWorker

    with initialize_config_module("verl.trainer.config", version_base=None):
        config = compose("ppo_trainer", overrides=[*job["overrides"], f"actor_rollout_ref.model.path={job['model']}"])
    worker = RewardLoopWorker(config)
    data = batch(job["rows"], worker.input_tokenizer)
    return list(await worker.compute_score_batch(data))


def main(job_file: str) -> None:
    job = json.loads(Path(job_file).read_text())
    try:
        made: object = asyncio.run(rewards(job))
    except Exception as error:  # noqa: BLE001 - whatever verl lets through is what the test looks at
        made = {"type": type(error).__name__, "message": str(error)}
    print(json.dumps(made))  # noqa: T201 - the answer


if __name__ == "__main__":
    main(sys.argv[1])
