"""RequestMerger: what waits goes out together, and each asker gets its own answer."""

import asyncio
from collections.abc import Sequence

import pytest

from rewards.merging import RequestMerger
from rewards.wire import Item, ItemReference, ItemResult, ScoreRequest, ScoreResponse
from schemas.errors import RewardError
from schemas.group import Score


def request(*texts: str, scorers: Sequence[str] = ("a",)) -> ScoreRequest:
    items = tuple(
        Item(id=str(n), task="report", completion=text, reference=ItemReference()) for n, text in enumerate(texts)
    )
    return ScoreRequest(items=items, scorers=tuple(scorers))


class Service:
    """Scores an item by its text's length; answers once it may."""

    def __init__(self) -> None:
        self.sent: list[int] = []
        self.may_answer = asyncio.Event()
        self.cancelled = 0

    async def __call__(self, asked: ScoreRequest) -> ScoreResponse:
        self.sent.append(len(asked.items))
        try:
            await self.may_answer.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if any(item.completion == "refused" for item in asked.items):
            raise RewardError("bad_request", "no")
        if any(item.completion == "bug" for item in asked.items):
            raise KeyError("bug")
        results = tuple(
            ItemResult(id=item.id, scores={"a": Score(value=float(len(item.completion)))}, errors={})
            for item in asked.items
        )
        return ScoreResponse(results=results, versions={"a": "1"})


def values(response: ScoreResponse) -> list[float]:
    return [result.scores["a"].value for result in response.results]


async def test_what_waits_for_a_slot_goes_out_as_one_request_and_comes_back_to_its_askers() -> None:
    service = Service()
    merger = RequestMerger(service, slots=1)
    asked = [asyncio.create_task(merger.score(request(*texts))) for texts in (["x"], ["xx", "xxx"], ["xxxx"])]
    await asyncio.sleep(0)
    service.may_answer.set()
    assert [values(await task) for task in asked] == [[1.0], [2.0, 3.0], [4.0]]
    assert service.sent == [1, 3]


async def test_requests_for_other_scorers_are_not_merged() -> None:
    service = Service()
    merger = RequestMerger(service, slots=1)
    asked = [asyncio.create_task(merger.score(request("x", scorers=names))) for names in (["a"], ["a"], ["b"], ["b"])]
    await asyncio.sleep(0)
    service.may_answer.set()
    await asyncio.gather(*asked)
    assert service.sent == [1, 1, 2]


async def test_a_merged_request_has_at_most_a_batch_of_items_unless_one_alone_has_more() -> None:
    service = Service()
    merger = RequestMerger(service, slots=1)
    asked = [asyncio.create_task(merger.score(request(*["x"] * count))) for count in (1, 200, 56, 1, 300)]
    await asyncio.sleep(0)
    service.may_answer.set()
    await asyncio.gather(*asked)
    assert service.sent == [1, 256, 1, 300]


async def test_a_refused_request_costs_only_itself() -> None:
    service = Service()
    merger = RequestMerger(service, slots=1)
    asked = [asyncio.create_task(merger.score(request(text))) for text in ("x", "xx", "refused", "xxx")]
    await asyncio.sleep(0)
    service.may_answer.set()
    results = await asyncio.gather(*asked, return_exceptions=True)
    assert isinstance(results[2], RewardError)
    assert [values(result) for result in results if isinstance(result, ScoreResponse)] == [[1.0], [2.0], [3.0]]


async def test_an_unexpected_error_reaches_whoever_asked() -> None:
    service = Service()
    service.may_answer.set()
    merger = RequestMerger(service, slots=1)
    with pytest.raises(KeyError):
        await merger.score(request("bug"))
    assert values(await merger.score(request("x"))) == [1.0]


async def test_a_request_that_nobody_waits_for_is_given_up_and_its_slot_is_free() -> None:
    service = Service()
    merger = RequestMerger(service, slots=1)
    first = asyncio.create_task(merger.score(request("x")))
    queued = asyncio.create_task(merger.score(request("never sent")))
    await asyncio.sleep(0)
    first.cancel()
    queued.cancel()
    last = asyncio.create_task(merger.score(request("xx")))
    await asyncio.sleep(0.01)
    service.may_answer.set()
    assert values(await last) == [2.0]
    assert service.cancelled == 1
    assert service.sent == [1, 1]
    await merger.close()


@pytest.mark.parametrize("moments", [1, 2])  # before the first request has started, and after
async def test_closing_sends_nothing_more_and_leaves_nobody_waiting(moments: int) -> None:
    service = Service()
    merger = RequestMerger(service, slots=1)
    asked = [asyncio.create_task(merger.score(request(text, scorers=[text]))) for text in ("x", "xx", "xxx")]
    for _ in range(moments):
        await asyncio.sleep(0)
    await merger.close()
    results = await asyncio.gather(*asked, return_exceptions=True)
    assert [type(result) for result in results] == [asyncio.CancelledError] * 3
    assert service.sent == [1] * (moments - 1)


async def test_a_service_that_takes_less_at_once_gets_less_from_then_on() -> None:
    sent: list[int] = []

    async def small(asked: ScoreRequest) -> ScoreResponse:
        sent.append(len(asked.items))
        await asyncio.sleep(0)
        if len(asked.items) > 100:
            raise RewardError("too_large", "items: at most 100")
        results = tuple(ItemResult(id=item.id, scores={"a": Score(value=1.0)}, errors={}) for item in asked.items)
        return ScoreResponse(results=results, versions={})

    merger = RequestMerger(small, slots=1)
    for _ in range(3):
        await asyncio.gather(*(merger.score(request(*["x"] * 40)) for _ in range(7)))
    assert sum(count for count in sent if count <= 100) == 3 * 7 * 40
    assert [count > 100 for count in sent].count(True) == 2  # 240, then 120
