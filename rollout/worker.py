"""RolloutWorker: from a prompt to an unscored group, and from weight buckets to a new policy.

Role: one engine and its processor; a plain class that orchestration makes remote. Input: prompts, weight buckets.
Output: (RolloutGroup, ProcessedPrompt), PushReport; every failure is a RolloutError or WeightPushError.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rollout.environment import prepare_environment
from rollout.settings import RolloutSettings
from rollout.shared_buckets import SharedBuckets
from rollout.weight_check import checkpoint_shapes
from schemas.errors import DataError, RolloutError, WeightPushError
from schemas.group import Completion, RolloutGroup, Sampling, VersionSpan
from schemas.processed import ProcessedPrompt
from schemas.prompt import ImageRef, Prompt
from schemas.weights import WeightBucket

if TYPE_CHECKING:
    from rollout.engine import Engine
    from rollout.engine_input import EnginePrompt
    from rollout.processor import Processor


@dataclass(frozen=True)
class PushReport:
    """What a push cost.

    Attributes:
        seconds: from the call to the new weights serving.
        pause_s: of these, seconds without generation.
        bytes: of all tensors.
        tensors: their number.
    """

    seconds: float
    pause_s: float
    bytes: int
    tensors: int


class RolloutWorker:
    """One engine. Call ``start`` once, then the other methods from the same event loop.

    Args:
        settings: the ``[rollout]`` table.
        model_path: a Hugging Face folder.
        load_image: opens a picture, uint8 [H, W, 3]; raises DataError.
        name: of this worker, recorded with its groups.
    """

    def __init__(
        self,
        settings: RolloutSettings,
        model_path: str,
        load_image: Callable[[ImageRef], NDArray[np.uint8]],
        name: str,
    ) -> None:
        self._settings = settings
        self._model_path = model_path
        self._load_image = load_image
        self._name = name
        self._version = 0
        self._in_flight = 0
        self._broken: str | None = None
        # One thread: the tokenizer is not made for several, and pictures are prepared beside the engine's loop.
        self._preparing = ThreadPoolExecutor(1, thread_name_prefix="prepare")

    @property
    def version(self) -> int:
        """The policy version that the engine serves."""
        return self._version

    async def start(self) -> None:
        """Load processor and engine; it then serves version 0.

        Raises:
            ConfigError: the model folder can't be used.
            RolloutError: ``engine_start``.
        """
        prepare_environment(self._model_path)
        # Only now: transformers and vLLM read the environment when they are imported.
        from rollout.engine import Engine
        from rollout.processor import Processor

        self._processor: Processor = Processor(self._model_path)
        self._engine: Engine = await Engine.start(
            self._settings,
            self._model_path,
            self._processor.vision_token_ids,
            checkpoint_shapes(Path(self._model_path)),
        )

    async def generate_group(
        self, prompt: Prompt, *, group_id: str, epoch: int, incarnation: int, sampling: Sampling, group_size: int
    ) -> tuple[RolloutGroup, ProcessedPrompt]:
        """Sample ``group_size`` completions of a prompt, which is processed once.

        Args:
            prompt: the question with references to its pictures.
            group_id: unique in the run.
            epoch: of the prompt source.
            incarnation: of the run.
            sampling: temperature 0 is greedy; the completions' seeds are derived from its seed.
            group_size: number of completions.

        Raises:
            RolloutError: ``image``, ``prompt`` (it can't be processed), ``prompt_too_long``, ``prompt_mismatch``,
                ``deadline``, ``not_finite``, ``engine_error``, ``engine_dead`` (replace this worker) or
                ``weights_unknown`` (replace it too).
        """
        if self._broken is not None:
            raise RolloutError("weights_unknown", self._broken)
        started = time.perf_counter()
        deadline_s = self._settings.group_deadline_s
        self._in_flight += group_size
        try:
            async with asyncio.timeout(deadline_s):
                with _only_rollout_errors("prompt"):
                    processed, engine_prompt = await self._in_thread(self._prepare, prompt, sampling)
                with _only_rollout_errors("engine_error"):
                    outputs = await self._engine.complete(engine_prompt, sampling, _seeds(sampling.seed, group_size))
        except TimeoutError as error:
            raise RolloutError(
                "deadline", f"{group_size} completions of {sampling.max_tokens} tokens not done in {deadline_s:g} s"
            ) from error
        finally:
            self._in_flight -= group_size
        if any(output.prompt_token_ids != engine_prompt.token_ids for output in outputs):
            raise RolloutError("prompt_mismatch", "the engine read other token ids than the processor made")
        with _only_rollout_errors("engine_error"):
            group = RolloutGroup(
                group_id=group_id,
                prompt=prompt,
                epoch=epoch,
                incarnation=incarnation,
                sampling=sampling,
                completions=await self._in_thread(self._completions, outputs),
                fingerprint=processed.fingerprint(),
                worker=self._name,
                generate_s=time.perf_counter() - started,
            )
        return group, processed

    async def receive_weights(self, buckets: Sequence[WeightBucket], version: int) -> PushReport:
        """Verify all tensors, then serve them as ``version``; requests in flight go on under the new weights.

        Raises:
            WeightPushError: nothing was loaded and the old weights serve on; or the load itself failed: then every
                later call fails as well, and this worker must be replaced.
        """
        from rollout.engine import BrokenEngineError

        if self._broken is not None:
            raise WeightPushError(self._broken)
        if wrong := {bucket.manifest.version for bucket in buckets} - {version}:
            raise WeightPushError(f"push of version {version} holds buckets of version {min(wrong)}")
        started = time.perf_counter()
        shared = await asyncio.to_thread(SharedBuckets, buckets)
        with shared:
            try:
                pause_s = await self._engine.swap_weights(shared.update_info, version)
            except BrokenEngineError as error:
                self._broken = str(error)
                # Its class lives beside vllm, which whoever unpickles it would have to import.
                raise WeightPushError(self._broken) from None
        self._version = version
        return PushReport(
            seconds=time.perf_counter() - started,
            pause_s=pause_s,
            bytes=sum(bucket.manifest.nbytes for bucket in buckets),
            tensors=sum(len(bucket.manifest.tensors) for bucket in buckets),
        )

    def stats(self) -> dict[str, float]:
        """Completions ``running`` and ``waiting`` now."""
        running = min(self._in_flight, self._settings.max_num_seqs)
        return {"running": running, "waiting": self._in_flight - running}

    async def close(self) -> None:
        """Stop the engine. The worker can't be used again."""
        self._preparing.shutdown(cancel_futures=True)
        if hasattr(self, "_engine"):
            self._engine.close()

    async def _in_thread(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._preparing, function, *arguments)

    def _prepare(self, prompt: Prompt, sampling: Sampling) -> tuple[ProcessedPrompt, EnginePrompt]:
        try:
            images = [self._load_image(image) for image in prompt.images]
            processed = self._processor.process_prompt(prompt, images)
        except DataError as error:
            raise RolloutError("image", str(error)) from error
        length = len(processed.input_ids_P)
        if length + sampling.max_tokens > self._settings.max_model_len:
            raise RolloutError(
                "prompt_too_long",
                f"{length} prompt tokens and {sampling.max_tokens} of a completion,"
                f" rollout.max_model_len is {self._settings.max_model_len}",
            )
        from rollout.engine_input import engine_prompt

        return processed, engine_prompt(processed, self._processor.image_token_id, self._processor.merge_size)

    def _completions(self, outputs: Sequence[Any]) -> tuple[Completion, ...]:
        return tuple(self._completion(output.outputs[0]) for output in outputs)

    def _completion(self, output: Any) -> Completion:
        token_ids = tuple(output.token_ids)
        logprobs = tuple(output.logprobs.logprobs)
        if tuple(output.logprobs.token_ids) != token_ids or output.finish_reason not in ("stop", "length"):
            raise RolloutError("engine_error", f"a completion ended with {output.finish_reason}")
        if not all(map(math.isfinite, logprobs)):
            raise RolloutError("not_finite", "a log-probability is not finite: look at the pushed weights")
        return Completion(
            token_ids=token_ids,
            rollout_logprobs=logprobs,
            versions=tuple(
                VersionSpan(version=int(span.version), start=span.start, end=span.end)
                for span in output.weight_versions
            ),
            finish_reason=output.finish_reason,
            text=self._processor.decode(token_ids),
        )


@contextmanager
def _only_rollout_errors(cause: str) -> Iterator[None]:
    """The border of this room: any other error inside drops one group, not the run.

    Its message and its traceback's chain may quote a question, a report or an answer: only its kind goes on.
    """
    try:
        yield
    except RolloutError:
        raise
    except Exception as error:  # noqa: BLE001 - it goes on as a RolloutError; `from None` hides that from the rule
        raise RolloutError(cause, type(error).__name__) from None


def _seeds(group_seed: int, group_size: int) -> list[int]:
    """Well-separated seeds for the completions of a group: neighbouring group seeds share none."""
    return [int(seed) for seed in np.random.SeedSequence(group_seed).generate_state(group_size)]
