"""compute_score: the reward service as verl's custom reward function.

Role: adapter for verl 0.9 (its reward loop awaits coroutine functions); verl itself is not imported.
Input: one completion and its ground truth, options from the config. Output: a dict whose ``score`` is the reward.

    reward:
      custom_reward_function:
        path: pkg://rewards.adapters.verl
        name: compute_score
        reward_kwargs: {addresses: ["http://127.0.0.1:8008"], task: report, weights: {rouge_l: 0.5, chexpert_f1: 0.5}}

verl has no way to leave a completion out: NaN would spoil its group, and there is no true number to give. So a missing
score is a RewardError, and the run stops. Do not use verl's reward manager ``rate_limited`` (it turns every exception
into 0 and logs the start of the completion) or ``remote`` (it takes no coroutine function): ``naive``, ``dapo`` and
``gdpo`` are the ones.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from rewards.adapters.common import Overreader, plain
from rewards.client import RewardClient
from schemas.errors import ConfigError, DataError, RewardError

ADDRESSES_VARIABLE = "OVERREAD_REWARD_ADDRESSES"
_ROW_FIELDS = ("task", "box_format", "question")  # of extra_info, where it has them


async def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: Any,
    extra_info: Mapping[str, Any] | None = None,
    *,
    reward_router_address: str | None = None,  # noqa: ARG001 - verl passes it where it serves a reward model too
    reward_model_tokenizer: object = None,  # noqa: ARG001 - as above
    **options: Any,
) -> dict[str, float]:
    """The reward of one completion.

    Args:
        data_source: where verl's row comes from; an error names it.
        solution_str: the completion.
        ground_truth: a text (the report), or an object with any of ``report``, ``boxes`` and ``labels``, or such an
            object as JSON text.
        extra_info: ``task``, ``box_format`` and ``question`` in it go before the options.
        options: ``reward_kwargs`` of the config: those of ``rewards.adapters.common.Overreader``. Without
            ``addresses``, OVERREAD_REWARD_ADDRESSES (separated by spaces or commas) names the services.

    Returns:
        ``score``, and the score of each scorer under its own name: NaN where it was not asked about this task, or has
        weight 0 and failed. The keys are the same for every row, since verl makes columns of them.

    Raises:
        ConfigError, DataError: the options or the row do not fit.
        RewardError: the services could not be asked or refused, or a score is missing.
    """
    settings = json.dumps(plain(options), sort_keys=True, default=str)
    overreader, client = _asker(settings, asyncio.get_running_loop())
    row = {name: plain((extra_info or {}).get(name)) for name in _ROW_FIELDS}
    row |= {"completion": solution_str, "reference": _reference(ground_truth)}
    try:
        item = overreader.item(0, row)
    except DataError as error:
        raise DataError(f"{data_source}: {error.field}", error.rule, error.given, error.remedy) from None
    (reward,) = await overreader.rewards(client, [item])
    if reward.value is None:
        causes = "; ".join(f"{name}: {error.code}" for name, error in sorted(reward.result.errors.items()))
        raise RewardError("missing_score", f"no reward for a completion of {data_source}: {causes}")
    scores = reward.result.scores
    return {"score": reward.value} | {
        name: scores[name].value if name in scores else math.nan for name in overreader.scorers
    }


@lru_cache(maxsize=8)
def _asker(options: str, _: asyncio.AbstractEventLoop) -> tuple[Overreader, RewardClient]:
    """The options of a config, checked once, and the connections for them: they belong to their event loop."""
    given = json.loads(options)
    addresses = given.pop("addresses", None) or os.environ.get(ADDRESSES_VARIABLE, "").replace(",", " ").split()
    try:
        overreader = Overreader(addresses, **given)
    except TypeError as error:
        raise ConfigError("reward_kwargs", "must be options of the adapter", error, "see docs/rewards.md") from None
    return overreader, overreader.client()


def _reference(ground_truth: Any) -> Any:
    value = plain(ground_truth)
    if isinstance(value, str) and value.lstrip().startswith("{"):  # no report starts so
        try:
            return json.loads(value)
        except json.JSONDecodeError:
            return value
    return value
