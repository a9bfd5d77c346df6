"""Reply: a ScoreResponse's JSON, put together from what the workers made of each item.

Role: the event loop joins bytes instead of building a model of every score (the workers have done that).
Input: item ids, each place's ItemJson an item, versions. Output: the bytes of a wire.ScoreResponse.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic_core import to_json

from rewards.worker_messages import ItemJson


def reply_json(ids: Sequence[str], parts: Sequence[Sequence[ItemJson]], versions: Mapping[str, str]) -> bytes:
    """The reply to a request.

    Args:
        ids: of the items, in their order.
        parts: of each place that scored (worker pools, judges), one result an item.
        versions: scorer -> version.
    """
    merged = parts[0] if len(parts) == 1 else [_merge([part[index] for part in parts]) for index in range(len(ids))]
    results = [
        b'{"id":%b,"scores":{%b},"errors":{%b}}' % (to_json(item_id), *result)
        for item_id, result in zip(ids, merged, strict=True)
    ]
    return b'{"results":[%b],"versions":%b}' % (b",".join(results), to_json(dict(versions)))


def _merge(places: Sequence[ItemJson]) -> ItemJson:
    """One item's results from every place that scored it."""
    return ItemJson(
        b",".join(place.scores for place in places if place.scores),
        b",".join(place.errors for place in places if place.errors),
    )
