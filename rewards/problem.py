"""ProblemError: a request that is not answered with scores.

Role: raised anywhere below a route; ``app.py`` turns it into its status and a wire.Problem.
Input: status, code, message, fields, Retry-After. Output: an exception without any text of the request.
"""

from __future__ import annotations

from collections.abc import Sequence

from rewards.wire import FieldProblem, Problem


class ProblemError(Exception):
    """An HTTP status other than 200, with its body.

    Args:
        status: 401, 408, 413, 422, 429 or 503.
        retry_after_s: seconds, sent as Retry-After (429 and 503).
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        fields: Sequence[FieldProblem] = (),
        retry_after_s: int | None = None,
    ) -> None:
        self.status = status
        self.body = Problem(code=code, message=message, fields=tuple(fields))
        self.headers: dict[str, str] = {}
        if retry_after_s is not None:
            self.headers["Retry-After"] = str(retry_after_s)
        if status == 401:
            self.headers["WWW-Authenticate"] = "Bearer"
        super().__init__(f"{status} {code}")


def bad_request(fields: Sequence[FieldProblem]) -> ProblemError:
    """422: names every wrong field in the message, so that a log line of the client tells enough."""
    named = "; ".join(f"{problem.field}: {problem.rule}" for problem in fields)
    return ProblemError(422, "bad_request", named, fields)


def too_large(field: str, limit: int, unit: str, given: int | None = None) -> ProblemError:
    """413: which field is over which limit."""
    size = "" if given is None else f"; given: {given}"
    rule = f"at most {limit} {unit}{size}"
    return ProblemError(413, "too_large", f"{field}: {rule}", [FieldProblem(field=field, rule=rule)])
