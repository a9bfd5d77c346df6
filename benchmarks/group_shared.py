"""Group-shared forward and backward against one row a completion: the same policy, groups and loss.

    python -m benchmarks.group_shared

Ours: film and question once, all completions behind them. Other: film, question and completion, row by row, padded.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch

from benchmarks.harness import Row, compare, output_path, report
from learner.batching import Group, group_batch
from learner.policy import Policy, load_model
from learner.tiny_model import build_tiny_model
from prompts.images import load_image
from prompts.phantoms import corpus, write_phantoms
from prompts.store import read_prompts
from rollout.processor import Processor
from schemas.group import Completion, RolloutGroup, Sampling, VersionSpan

GROUPS = 4


def made_up_groups(folder: Path, processor: Processor, size: int, tokens: int) -> list[Group]:
    """Real films and questions with random completions of ``tokens`` tokens."""
    rng = np.random.default_rng(0)
    groups: list[Group] = []
    for prompt in read_prompts(folder)[:GROUPS]:
        processed = processor.process_prompt(prompt, [load_image(image) for image in prompt.images])
        completions = tuple(
            Completion(
                token_ids=tuple(rng.integers(0, 300, tokens).tolist()),
                rollout_logprobs=(-1.0,) * tokens,
                versions=(VersionSpan(version=0, start=0, end=tokens),),
                finish_reason="length",
                text="",
                reward=0.0,
                advantage=1.0,
            )
            for _ in range(size)
        )
        group = RolloutGroup(
            group_id=prompt.prompt_id,
            prompt=prompt,
            epoch=0,
            incarnation=0,
            sampling=Sampling(max_tokens=tokens),
            completions=completions,
            fingerprint=processed.fingerprint(),
            worker="none",
            generate_s=0.0,
        )
        groups.append((group, processed))
    return groups


def one_completion_each(groups: list[Group]) -> list[Group]:
    """The same completions, each in a group of its own: what is shared is computed for every one of them."""
    return [
        (group.model_copy(update={"completions": (completion,)}), processed)
        for group, processed in groups
        for completion in group.completions
    ]


def measure(size: int, tokens: int, policy: Policy, folder: Path, processor: Processor) -> Row:
    """Forward and backward over the same completions both ways."""
    groups = made_up_groups(folder, processor, size, tokens)
    facts = policy.facts()

    def step(batch: list[Group]) -> None:
        rows = group_batch(batch, range(len(batch)), facts).rows
        policy(rows, True, 1).mean().backward()
        policy.zero_grad(set_to_none=True)

    single = one_completion_each(groups)
    return compare(f"{size} completions of {tokens} tokens", lambda: step(groups), lambda: step(single))


def main() -> None:
    """The command line."""
    out = output_path()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder, model = Path(name) / "phantoms", Path(name) / "model"
        write_phantoms(folder, count=10, seed=0)
        build_tiny_model(model, corpus(), seed=0)
        processor = Processor(str(model))
        policy = Policy(load_model(str(model), torch.float32), processor.vision_token_ids)
        rows = [
            measure(size, tokens, policy, folder, processor) for size, tokens in ((4, 40), (8, 40), (16, 40), (8, 120))
        ]
    report("group_shared", rows, out)


if __name__ == "__main__":
    main()
