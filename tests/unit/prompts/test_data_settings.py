from __future__ import annotations

import subprocess
import sys

import pytest
from pydantic import ValidationError

from prompts.settings import DataSettings


def test_only_the_path_is_required_and_every_key_says_what_it_is() -> None:
    settings = DataSettings.model_validate({"path": "data/phantoms"})
    assert settings.tasks == ("report", "grounding")
    assert settings.phantom_count == 0
    assert all(field.description for field in DataSettings.model_fields.values())


@pytest.mark.parametrize(
    "wrong",
    [{"paht": "x"}, {"phantom_count": -1}, {"tasks": []}, {"tasks": ["reports"]}],
)
def test_wrong_keys_and_values_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        DataSettings.model_validate({"path": "data", **wrong})


def test_the_room_is_cheap_to_import() -> None:
    code = "import sys, prompts.settings, prompts.phantoms, prompts.converters, prompts.source, prompts.describe;"
    code += "print([name for name in ('torch', 'transformers', 'vllm', 'ray', 'deepspeed') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
