"""Wire: the requests and replies of the reward service; its OpenAPI document is made from these.

Role: the contract with every client, ours and other people's.
Input: JSON. Output: ScoreRequest -> ScoreItem; Score and ScoreError -> ScoreResponse.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    FailFast,
    Field,
    ValidationError,
    model_validator,
)

from rewards.scorer import Direction, ScoreItem, Tier
from rewards.text import answer_of
from schemas.group import FinishReason, Score, ScoreError
from schemas.prompt import Box, BoxFormat, Reference, Task

_LONGEST_KEY = 40  # characters of a caller's own key that an error may repeat
JSON_DEPTH = 200  # pydantic's JSON parser stops there by itself
_MOST_NAMES = 100  # scorers of one request
MOST_FIELDS = 20  # wrong fields that one reply names


def _whole(value: object) -> object:
    # JSON has one kind of number: 90.0 is an integer in its schema.
    return int(value) if isinstance(value, float) and value.is_integer() else value


Whole = Annotated[int, Field(ge=0), BeforeValidator(_whole)]
ShortText = Annotated[str, Field(max_length=500)]
ParamValue = float | bool | Annotated[str, Field(max_length=100)]
Coordinate = Annotated[float, Field(ge=0.0, le=1.0)]


class _Wire(BaseModel):
    # hide_input_in_errors: a traceback that ends in a log must not carry a report's text.
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, hide_input_in_errors=True)


class ReferenceBox(_Wire):
    """A reference box, 0-1 relative to the picture."""

    box: tuple[Coordinate, Coordinate, Coordinate, Coordinate] = Field(description="[x1, y1, x2, y2], x1 < x2, y1 < y2")
    label: ShortText | None = None

    @model_validator(mode="after")
    def _ordered(self) -> ReferenceBox:
        x1, y1, x2, y2 = self.box
        if not (x1 < x2 and y1 < y2):
            raise ValueError("a box needs x1 < x2 and y1 < y2")
        return self


class ItemReference(_Wire):
    """The truth; what a task does not have is null."""

    boxes: tuple[ReferenceBox, ...] | None = None
    report: str | None = None
    labels: Annotated[tuple[ShortText, ...], Field(max_length=500)] | None = None

    @property
    def key(self) -> tuple[object, ...]:
        """Equal for equal references; four times faster than the model's own hash and comparison."""
        boxes = self.boxes
        return (self.report, None if boxes is None else tuple([(b.box, b.label) for b in boxes]), self.labels)

    def to_reference(self) -> Reference:
        """The truth as the scorers' noun."""
        boxes = self.boxes
        return Reference(
            report=self.report,
            boxes=None
            if boxes is None
            else tuple(Box(x1=b.box[0], y1=b.box[1], x2=b.box[2], y2=b.box[3], label=b.label) for b in boxes),
            labels=self.labels,
        )


class Item(_Wire):
    """One completion to score."""

    id: str = Field(max_length=500, description="comes back with the scores")
    task: Task
    completion: str = Field(description="everything that the policy wrote; what follows the last </think> is scored")
    box_format: BoxFormat | None = None
    reference: ItemReference
    question: str | None = None
    thinking: bool = Field(default=False, description="the completion has to hold a trace that ends in </think>")
    token_count: Whole | None = Field(default=None, description="tokens of the completion")
    finish_reason: FinishReason | None = None

    def to_score_item(self, reference: Reference) -> ScoreItem:
        """The item as a scorer sees it, with its reference as the scorer's noun."""
        return ScoreItem(
            task=self.task,
            completion=self.completion,
            answer=answer_of(self.completion, self.thinking),
            reference=reference,
            box_format=self.box_format,
            question=self.question,
            thinking=self.thinking,
            token_count=self.token_count,
            finish_reason=self.finish_reason,
        )


def _not_empty(items: tuple[Item, ...]) -> tuple[Item, ...]:
    # Not min_length: that counts valid items only, and would report a second, untrue problem beside a wrong item.
    if not items:
        raise ValueError("needs at least one item")
    return items


class ScoreRequest(_Wire):
    """Items to score, by which scorers, with which parameters."""

    # FailFast: a body of a million wrong items must not become a million problems.
    items: Annotated[tuple[Item, ...], FailFast(), AfterValidator(_not_empty), Field(json_schema_extra={"minItems": 1})]
    scorers: tuple[str, ...] | None = Field(
        default=None,
        max_length=_MOST_NAMES,
        description="names from /v1/scorers; left out: the service's own for each item's task",
    )
    params: dict[str, dict[str, ParamValue]] = Field(
        default_factory=dict, max_length=_MOST_NAMES, description="scorer -> parameter -> value"
    )
    deadline_s: float | None = Field(
        default=None,
        gt=0.0,
        description="seconds; later items come back as errors of code deadline; at most the service's own",
    )

    def score_items(self) -> list[ScoreItem]:
        """The items as scorers see them; equal references are one object."""
        references: dict[object, Reference] = {}
        items: list[ScoreItem] = []
        for item in self.items:
            key = item.reference.key
            reference = references.get(key)
            if reference is None:
                reference = references[key] = item.reference.to_reference()
            items.append(item.to_score_item(reference))
        return items


class ItemResult(_Wire):
    """A scorer is either in scores or in errors, never in both, never in neither."""

    id: str
    scores: dict[str, Score]
    errors: dict[str, ScoreError]


class ScoreResponse(_Wire):
    """Results in the order of the items."""

    results: tuple[ItemResult, ...]
    versions: dict[str, str] = Field(description="scorer -> version")


class ScorerInfo(_Wire):
    """What ``/v1/scorers`` tells about one scorer."""

    name: str
    version: str
    tier: Tier
    tasks: tuple[Task, ...]
    range: tuple[float | None, float | None]
    direction: Direction
    needs: tuple[str, ...]
    params: dict[str, ParamValue] = Field(description="parameter -> default")
    evaluation_only: bool = Field(description="no training reward: a policy would hack it")
    state: str = Field(description="loading, ready, not_ready or failed, as in /readyz")
    cost_s: float | None = Field(description="seconds per item, mean since the service started; null before the first")
    summary: str


class ScorersResponse(_Wire):
    scorers: tuple[ScorerInfo, ...]


class Health(_Wire):
    status: str


class ScorerState(_Wire):
    """``state`` is loading, ready, not_ready (something of the user's is missing) or failed; ``remedy``: what to do."""

    state: str
    remedy: str | None = None


class Readiness(_Wire):
    ready: bool
    scorers: dict[str, ScorerState]


class FieldProblem(_Wire):
    field: str = Field(description="path in the request, e.g. items[3].reference.boxes[0].box[2]")
    rule: str


class Problem(_Wire):
    """Every reply that is not 200: what is wrong, never with any text of the request."""

    code: str
    message: str
    fields: tuple[FieldProblem, ...] = ()


def _step(part: str | int) -> str:
    if isinstance(part, int):
        return f"[{part}]"
    # A key is the caller's own text too: only what looks like a field's name is repeated.
    if len(part) <= _LONGEST_KEY and part.isascii() and part.isidentifier():
        return f".{part}"
    return f".<key of {len(part)} characters>"


def field_path(location: tuple[str | int, ...]) -> str:
    """``("items", 3, "id")`` -> ``items[3].id``."""
    return "".join(_step(part) for part in location).removeprefix(".") or "body"


def _rule(error: Any) -> str:
    # pydantic's messages state the rule, not the input, except for json_invalid, which quotes a few characters.
    if error["type"] != "json_invalid":
        return str(error["msg"]).removeprefix("Value error, ")
    if "recursion limit" in error["msg"]:
        return f"must not be nested more than {JSON_DEPTH} deep"
    return "must be valid JSON"


def field_problems(error: ValidationError, prefix: tuple[str | int, ...] = ()) -> tuple[FieldProblem, ...]:
    """The fields that pydantic refused, as paths and rules; inputs left out."""
    errors = error.errors(include_url=False, include_context=False, include_input=False)
    return tuple(FieldProblem(field=field_path((*prefix, *e["loc"])), rule=_rule(e)) for e in errors[:MOST_FIELDS])
