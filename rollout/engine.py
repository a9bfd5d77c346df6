"""Engine: a running vLLM AsyncLLM, narrowed to what a rollout worker needs.

Role: start, complete a processed prompt several times, swap the weights in flight, stop.
Input: settings, a model folder, EnginePrompts. Output: vLLM's RequestOutputs, one per completion.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections.abc import Sequence
from typing import Any

import torch
from vllm.config import WeightTransferConfig
from vllm.distributed.weight_transfer.base import WeightTransferInitRequest, WeightTransferUpdateRequest
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.outputs import RequestOutput
from vllm.sampling_params import RequestOutputKind, SamplingParams
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError

from rollout.engine_input import EnginePrompt
from rollout.settings import RolloutSettings
from rollout.weight_receiver import BACKEND, REFUSED, ReceiverRegistration
from schemas.errors import RolloutError, WeightPushError
from schemas.group import Sampling

MAX_PICTURES = 4  # a prompt: two films and their priors
PICTURE_CACHE_GIB = 0.5  # pixel values that the engine keeps, so that a group sends its pictures once
SHUTDOWN_GRACE_S = 2.0  # then the engine's process is killed; it holds nothing that outlives it
BATCHED_TOKENS = 4096  # of one engine step, at least; whole prompts must fit (below)
# vLLM refuses to start with less than this share of a card free. What it takes follows from the weights and
# kv_cache_mib, not from the share, and the learner may hold most of the card already.
SHARED_CARD_SHARE = 0.1
CPU_BLOCK_SIZE = 32  # tokens; the CPU kernels want multiples of 32, and 128 (the default) never shares a short prompt


class Engine:
    """Use ``Engine.start``. One event loop; not thread-safe."""

    def __init__(self, llm: AsyncLLM, forbidden_token_ids: Sequence[int]) -> None:
        self._llm = llm
        self._request_numbers = itertools.count()
        # -inf on a logit: never sampled, and left out of the normalisation (logprobs_mode below). As cheap for a
        # vocabulary of 150,000 as for one of 300, unlike a list of all allowed ids with every request.
        self._forbidden = dict.fromkeys(forbidden_token_ids, float("-inf"))
        # Held while a request is handed over and during a push: which pictures the engine holds is known on both
        # sides only if requests arrive in the order in which they were looked up, and not while caches are cleared.
        self._handing_over = asyncio.Lock()

    @classmethod
    async def start(
        cls,
        settings: RolloutSettings,
        model_path: str,
        forbidden_token_ids: Sequence[int],
        tensor_shapes: dict[str, list[int]],
    ) -> Engine:
        """Load the model in a process of its own; it serves version 0.

        Args:
            settings: the ``[rollout]`` table.
            model_path: a Hugging Face folder.
            forbidden_token_ids: ids that are never sampled.
            tensor_shapes: name -> shape of every tensor that a push has to bring.

        Raises:
            RolloutError: ``engine_start``.
        """
        if not torch.accelerator.is_available():
            # Eager mode still compiles the sampler's helpers: a C++ compiler and 5 s in the first group, for nothing.
            os.environ["TORCHDYNAMO_DISABLE"] = "1"
        try:
            # In this thread: AsyncLLM ties its sockets to the running loop.
            llm = AsyncLLM.from_engine_args(_engine_args(settings, model_path))
            await llm.init_weight_transfer_engine(WeightTransferInitRequest({"shapes": tensor_shapes}))
            await llm.update_weight_version("0")
        except Exception as error:
            # The border to vLLM. No prompt has arrived yet that its message could quote.
            first_line = next(iter(str(error).splitlines()), "")
            raise RolloutError("engine_start", f"{type(error).__name__}: {first_line}") from error
        return cls(llm, forbidden_token_ids)

    async def complete(self, prompt: EnginePrompt, sampling: Sampling, seeds: Sequence[int]) -> list[RequestOutput]:
        """One completion per seed. Prompt blocks and pictures are shared between them.

        Cancelling this aborts every one of its requests in the engine.

        Raises:
            RolloutError: ``engine_dead`` or ``engine_error``.
        """
        tasks = [asyncio.create_task(self._complete(prompt, self._params(sampling, seed))) for seed in seeds]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def swap_weights(self, update_info: dict[str, Any], version: int) -> float:
        """Load new weights under the requests in flight, which then go on from their tokens so far.

        The caches are cleared: prompt, picture and tokens so far are computed again under the new weights, so that
        every later token is the new policy's exactly.

        Returns:
            Seconds without generation.

        Raises:
            WeightPushError: refused (old weights serve on); or, as BrokenEngineError, failed on the way or the
                engine is dead (``complete`` must not be called again; requests in flight were aborted).
        """
        async with self._handing_over:
            started = time.perf_counter()
            try:
                await self._swap_paused(update_info, version)
            except WeightPushError:
                raise
            except Exception as error:
                # A dead engine can't be paused or resumed either.
                raise BrokenEngineError(f"loading version {version} failed: {type(error).__name__}") from error
            return time.perf_counter() - started

    async def _swap_paused(self, update_info: dict[str, Any], version: int) -> None:
        await self._llm.pause_generation(mode="keep", clear_cache=True)
        try:
            await self._llm.start_weight_update()
            await self._llm.update_weights(WeightTransferUpdateRequest(update_info))
            await self._llm.finish_weight_update(weight_version=str(version))
        except Exception as error:
            if REFUSED not in str(error):
                await self._llm.pause_generation(mode="abort", clear_cache=True)
                raise
            await self._llm.resume_generation()
            reason = str(error)[str(error).index(REFUSED) :].splitlines()[0]
            raise WeightPushError(f"version {version}: {reason}; the old weights serve on") from error
        await self._llm.resume_generation()

    def close(self) -> None:
        """Stop the engine's process and wait for its end."""
        self._llm.shutdown(timeout=SHUTDOWN_GRACE_S)
        del self._llm  # else its destructor runs, and fails, while the interpreter ends

    def _params(self, sampling: Sampling, seed: int) -> SamplingParams:
        return SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            max_tokens=sampling.max_tokens,
            seed=seed if sampling.temperature > 0 else None,
            logit_bias=self._forbidden,
            logprobs=0,  # the sampled token's alone
            flat_logprobs=True,
            detokenize=False,  # once at the end, outside the engine's loop
            output_kind=RequestOutputKind.FINAL_ONLY,
        )

    async def _complete(self, prompt: EnginePrompt, params: SamplingParams) -> RequestOutput:
        request_id = str(next(self._request_numbers))
        try:
            async with self._handing_over:
                pictures = list(prompt.pictures)
                # Replaces what the engine already holds by None.
                self._llm.input_processor.inject_into_mm_cache({"image": prompt.hashes}, {"image": pictures})
                collector = await self._llm.add_request(request_id, prompt.render(pictures), params)
            return await collector.get()
        except asyncio.CancelledError:
            await self._llm.abort(request_id)
            raise
        except EngineDeadError as error:
            raise RolloutError("engine_dead", "the engine's process has ended") from error
        except Exception as error:
            # The border to vLLM. Its messages may quote a prompt: only the kind goes on.
            await self._llm.abort(request_id)
            raise RolloutError("engine_error", type(error).__name__) from error


class BrokenEngineError(WeightPushError):
    """The push stopped half-way: the engine's weights are unknown, and it must be replaced."""


def _engine_args(settings: RolloutSettings, model_path: str) -> AsyncEngineArgs:
    on_cpu = not torch.accelerator.is_available()
    return AsyncEngineArgs(
        model=model_path,
        dtype=settings.dtype,
        max_model_len=settings.max_model_len,
        max_num_seqs=settings.max_num_seqs,
        kv_cache_memory_bytes=settings.kv_cache_mib * 2**20,
        block_size=CPU_BLOCK_SIZE if on_cpu else None,
        enforce_eager=on_cpu,
        **({} if on_cpu else {"gpu_memory_utilization": SHARED_CARD_SHARE}),
        max_num_batched_tokens=max(BATCHED_TOKENS, settings.max_model_len),
        # vLLM 0.32.0 on CPU dies at a seeded request whose prompt is computed in parts: it rewinds the request's
        # generator by an offset, which torch's CPU generator does not have (gpu_model_runner._bookkeeping_sync).
        enable_chunked_prefill=False if on_cpu else None,
        enable_prefix_caching=True,
        distributed_executor_backend="uni",
        limit_mm_per_prompt={"image": MAX_PICTURES, "video": 0},
        mm_processor_cache_gb=PICTURE_CACHE_GIB,
        skip_mm_profiling=True,
        # Our pixel values are normalised already. By default vLLM 0.32 expects bytes and normalises them itself:
        # pictures would be normalised twice, with log-probabilities off by 1 and no error.
        mm_device_do_normalize=False,
        # The distribution that was sampled from: after temperature and the ban of vision ids.
        logprobs_mode="processed_logprobs",
        disable_log_stats=True,
        enable_log_requests=False,
        worker_extension_cls=f"{ReceiverRegistration.__module__}.{ReceiverRegistration.__qualname__}",
        weight_transfer_config=WeightTransferConfig(backend=BACKEND),
    )
