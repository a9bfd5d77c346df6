"""The rollout worker on a real engine: what it samples, says about it, and refuses."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from transformers import AutoProcessor

from prompts.images import load_image
from rollout.processor import Processor
from rollout.settings import RolloutSettings
from schemas.errors import RolloutError
from schemas.group import Sampling
from schemas.prompt import ImageRef, Prompt

if TYPE_CHECKING:
    from conftest import Served

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="session")]
TOLERANCE = 1e-4  # nats, fp32


@pytest.mark.parametrize("temperature", [1.0, 0.7, 0.0])
async def test_logprobs_are_those_of_the_sampled_ids_under_transformers(
    served: Served, phantom_prompts: list[Prompt], temperature: float
) -> None:
    completions, processed = await served.generate(phantom_prompts[0], group_size=3, temperature=temperature)
    assert all(served.gap(completion, processed, temperature) < TOLERANCE for completion in completions)


async def test_a_prompt_without_a_picture_is_completed(served: Served, text_prompt: Prompt) -> None:
    completions, processed = await served.generate(text_prompt)
    assert processed.pixel_values_ND.shape[0] == 0
    assert all(served.gap(completion, processed) < TOLERANCE for completion in completions)


async def test_the_text_is_the_ids_detokenised_and_nothing_else(
    served: Served, phantom_prompts: list[Prompt], tiny_model: object
) -> None:
    tokenizer = AutoProcessor.from_pretrained(tiny_model).tokenizer
    completions, _ = await served.generate(phantom_prompts[0], group_size=4)
    assert [c.text for c in completions] == [
        tokenizer.decode(c.token_ids, skip_special_tokens=True) for c in completions
    ]


async def test_the_engine_reads_the_picture_that_travels_with_the_group(
    served: Served, phantom_prompts: list[Prompt]
) -> None:
    first, second = phantom_prompts[0], next(p for p in phantom_prompts if p.images != phantom_prompts[0].images)
    completions, processed = await served.generate(first, group_size=1)
    other = await served.generate(first.model_copy(update={"images": second.images}), group_size=1)
    assert served.gap(completions[0], processed) < TOLERANCE
    assert served.gap(completions[0], other[1]) > 10 * TOLERANCE


async def test_the_fingerprint_is_that_of_the_models_own_processor(
    served: Served, phantom_prompts: list[Prompt], tiny_model: object
) -> None:
    prompt = phantom_prompts[0]
    group, processed = await served.worker.generate_group(
        prompt, group_id="g", epoch=3, incarnation=2, sampling=Sampling(max_tokens=4), group_size=1
    )
    again = Processor(str(tiny_model)).process_prompt(prompt, [load_image(image) for image in prompt.images])
    assert group.fingerprint == processed.fingerprint() == again.fingerprint()
    assert (group.epoch, group.incarnation, group.worker) == (3, 2, "test-worker")


async def test_two_pictures_are_read_in_order(served: Served, phantom_prompts: list[Prompt]) -> None:
    films = [phantom_prompts[0].images[0], phantom_prompts[-1].images[0]]
    prompt = phantom_prompts[0].model_copy(update={"images": tuple(films)})
    completions, processed = await served.generate(prompt, group_size=1)
    swapped = (await served.generate(prompt.model_copy(update={"images": tuple(films[::-1])}), group_size=1))[1]
    assert served.gap(completions[0], processed) < TOLERANCE
    assert served.gap(completions[0], swapped) > 10 * TOLERANCE


async def test_vision_ids_are_never_sampled(served: Served, phantom_prompts: list[Prompt], tiny_model: object) -> None:
    # Untrained weights are close to uniform: unforbidden, 5 of about 330 ids would appear some 20 times here.
    completions, _ = await served.generate(phantom_prompts[0], group_size=32, max_tokens=100)
    forbidden = set(Processor(str(tiny_model)).vision_token_ids)
    sampled = [token for completion in completions for token in completion.token_ids]
    assert len(sampled) > 1000
    assert not forbidden & set(sampled)


async def test_the_same_seed_gives_the_same_group_and_another_seed_another(
    served: Served, phantom_prompts: list[Prompt]
) -> None:
    first, _ = await served.generate(phantom_prompts[0], group_size=4, seed=7)
    again, _ = await served.generate(phantom_prompts[0], group_size=4, seed=7)
    other, _ = await served.generate(phantom_prompts[0], group_size=4, seed=8)
    assert [c.token_ids for c in first] == [c.token_ids for c in again]
    assert {c.token_ids for c in first}.isdisjoint(c.token_ids for c in other)
    assert len({c.token_ids for c in first}) == 4


async def test_greedy_completions_are_equal(served: Served, phantom_prompts: list[Prompt]) -> None:
    completions, _ = await served.generate(phantom_prompts[0], group_size=3, temperature=0.0)
    assert len({c.token_ids for c in completions}) == 1


async def test_more_completions_than_slots_all_arrive(served: Served, phantom_prompts: list[Prompt]) -> None:
    groups = await asyncio.gather(
        *(served.generate(prompt, group_size=16, seed=i) for i, prompt in enumerate(phantom_prompts[:8]))
    )
    for completions, processed in groups:
        assert len(completions) == 16
        assert served.gap(completions[0], processed) < TOLERANCE
    assert served.worker.stats()["running"] == 0


async def test_a_missed_deadline_drops_the_group_and_frees_the_engine(
    served: Served, phantom_prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = served.worker
    with monkeypatch.context() as patch:
        patch.setattr(worker, "_settings", worker._settings.model_copy(update={"group_deadline_s": 0.2}))
        with pytest.raises(RolloutError) as caught:
            await served.generate(phantom_prompts[0], group_size=32, max_tokens=400)
    assert caught.value.cause == "deadline"
    assert worker._engine._llm.get_num_unfinished_requests() == 0
    assert worker.stats()["running"] == 0
    completions, processed = await served.generate(phantom_prompts[0])
    assert served.gap(completions[0], processed) < TOLERANCE


async def test_a_cancelled_group_is_aborted_in_the_engine(served: Served, phantom_prompts: list[Prompt]) -> None:
    task = asyncio.create_task(served.generate(phantom_prompts[0], group_size=8, max_tokens=400))
    while served.worker._engine._llm.get_num_unfinished_requests() < 8:  # noqa: ASYNC110 (vLLM has no event for it)
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert served.worker._engine._llm.get_num_unfinished_requests() == 0


async def test_a_prompt_that_leaves_no_room_is_refused(served: Served, phantom_prompts: list[Prompt]) -> None:
    with pytest.raises(RolloutError) as caught:
        await served.generate(phantom_prompts[0], max_tokens=500)
    assert caught.value.cause == "prompt_too_long"


async def test_a_missing_picture_is_an_error_of_its_own(served: Served, phantom_prompts: list[Prompt]) -> None:
    gone = ImageRef(path="/nowhere/film.png", width=192, height=192)
    with pytest.raises(RolloutError) as caught:
        await served.generate(phantom_prompts[0].model_copy(update={"images": (gone,)}))
    assert caught.value.cause == "image"


async def test_ids_that_the_engine_did_not_read_are_noticed(
    served: Served, phantom_prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    complete = served.worker._engine.complete

    async def with_other_prompt(*arguments: object) -> object:
        outputs = await complete(*arguments)
        outputs[0].prompt_token_ids = outputs[0].prompt_token_ids[1:]
        return outputs

    monkeypatch.setattr(served.worker._engine, "complete", with_other_prompt)
    with pytest.raises(RolloutError) as caught:
        await served.generate(phantom_prompts[0])
    assert caught.value.cause == "prompt_mismatch"


async def test_no_message_holds_the_question(served: Served, phantom_prompts: list[Prompt]) -> None:
    with pytest.raises(RolloutError) as caught:
        await served.generate(phantom_prompts[0], max_tokens=500)
    assert phantom_prompts[0].question not in str(caught.value)


async def test_an_engine_that_does_not_start_says_why(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rollout.engine import AsyncLLM, Engine

    def out_of_memory(_: object) -> Any:
        raise RuntimeError("no memory for the KV cache\nand a long tail")

    monkeypatch.setattr(AsyncLLM, "from_engine_args", out_of_memory)
    with pytest.raises(RolloutError) as caught:
        await Engine.start(RolloutSettings(), str(tiny_model), (), {})
    assert (caught.value.cause, caught.value.message) == ("engine_start", "RuntimeError: no memory for the KV cache")
