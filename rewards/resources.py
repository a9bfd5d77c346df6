"""Resources: what scorers need from outside: weights, devices, judges' endpoints.

Role: the part of the settings that reaches a scorer's ``load`` and ``judge``; NotReadyError says what is missing.
Input: the ``[reward.models.*]`` and ``[reward.judges.*]`` tables. Output: frozen models.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from schemas.base import Settings


class NotReadyError(Exception):
    """A scorer can't work until the user does something. ``remedy`` says what, in one line, and goes to ``/readyz``."""

    def __init__(self, remedy: str) -> None:
        self.remedy = remedy
        super().__init__(remedy)


class ModelSettings(Settings):
    """Where a clinical model's weights are and where they run."""

    folder: Path | None = Field(
        default=None, description="folder with the published files; without it the Hugging Face cache is searched"
    )
    device: str = Field(default="auto", description="cpu, cuda, cuda:1, ...; auto = the first GPU, or the CPU")
    batch_size: int = Field(default=64, ge=1, le=4096, description="texts per forward pass")


class JudgeSettings(Settings):
    """An OpenAI-compatible endpoint that judges reports."""

    address: str = Field(description="base URL with its version, e.g. http://judge:8000/v1")
    model: str = Field(description="the name under which the endpoint serves the judge")
    token_file: Path | None = Field(default=None, description="file with the endpoint's bearer token")
    concurrency: int = Field(default=16, ge=1, description="requests in flight at once")
    deadline_s: float = Field(default=60.0, gt=0.0, description="seconds for one judgement, retries included")
    max_tokens: int = Field(default=2048, ge=1, description="tokens of a judge's reply")


class Resources(Settings):
    """What a service gives its scorers, by model name and by judge's scorer name."""

    models: dict[str, ModelSettings] = Field(
        default={}, description="model (chexbert, radgraph, bertscore, ratescore_ner, ...) -> where its weights are"
    )
    judges: dict[str, JudgeSettings] = Field(default={}, description="judge (green, llm_judge) -> its endpoint")

    def model(self, name: str) -> ModelSettings:
        """A model's settings, or the defaults."""
        return self.models.get(name, ModelSettings())
