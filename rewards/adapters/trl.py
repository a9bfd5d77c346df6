"""OverreadReward: the reward service as a reward function of TRL's GRPOTrainer (and RLOOTrainer).

Role: adapter for TRL 1.16; TRL itself is not imported.
Input: what TRL calls a reward function with. Output: a reward a completion; None where a score is missing.

    reward = OverreadReward("http://127.0.0.1:8008", task="grounding", scorers=["soft_f1"], box_format="radvlm")
    trainer = GRPOTrainer(model=..., reward_funcs=reward, args=..., train_dataset=...)

TRL turns None into NaN: the completion is left out of its group's baseline and gets advantage 0. That holds only where
no other reward function has a number for it: among several functions TRL leaves the missing one out of the sum, as if
it had given 0. So put every scorer into one OverreadReward, by ``weights``. TRL also logs a warning with the prompt,
reference and completion of one row whose rewards are all None: for patients' data, set the level of the logger "trl"
to ERROR.

TRL takes coroutine functions as well, and runs them side by side. This one is called in the ordinary way, since the
requests of one call are in flight together anyhow, and older versions of TRL only know that way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from statistics import fmean
from typing import Any

from rewards.adapters.common import Overreader, Reward, plain
from rewards.wire import Item
from schemas.errors import ConfigError

Message = Mapping[str, Any]
Text = str | Sequence[Message]

_ROW_COLUMNS = ("task", "box_format")  # of the data set, where it has them


class OverreadReward:
    """Called by TRL with (prompts, completions, completion_ids, one list a column of the data set).

    Args:
        reference_column: the data set's column with the truth: a text (the report), or an object with any of
            ``report``, ``boxes`` ([{"box": [x1, y1, x2, y2], "label": ...}], 0-1) and ``labels``.
        options: those of ``rewards.adapters.common.Overreader``: addresses, scorers or weights, task, token or
            token_file, box_format, params, thinking, deadline_s. Columns ``task`` and ``box_format`` go before them.

    Raises:
        ConfigError: an option is wrong.
    """

    def __init__(self, addresses: str | Sequence[str], *, reference_column: str = "reference", **options: Any) -> None:
        self.__name__ = "overread"  # TRL logs rewards/overread/mean
        self._reference_column = reference_column
        self._overreader = Overreader(addresses, **options)

    def __call__(
        self,
        prompts: Sequence[Text],
        completions: Sequence[Text],
        completion_ids: Sequence[Sequence[int]] | None = None,
        log_metric: Callable[[str, float], None] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """One reward a completion, in order; None where one of its scores is missing.

        Raises:
            ConfigError, DataError: the data set's columns do not fit.
            RewardError: the services could not be asked, or refused. The training stops: there is no reward to give.
        """
        if self._reference_column not in columns:
            rule, given = "must be a column of the data set", ", ".join(columns) or "none"
            raise ConfigError(f"reference_column {self._reference_column}", rule, given, "name another, or add it")
        items: list[Item] = []
        for index, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
            row = {name: columns[name][index] for name in _ROW_COLUMNS if name in columns}
            row["reference"] = plain(columns[self._reference_column][index])
            row["completion"], row["question"] = _last_text(completion, "assistant"), _last_text(prompt, "user")
            if completion_ids is not None:
                row["token_count"] = len(completion_ids[index])
            items.append(self._overreader.item(index, row))
        rewards = _run(self._overreader, items)
        if log_metric is not None:
            _log(rewards, log_metric)
        return [reward.value for reward in rewards]


def _run(overreader: Overreader, items: Sequence[Item]) -> list[Reward]:
    async def ask() -> list[Reward]:
        client = overreader.client()
        try:
            return await overreader.rewards(client, items)
        finally:
            await client.close()

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(ask())
    # A notebook: its loop runs already, in this thread.
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, ask()).result()


def _last_text(text: Text, role: str) -> str:
    """A plain text, or the text of a conversation's last message by ``role``."""
    if isinstance(text, str):
        return text
    content = next((message.get("content") for message in reversed(text) if message.get("role") == role), None)
    if content is None or isinstance(content, str):
        return content or ""
    return "".join(part.get("text") or "" for part in content)  # text and image parts


def _log(rewards: Sequence[Reward], log_metric: Callable[[str, float], None]) -> None:
    values: dict[str, list[float]] = {}
    for reward in rewards:
        for name, score in reward.result.scores.items():
            values.setdefault(name, []).append(score.value)
    for name, scores in sorted(values.items()):
        log_metric(f"overread/{name}", fmean(scores))
    log_metric("overread/failed", fmean(reward.value is None for reward in rewards))
