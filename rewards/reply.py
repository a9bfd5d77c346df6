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
    results = []
    for index, item_id in enumerate(ids):
        scores = b",".join(part[index].scores for part in parts if part[index].scores)
        errors = b",".join(part[index].errors for part in parts if part[index].errors)
        results.append(b'{"id":%b,"scores":{%b},"errors":{%b}}' % (to_json(item_id), scores, errors))
    return b'{"results":[%b],"versions":%b}' % (b",".join(results), to_json(dict(versions)))
