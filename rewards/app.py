"""create_app: the HTTP routes of the reward service.

Role: authentication, body limits, status codes, the OpenAPI document; everything else is in service.py.
Input: settings, a bearer token or None. Output: a FastAPI app that echoes and logs no text of a request.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request, Response
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse, PlainTextResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import ValidationError
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from rewards.problem import ProblemError, bad_request, too_large
from rewards.scorer import Scorer
from rewards.service import RewardService
from rewards.settings import RewardServiceSettings
from rewards.tokens import matches
from rewards.wire import (
    Health,
    Problem,
    Readiness,
    ScoreRequest,
    ScoreResponse,
    ScorerInfo,
    ScorersResponse,
    field_problems,
)
from schemas.base import Settings

_VERSION = "1"  # of the wire format
_BODY_S = 30.0  # seconds for a body to arrive
_CLIENT_GONE = 499  # nginx's number for it
_REF = "#/components/schemas/{model}"
_bearer = HTTPBearer(auto_error=False, description="asked for where the service has a token")
_Credentials = Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]


def _documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": Problem} for status in statuses}


async def read_body(request: Request, limit: int) -> bytes:
    """The request's body. Raises ProblemError 413 as soon as it is over ``limit`` bytes, 408 where it is slow."""
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared[:20]) > limit:
        raise too_large("body", limit, "bytes")
    body = bytearray()
    try:
        async with asyncio.timeout(_BODY_S):
            async for chunk in request.stream():
                body += chunk
                if len(body) > limit:
                    raise too_large("body", limit, "bytes")
    except TimeoutError:
        raise ProblemError(408, "slow_body", f"the body did not arrive within {_BODY_S:g} s") from None
    return bytes(body)


def scorer_info(service: RewardService, name: str) -> ScorerInfo:
    """What ``/v1/scorers`` tells about a scorer."""
    scorer = service.scorers[name]
    return ScorerInfo(
        name=scorer.name,
        version=scorer.version,
        tier=scorer.tier,
        tasks=tuple(sorted(scorer.tasks)),
        range=scorer.range,
        direction=scorer.direction,
        needs=scorer.needs,
        params=scorer.params().model_dump(),
        evaluation_only=scorer.evaluation_only,
        state=service.states[name].state,
        cost_s=service.metrics.cost_s(name),
        summary=scorer.summary,
    )


async def _gone(request: Request) -> None:
    """Returns once the client has closed its connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def unless_gone(request: Request, work: Coroutine[Any, Any, bytes]) -> bytes | None:
    """The work's result; None, and the work cancelled, where the client goes away before it is there."""
    task, gone = asyncio.create_task(work), asyncio.create_task(_gone(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        gone.cancel()
        task.cancel()


def _add_errors(app: FastAPI, service: RewardService) -> None:
    @app.exception_handler(ProblemError)
    async def on_problem(request: Request, problem: ProblemError) -> JSONResponse:
        if request.url.path == "/v1/score":
            service.metrics.count_reply(problem.status)
        return JSONResponse(problem.body.model_dump(), status_code=problem.status, headers=problem.headers)

    @app.exception_handler(HTTPException)
    async def on_http_exception(_: Request, error: HTTPException) -> JSONResponse:
        # Unknown path or method; the framework's own body has another shape.
        body = Problem(code=f"http_{error.status_code}", message=str(error.detail))
        return JSONResponse(body.model_dump(), status_code=error.status_code, headers=error.headers)


def _add_probes(app: FastAPI, service: RewardService) -> None:
    @app.get("/healthz", summary="The process answers", tags=["probes"])
    async def healthz() -> Health:
        return Health(status="ok")

    @app.get(
        "/readyz",
        summary="Each scorer's state and remedy; 503 until requests are answered",
        tags=["probes"],
        response_model=Readiness,
        responses={503: {"model": Readiness}},
    )
    async def readyz() -> JSONResponse:
        readiness = service.readiness()
        return JSONResponse(readiness.model_dump(), status_code=200 if readiness.ready else 503)


def _add_routes(
    app: FastAPI, service: RewardService, settings: RewardServiceSettings, check_token: Callable[..., Awaitable[None]]
) -> None:
    guarded = [Depends(check_token)]

    @app.post(
        "/v1/score",
        summary="Score completions against their references",
        tags=["scores"],
        dependencies=guarded,
        response_model=ScoreResponse,
        responses=_documented(401, 408, 413, 422, 429, 503),
        # The body is read by hand: authorised first, bounded, parsed by pydantic without echoing what it refuses.
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": {"$ref": _REF.format(model="ScoreRequest")}}},
            }
        },
    )
    async def score(request: Request) -> Response:
        service.check_ready()
        try:
            body = await read_body(request, settings.max_body_bytes)
        except ClientDisconnect:
            service.metrics.count_reply(_CLIENT_GONE)
            return Response(status_code=_CLIENT_GONE)
        try:
            # Strict: "yes" for a boolean or "5" for a number is a slip, and would become a score.
            parsed = ScoreRequest.model_validate_json(body, strict=True)
        except ValidationError as error:
            # "from None": the chain would carry the request into a log.
            raise bad_request(field_problems(error)) from None
        reply = await unless_gone(request, service.score(parsed))
        # Nobody reads the reply to a client that is gone; its status is for the metrics.
        status = _CLIENT_GONE if reply is None else 200
        service.metrics.count_reply(status)
        return Response(reply, status_code=status, media_type="application/json")

    @app.get(
        "/v1/scorers", summary="What can be scored", tags=["scores"], dependencies=guarded, responses=_documented(401)
    )
    async def list_scorers() -> ScorersResponse:
        return ScorersResponse(scorers=tuple(scorer_info(service, name) for name in service.scorers))

    @app.get(
        "/metrics",
        summary="Prometheus metrics",
        tags=["probes"],
        dependencies=guarded,
        response_class=PlainTextResponse,
        responses=_documented(401),
    )
    async def metrics() -> PlainTextResponse:
        return PlainTextResponse(service.metrics.exposition(), media_type="text/plain; version=0.0.4")


def _openapi(app: FastAPI, scorers: Mapping[str, Scorer[Settings]]) -> Callable[[], dict[str, Any]]:
    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
            # The request's model is not a route's parameter (read_body), so it is added here.
            _, definitions = models_json_schema([(ScoreRequest, "validation")], ref_template=_REF)
            schema["components"]["schemas"].update(definitions["$defs"])
            fields = schema["components"]["schemas"]["ScoreRequest"]["properties"]
            fields["scorers"]["anyOf"][0]["items"]["enum"] = list(scorers)
            fields["params"]["properties"] = {
                name: scorer.params.model_json_schema() for name, scorer in scorers.items()
            }
            fields["params"]["additionalProperties"] = False
            app.openapi_schema = schema
        return app.openapi_schema

    return document


def create_app(
    settings: RewardServiceSettings,
    tokens: Sequence[str] = (),
    *,
    on_ready: Callable[[], None] | None = None,
) -> FastAPI:
    """The reward service as an ASGI app.

    Args:
        settings: scorers, workers, limits and parameter defaults.
        tokens: what ``Authorization: Bearer`` may carry; none asks for nothing.
        on_ready: called once, on the event loop, when requests are answered.

    Raises:
        ConfigError: a plugin can't be imported.
    """
    service = RewardService(settings, on_ready)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.start()
        yield
        await service.close()

    # Async though it never waits: FastAPI would send a plain function to a thread, a millisecond a request.
    async def check_token(credentials: _Credentials) -> None:
        if tokens and not matches(credentials.credentials if credentials is not None else "", tokens):
            raise ProblemError(401, "unauthorized", "send the service's token as Authorization: Bearer")

    app = FastAPI(
        title="Overread reward service",
        version=_VERSION,
        description="Scores radiology reports and boxes. A failure is an error with a code, never a number.",
        lifespan=lifespan,
    )
    app.state.service = service
    _add_errors(app, service)
    _add_probes(app, service)
    _add_routes(app, service, settings, check_token)
    app.openapi = _openapi(app, service.scorers)  # type: ignore[method-assign]
    return app
