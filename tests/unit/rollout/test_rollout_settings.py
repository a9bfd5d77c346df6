"""The settings are safe by default and cheap to read."""

from __future__ import annotations

import subprocess
import sys

import pytest
from pydantic import ValidationError

from rollout.settings import RolloutSettings


@pytest.mark.parametrize("fields", [{"temperature": 0.0}, {"group_size": 0}, {"dtype": "int8"}, {"top_p": 0.9}])
def test_values_that_can_not_be_trained_with_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        RolloutSettings(**fields)


def test_every_field_says_what_it_is() -> None:
    assert all(field.description for field in RolloutSettings.model_fields.values())


def test_settings_and_worker_import_neither_torch_nor_vllm() -> None:
    # The actor pins its cores after importing the worker and before these two size their thread pools.
    script = "import sys, rollout.worker, rollout.settings; print({'torch', 'vllm', 'transformers'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"
