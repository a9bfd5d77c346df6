"""What tests of several rooms share: a tiny model, phantom prompts, and one running engine.

Everything is made on first use: a test that asks for nothing pays nothing.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import pytest_asyncio

from schemas.group import Completion, Sampling
from schemas.processed import ProcessedPrompt
from schemas.prompt import Prompt
from schemas.weights import ALIGNMENT, BucketManifest, TensorSpec, WeightBucket, digest_of

if TYPE_CHECKING:
    import torch

    from rollout.worker import PushReport, RolloutWorker

StateDict = dict[str, "torch.Tensor"]


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder: the demo's architecture, tokenizer and chat template, random weights."""
    from learner.tiny_model import build_tiny_model
    from prompts.phantoms import corpus

    folder = tmp_path_factory.mktemp("model") / "tiny"
    build_tiny_model(folder, corpus(), seed=0)
    return folder


@pytest.fixture(scope="session")
def phantom_prompts(tmp_path_factory: pytest.TempPathFactory) -> list[Prompt]:
    """A handful of prompts with one film each, reports and groundings."""
    from prompts.phantoms import write_phantoms
    from prompts.store import read_prompts

    folder = tmp_path_factory.mktemp("data") / "phantoms"
    write_phantoms(folder, count=6, seed=1)
    return read_prompts(folder)


@pytest.fixture(scope="session")
def text_prompt(phantom_prompts: list[Prompt]) -> Prompt:
    """A prompt without a picture."""
    return phantom_prompts[0].model_copy(update={"prompt_id": "text-only", "images": ()})


def pack_weights(state: Mapping[str, torch.Tensor], version: int, buckets: int = 2) -> list[WeightBucket]:
    """Weights in the wire format, written independently of the learner's sender."""
    names = sorted(state)
    size = -(-len(names) // buckets)
    return [_bucket({name: state[name] for name in names[i : i + size]}, version) for i in range(0, len(names), size)]


def _bucket(state: Mapping[str, torch.Tensor], version: int) -> WeightBucket:
    specs, chunks, offset = [], [], 0
    for name, tensor in state.items():
        raw = tensor.detach().contiguous().numpy().tobytes()
        padding = -len(raw) % ALIGNMENT
        specs.append(
            TensorSpec(
                name=name,
                dtype=str(tensor.dtype).removeprefix("torch."),
                shape=tuple(tensor.shape),
                offset=offset,
                nbytes=len(raw),
                digest=digest_of(raw),
            )
        )
        chunks.append(raw + b"\0" * padding)
        offset += len(raw) + padding
    data = np.frombuffer(b"".join(chunks), dtype=np.uint8)
    return WeightBucket(BucketManifest(version=version, tensors=tuple(specs), nbytes=offset), data)


class ReferencePolicy:
    """transformers' forward of the tiny model, one row a completion: the truth that the engine is held to."""

    def __init__(self, folder: Path, forbidden_token_ids: Sequence[int]) -> None:
        import torch
        from transformers import Qwen3VLForConditionalGeneration

        torch.set_num_threads(1)  # the engine has the other core
        self._model = Qwen3VLForConditionalGeneration.from_pretrained(folder).eval()
        self._image_token_id = self._model.config.image_token_id
        self._forbidden = list(forbidden_token_ids)

    def weights(self) -> StateDict:
        """Every tensor of the model folder, copied; the tied head has none of its own."""
        state = self._model.state_dict()
        return {name: tensor.clone() for name, tensor in state.items() if name != "lm_head.weight"}

    def logprobs(
        self,
        weights: Mapping[str, torch.Tensor],
        processed: ProcessedPrompt,
        token_ids: Sequence[int],
        temperature: float,
    ) -> np.ndarray:
        """Log-probabilities of ``token_ids`` under ``weights``, float32 [tokens]; forbidden ids are left out."""
        import torch

        self._model.load_state_dict(dict(weights), strict=False)
        prompt_length = len(processed.input_ids_P)
        ids = torch.tensor([[*processed.input_ids_P.tolist(), *token_ids]])
        pictures: dict[str, Any] = {}
        if len(processed.image_grid_thw_I3):
            pictures = {
                "pixel_values": torch.from_numpy(np.array(processed.pixel_values_ND)),
                "image_grid_thw": torch.from_numpy(np.array(processed.image_grid_thw_I3)),
                "mm_token_type_ids": (ids == self._image_token_id).int(),
            }
        with torch.no_grad():
            logits_LV = self._model(input_ids=ids, attention_mask=torch.ones_like(ids), **pictures).logits[0]
        logits_TV = logits_LV[prompt_length - 1 : -1].float()
        logits_TV[:, self._forbidden] = -torch.inf
        logprobs_TV = torch.log_softmax(logits_TV / (temperature or 1.0), dim=-1)
        return logprobs_TV.gather(1, torch.tensor(token_ids)[:, None])[:, 0].numpy()


@dataclass
class Served:
    """The running worker, and the weights of every version that it has served."""

    worker: RolloutWorker
    reference: ReferencePolicy
    history: dict[int, StateDict] = field(default_factory=dict)

    async def generate(
        self, prompt: Prompt, group_size: int = 2, **sampling: Any
    ) -> tuple[tuple[Completion, ...], ProcessedPrompt]:
        group, processed = await self.worker.generate_group(
            prompt,
            group_id="g",
            epoch=0,
            incarnation=0,
            sampling=Sampling(**{"max_tokens": 24, **sampling}),
            group_size=group_size,
        )
        return group.completions, processed

    def perturbed(self, seed: int, scale: float = 0.3) -> StateDict:
        """The current weights plus noise, relative to each tensor's spread."""
        import torch

        generator = torch.Generator().manual_seed(seed)
        return {
            name: tensor + scale * tensor.std() * torch.randn(tensor.shape, generator=generator)
            for name, tensor in self.history[self.worker.version].items()
        }

    async def push(self, weights: StateDict) -> PushReport:
        version = self.worker.version + 1
        report = await self.worker.receive_weights(pack_weights(weights, version), version)
        self.history[version] = weights
        return report

    def gap(self, completion: Completion, processed: ProcessedPrompt, temperature: float = 1.0) -> float:
        """Largest difference between engine and reference, each token under its own version's weights."""
        gap = 0.0
        for span in completion.versions:
            expected = self.reference.logprobs(
                self.history[span.version], processed, completion.token_ids[: span.end], temperature
            )
            given = np.asarray(completion.rollout_logprobs[span.start : span.end])
            gap = max(gap, float(np.abs(expected[span.start :] - given).max()))
        return gap


@pytest.fixture(scope="session")
def pack() -> Callable[..., list[WeightBucket]]:
    """``pack_weights``."""
    return pack_weights


@pytest.fixture(scope="session")
def monkeypatch_session() -> Iterator[pytest.MonkeyPatch]:
    """Undone when the session ends."""
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def served(tiny_model: Path, monkeypatch_session: pytest.MonkeyPatch) -> AsyncIterator[Served]:
    """The one engine of the test session; tests that use it run in the session's event loop."""
    from prompts.images import load_image
    from rollout.processor import Processor
    from rollout.settings import RolloutSettings
    from rollout.worker import RolloutWorker

    # Inherited by the engine's process. More threads than cores make every step several times slower.
    monkeypatch_session.setenv("OMP_NUM_THREADS", "1")
    settings = RolloutSettings(max_num_seqs=64, kv_cache_mib=128)
    worker = RolloutWorker(settings, str(tiny_model), load_image, name="test-worker")
    await worker.start()
    try:
        reference = ReferencePolicy(tiny_model, Processor(str(tiny_model)).vision_token_ids)
        yield Served(worker, reference, {0: reference.weights()})
    finally:
        await worker.close()
