"""The known values of the formulas, through HTTP. RadCliQ's arithmetic, which no text expresses, is in
tests/unit/rewards/test_clinical_radcliq.py."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from rewards_server import running, wait_for_ready

from rewards.app import create_app
from rewards.settings import RewardServiceSettings

pytestmark = pytest.mark.integration

SCORERS = ("soft_f1", "rouge_l", "overlong", "chexpert_f1", "think")
WHOLE = {"box": [0.0, 0.0, 1.0, 1.0]}
SMALL = {"box": [0.1, 0.2, 0.3, 0.4]}
# Bands of full height, IoU with the references' bands 0-1 and 0.55-0.85: [[.6, .5], [.55, 0]].
BANDS = "[0.4, 0, 1, 1] and [0, 0, 0.55, 1]"
BAND_REFERENCES = [WHOLE, {"box": [0.55, 0.0, 0.85, 1.0]}]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with running(create_app(RewardServiceSettings(scorers=SCORERS, workers=1))) as running_address:
        wait_for_ready(running_address)
        yield running_address


def score(address: str, scorer: str, item: dict[str, Any], **params: float) -> dict[str, Any]:
    body = {"items": [{"id": "a", **item}], "scorers": [scorer], "params": {scorer: params}}
    reply = httpx.post(f"{address}/v1/score", json=body, trust_env=False)
    return dict(reply.json()["results"][0]["scores"][scorer])


def boxes(completion: str, references: list[dict[str, Any]], box_format: str = "radvlm") -> dict[str, Any]:
    reference = {"boxes": references}
    return {"task": "grounding", "completion": completion, "box_format": box_format, "reference": reference}


def report(completion: str, reference: str, **fields: Any) -> dict[str, Any]:
    return {"task": "report", "completion": completion, "reference": {"report": reference}, **fields}


@pytest.mark.parametrize(
    ("scorer", "item", "params", "value"),
    [
        ("soft_f1", boxes("[0.1, 0.2, 0.3, 0.4] " * 5, [SMALL]), {}, 1 / 3),
        ("soft_f1", boxes('{"bbox_2d": [100, 200, 300, 400]} ' * 5, [SMALL], "qwen3vl"), {}, 1 / 3),
        ("soft_f1", boxes(BANDS, BAND_REFERENCES), {}, 2 * 1.05 / (1.05 + 2)),
        ("soft_f1", boxes("There is none.", []), {}, 1.0),
        ("soft_f1", boxes("There is none.", []), {"empty_match_value": 0.0}, 0.0),
        ("rouge_l", report("testing one two", "testing two"), {}, 0.8),
        ("chexpert_f1", report("The lungs are clear.", "No effusion."), {}, 1.0),
        ("chexpert_f1", report("Large effusion.", "No effusion."), {}, 0.0),
        ("overlong", report("x", "x", token_count=80), {"max_tokens": 100, "buffer": 20}, 0.0),
        ("overlong", report("x", "x", token_count=90), {"max_tokens": 100, "buffer": 20}, -0.5),
        ("overlong", report("x", "x", token_count=110), {"max_tokens": 100, "buffer": 20}, -1.0),
        ("think", report("It never ends", "x", thinking=True), {"floor": -3.0}, -3.0),
    ],
)
def test_a_known_value_holds_through_http(
    address: str, scorer: str, item: dict[str, Any], params: dict[str, float], value: float
) -> None:
    assert score(address, scorer, item, **params)["value"] == pytest.approx(value, abs=1e-6)


def test_the_optimal_pairs_beat_the_greedy_ones(address: str) -> None:
    assert score(address, "soft_f1", boxes(BANDS, BAND_REFERENCES))["details"]["iou_sum"] == pytest.approx(1.05)
