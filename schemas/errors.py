"""The one exception tree of Overread.

Role: every error that crosses a room's border is one of these.
Input: what went wrong, in the field-rule-value-remedy form. Output: one line that a user can act on.
"""

from __future__ import annotations


class OverreadError(Exception):
    """Base of every error that Overread raises on purpose."""


class InputError(OverreadError):
    """The user's input is wrong: the command ends with status 2 and this one line.

    Args:
        field: what is wrong, e.g. ``rollout.group_size`` or ``prompts/train.parquet row 3: image``.
        rule: what it has to be.
        given: what it is. Of a report's text give only the length, never the text.
        remedy: what to do now.
    """

    def __init__(self, field: str, rule: str, given: object, remedy: str) -> None:
        self.field = field
        self.rule = rule
        self.given = given
        self.remedy = remedy
        super().__init__(f"{field}: {rule}; given: {given}; {remedy}")

    def __reduce__(self) -> tuple[type[InputError], tuple[str, str, object, str]]:
        # Exceptions cross process borders by pickle, which calls cls(*args): args alone is the message.
        return (type(self), (self.field, self.rule, self.given, self.remedy))


class ConfigError(InputError):
    """A recipe, an override or a command-line value is wrong."""


class DataError(InputError):
    """A data set, a prompt, a picture or a model folder can't be used."""


class RolloutError(OverreadError):
    """A group could not be generated.

    Args:
        cause: a short code, the key under which the ledger counts the dropped group.
        message: what happened, without any patient text.
    """

    def __init__(self, cause: str, message: str) -> None:
        self.cause = cause
        self.message = message
        super().__init__(f"{cause}: {message}")

    def __reduce__(self) -> tuple[type[RolloutError], tuple[str, str]]:
        return (type(self), (self.cause, self.message))


class RewardError(OverreadError):
    """A score could not be had. Never turned into a number.

    Args:
        code: a short code such as ``unreachable``, ``deadline``, ``bad_request``.
        message: what happened, without any patient text.
    """

    def __init__(self, code: str, message: str) -> None:
        self.code = code
        self.message = message
        super().__init__(f"{code}: {message}")

    def __reduce__(self) -> tuple[type[RewardError], tuple[str, str]]:
        return (type(self), (self.code, self.message))


class LearnerError(OverreadError):
    """A training step could not be taken, e.g. a group that fails its fingerprint check."""


class WeightPushError(OverreadError):
    """Weights did not arrive bit for bit, or the canary disagreed: the engine must not serve."""


class DeadlineError(OverreadError):
    """A wait ended without its event (promise 11).

    Args:
        what: what was waited for.
        on_whom: the process or service waited on.
        waited_s: how long, in seconds.
        then: what happens next.
    """

    def __init__(self, what: str, on_whom: str, waited_s: float, then: str) -> None:
        self.what = what
        self.on_whom = on_whom
        self.waited_s = waited_s
        self.then = then
        super().__init__(f"waited {waited_s:.1f} s for {what} from {on_whom}; {then}")

    def __reduce__(self) -> tuple[type[DeadlineError], tuple[str, str, float, str]]:
        return (type(self), (self.what, self.on_whom, self.waited_s, self.then))
