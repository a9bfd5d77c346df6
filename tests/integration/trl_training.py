"""A GRPO training with TRL and the reward service: ``python trl_training.py JOB.json``, in TRL's own environment.

Input: a model folder, rows (question, film, reference), a service's address and token. Output: TRL's log and the
completions that it recorded, in the job's folder.
"""

import json
import logging
import sys
from pathlib import Path

STEPS, GROUP = 2, 4


def main(job_file: str) -> None:
    # Not at the top: the test reads the numbers above without TRL.
    from datasets import Dataset, Image
    from trl import GRPOConfig, GRPOTrainer

    from rewards.adapters.trl import OverreadReward

    job = json.loads(Path(job_file).read_text())
    logging.getLogger("trl").setLevel(logging.ERROR)  # its warning about a missing reward quotes the row's texts
    rows = [
        {
            "prompt": [{"role": "user", "content": row["question"]}],
            "image": row["film"],
            "truth": {"report": row["report"], "labels": []},
        }
        for row in job["rows"]
    ]
    trainer = GRPOTrainer(
        model=job["model"],
        reward_funcs=OverreadReward(
            job["address"], weights=job["weights"], task="report", token=job["token"], reference_column="truth"
        ),
        args=GRPOConfig(
            output_dir=job["folder"],
            max_steps=STEPS,
            per_device_train_batch_size=GROUP * len(rows),
            num_generations=GROUP,
            max_completion_length=24,
            learning_rate=1e-3,
            logging_steps=1,
            log_completions=True,
            save_strategy="no",
            report_to="none",
            use_cpu=True,
            bf16=False,
            seed=0,
            generation_kwargs={"suppress_tokens": job["vision_token_ids"]},  # a policy must not write pictures
        ),
        train_dataset=Dataset.from_list(rows).cast_column("image", Image()),
    )
    trainer.train()
    Path(job["folder"], "log.json").write_text(json.dumps(trainer.state.log_history))


if __name__ == "__main__":
    main(sys.argv[1])
