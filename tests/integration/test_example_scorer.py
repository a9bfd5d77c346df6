"""The scorer of docs/rewards.md, as a plugin of a running service."""

import asyncio

import pytest
from rewards_server import READY_S, REPOSITORY, made_up, running

from rewards.app import create_app
from rewards.client import RewardClient
from rewards.wire import Item, ItemReference, ScoreRequest

pytestmark = pytest.mark.integration

EXAMPLE = REPOSITORY / "docs" / "examples" / "laterality.py"


def test_the_documentation_shows_the_example_that_is_tested() -> None:
    shown = (REPOSITORY / "docs" / "rewards.md").read_text(encoding="utf-8")
    assert EXAMPLE.read_text(encoding="utf-8") in shown


def test_a_scorer_of_ones_own_is_one_file() -> None:
    async def ask(address: str) -> list[float]:
        client = RewardClient([address], None, READY_S)
        await client.wait_ready(READY_S, ["laterality"])
        reference = ItemReference(report="Left effusion. Right lung clear.")
        texts = ("Effusion on the left.", "Effusion on the right; left clear.", "Effusion.")
        items = tuple(Item(id=t, task="report", completion=t, reference=reference) for t in texts)
        nothing = Item(id="none", task="report", completion="Clear.", reference=ItemReference(report="Clear."))
        params = {"laterality": {"no_side_value": 0.25}}
        reply = await client.score(ScoreRequest(items=(*items, nothing), scorers=("laterality",), params=params))
        await client.close()
        return [result.scores["laterality"].value for result in reply.results]

    with running(create_app(made_up(plugins=(str(EXAMPLE),), scorers=("laterality",)))) as address:
        assert asyncio.run(ask(address)) == pytest.approx([2 / 3, 1.0, 0.0, 0.25])


def test_a_recipe_may_weigh_it() -> None:
    settings = made_up(plugins=(str(EXAMPLE),), scorers=(), weights={"report": {"laterality": 1.0}})
    assert settings.weights["report"] == {"laterality": 1.0}
