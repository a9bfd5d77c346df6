"""The base model of every noun and every settings model: frozen, unknown fields refused."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Noun(BaseModel):
    """A value that crosses a process border."""

    # Inputs hidden: a validation error must not print a report (promise 9).
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, hide_input_in_errors=True)


class Settings(BaseModel):
    """A room's settings. Every field has a default or is required, a unit and a reason in its description."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,
        use_attribute_docstrings=False,
    )
