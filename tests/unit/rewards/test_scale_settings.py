"""``[reward.scale]``: limits that contradict each other are refused before anything starts."""

import pytest
from pydantic import ValidationError

from rewards.scale import ScaleSettings
from rewards.settings import RewardServiceSettings


def test_without_replicas_ray_is_left_out() -> None:
    assert ScaleSettings().replicas == ScaleSettings().most == 0
    assert RewardServiceSettings().scale == ScaleSettings()


@pytest.mark.parametrize(("replicas", "max_replicas", "most"), [(2, 0, 2), (2, 2, 2), (2, 5, 5)])
def test_most_is_what_scaling_may_reach(replicas: int, max_replicas: int, most: int) -> None:
    assert ScaleSettings(replicas=replicas, max_replicas=max_replicas).most == most


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"max_replicas": 3}, "needs replicas"),
        ({"replicas": 4, "max_replicas": 3}, "at least replicas = 4"),
        ({"replicas": 1, "gpus_per_replica": 1.5}, "whole GPUs"),
        ({"replicas": -1}, "greater than or equal to 0"),
        ({"replicas": 1, "target_ongoing_requests": 0}, "greater than 0"),
        ({"replicas": 1, "port": 70_000}, "less than or equal to 65535"),
        ({"replica": 2}, "Extra inputs"),
    ],
)
def test_a_contradiction_is_refused(values: dict[str, float], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        ScaleSettings.model_validate(values)


@pytest.mark.parametrize("gpus", [0.25, 1.0, 2.0])
def test_a_share_of_a_gpu_or_whole_ones_are_taken(gpus: float) -> None:
    assert ScaleSettings(replicas=1, gpus_per_replica=gpus).gpus_per_replica == gpus


def test_addresses_and_replicas_exclude_each_other() -> None:
    with pytest.raises(ValidationError, match=r"scale\.replicas: must be 0 where addresses"):
        RewardServiceSettings(addresses=("http://127.0.0.1:8008",), scale=ScaleSettings(replicas=1))
