"""Weight pushes into a real engine: exact, in flight, and refused when anything is wrong."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from prompts.images import load_image
from rollout import worker as worker_module
from rollout.settings import RolloutSettings
from rollout.shared_buckets import SharedBuckets
from rollout.worker import RolloutWorker
from schemas.errors import RolloutError, WeightPushError
from schemas.group import Sampling
from schemas.prompt import Prompt
from schemas.weights import BucketManifest, TensorSpec, WeightBucket

if TYPE_CHECKING:
    from conftest import Served, StateDict

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="session")]
TOLERANCE = 1e-4  # nats, fp32


async def test_after_a_push_every_logprob_is_the_new_policys(served: Served, phantom_prompts: list[Prompt]) -> None:
    before, processed = await served.generate(phantom_prompts[0], temperature=0.0, group_size=1)
    report = await served.push(served.perturbed(seed=1))
    after, _ = await served.generate(phantom_prompts[0], temperature=0.0, group_size=1)
    assert after[0].versions[0].version == served.worker.version == before[0].versions[0].version + 1
    assert served.gap(after[0], processed, 0.0) < TOLERANCE
    # The old weights would not do: the push is seen.
    old = served.reference.logprobs(served.history[served.worker.version - 1], processed, after[0].token_ids, 0.0)
    assert np.abs(old - np.asarray(after[0].rollout_logprobs)).max() > 100 * TOLERANCE
    assert report.tensors == len(served.history[0])
    assert report.bytes >= sum(4 * t.numel() for t in served.history[0].values())
    assert 0 < report.pause_s <= report.seconds


async def test_a_push_amid_a_completion_splits_it_exactly(served: Served, phantom_prompts: list[Prompt]) -> None:
    """Promise 2: each token's log-probability is its own version's, on both sides of the push."""
    for attempt in range(5):
        task = asyncio.create_task(
            served.generate(phantom_prompts[1], group_size=8, max_tokens=400, seed=100 + attempt)
        )
        await asyncio.sleep(0.4)
        await served.push(served.perturbed(seed=10 + attempt))
        completions, processed = await task
        assert all(served.gap(completion, processed) < TOLERANCE for completion in completions)
        split = [completion for completion in completions if len(completion.versions) == 2]
        if split:
            break
    assert split
    first, second = split[0].versions
    assert (first.version, second.version) == (served.worker.version - 1, served.worker.version)
    assert first.end == second.start
    assert second.end == len(split[0].token_ids)


async def test_groups_that_arrive_during_a_push_are_the_new_policys(
    served: Served, phantom_prompts: list[Prompt]
) -> None:
    push = asyncio.create_task(served.push(served.perturbed(seed=20)))
    await asyncio.sleep(0)
    groups = await asyncio.gather(*(served.generate(prompt, group_size=2) for prompt in phantom_prompts[:4]))
    await push
    for completions, processed in groups:
        assert all(served.gap(completion, processed) < TOLERANCE for completion in completions)


def _flip_a_byte(buckets: list[WeightBucket]) -> list[WeightBucket]:
    data = buckets[-1].data.copy()
    data[buckets[-1].manifest.tensors[-1].offset] ^= 1
    return [*buckets[:-1], WeightBucket(buckets[-1].manifest, data)]


def _with_last_spec(buckets: list[WeightBucket], **fields: object) -> list[WeightBucket]:
    manifest = buckets[-1].manifest
    spec = TensorSpec.model_construct(**{**manifest.tensors[-1].model_dump(), **fields})
    changed = BucketManifest.model_construct(**{**dict(manifest), "tensors": (*manifest.tensors[:-1], spec)})
    return [*buckets[:-1], WeightBucket(changed, buckets[-1].data)]


def _wrong_digest(buckets: list[WeightBucket]) -> list[WeightBucket]:
    return _with_last_spec(buckets, digest="0" * 32)


def _empty_digest(buckets: list[WeightBucket]) -> list[WeightBucket]:
    return _with_last_spec(buckets, digest="")


def _lost_tensor(buckets: list[WeightBucket]) -> list[WeightBucket]:
    manifest = buckets[-1].manifest
    return [
        *buckets[:-1],
        WeightBucket(manifest.model_copy(update={"tensors": manifest.tensors[:-1]}), buckets[-1].data),
    ]


def _lost_bucket(buckets: list[WeightBucket]) -> list[WeightBucket]:
    return buckets[:-1]


def _short_bucket(buckets: list[WeightBucket]) -> list[WeightBucket]:
    return [*buckets[:-1], replace(buckets[-1], data=buckets[-1].data[:-64])]


@pytest.mark.parametrize(
    "damage", [_flip_a_byte, _wrong_digest, _empty_digest, _lost_tensor, _lost_bucket, _short_bucket]
)
async def test_a_damaged_push_is_refused_and_the_old_weights_serve_on(
    served: Served,
    phantom_prompts: list[Prompt],
    pack: Callable[..., list[WeightBucket]],
    damage: Callable[[list[WeightBucket]], list[WeightBucket]],
) -> None:
    version = served.worker.version
    new: StateDict = served.perturbed(seed=30)
    task = asyncio.create_task(served.generate(phantom_prompts[0], group_size=2, max_tokens=100))
    await asyncio.sleep(0.1)
    with pytest.raises(WeightPushError):
        await served.worker.receive_weights(damage(pack(new, version + 1)), version + 1)
    assert served.worker.version == version
    in_flight, processed = await task
    later, _ = await served.generate(phantom_prompts[0], group_size=2)
    for completion in (*in_flight, *later):
        assert {span.version for span in completion.versions} == {version}
        assert served.gap(completion, processed) < TOLERANCE


async def test_a_push_under_a_wrong_version_is_refused(served: Served, pack: Callable[..., list[WeightBucket]]) -> None:
    version = served.worker.version
    with pytest.raises(WeightPushError, match="version"):
        await served.worker.receive_weights(pack(served.history[version], version + 2), version + 1)
    assert served.worker.version == version


async def test_a_good_push_after_a_refused_one_is_served(
    served: Served, phantom_prompts: list[Prompt], pack: Callable[..., list[WeightBucket]]
) -> None:
    version = served.worker.version + 1
    with pytest.raises(WeightPushError, match="digest differs"):
        await served.worker.receive_weights(_flip_a_byte(pack(served.perturbed(seed=40), version)), version)
    await served.push(served.perturbed(seed=41))
    completions, processed = await served.generate(phantom_prompts[0])
    assert all(served.gap(completion, processed) < TOLERANCE for completion in completions)
    assert served.worker.version == version


async def test_a_push_is_copied_beside_the_loop_that_serves(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    copied_in: list[threading.Thread] = []

    class Watched(SharedBuckets):
        def __init__(self, buckets: Any) -> None:
            super().__init__(buckets)
            assert self.update_info  # the copy is complete
            copied_in.append(threading.current_thread())

    monkeypatch.setattr(worker_module, "SharedBuckets", Watched)
    await served.push(served.perturbed(seed=50))
    assert len(copied_in) == 1
    assert copied_in[0] is not threading.current_thread()


class DeadFrom:
    """An AsyncLLM whose process is dead from the first call of ``name`` on."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._dead = False

    def __getattr__(self, name: str) -> Any:
        from vllm.v1.engine.exceptions import EngineDeadError

        async def call(*_: object, **__: object) -> None:
            self._dead = self._dead or name == self._name
            if self._dead:
                raise EngineDeadError

        return call


@pytest.mark.parametrize(
    "call", ["pause_generation", "start_weight_update", "update_weights", "finish_weight_update", "resume_generation"]
)
async def test_an_engine_that_dies_during_a_push_must_be_replaced(
    phantom_prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    from rollout.engine import Engine

    llm: Any = DeadFrom(call)
    worker = RolloutWorker(RolloutSettings(), "nowhere", load_image, "w")
    monkeypatch.setattr(worker, "_engine", Engine(llm, ()), raising=False)
    with pytest.raises(WeightPushError, match="version 1 failed: EngineDeadError"):
        await worker.receive_weights([], 1)
    assert worker.version == 0
    with pytest.raises(RolloutError) as caught:
        await worker.generate_group(
            phantom_prompts[0], group_id="g", epoch=0, incarnation=0, sampling=Sampling(max_tokens=4), group_size=1
        )
    assert caught.value.cause == "weights_unknown"
