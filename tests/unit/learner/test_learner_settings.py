import subprocess
import sys

import pytest
from pydantic import ValidationError

from learner.schedule import learning_rate_at
from learner.settings import LearnerSettings, SftSettings


def test_settings_and_advantages_import_neither_torch_nor_transformers_nor_deepspeed():
    code = (
        "import sys; import learner.settings, learner.advantages, learner.schedule; "
        "print([m for m in ('torch', 'transformers', 'deepspeed') if m in sys.modules])"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert output.stdout.strip() == "[]"


def test_an_unknown_key_is_refused():
    with pytest.raises(ValidationError, match="learning_rat"):
        LearnerSettings.model_validate({"learning_rat": 1e-4})


def test_the_warm_start_takes_its_own_rate_and_schedule_and_keeps_the_rest():
    base = LearnerSettings(kl_coefficient=0.1, updates_per_step=4, zero_stage=3, weight_decay=0.5)
    sft = SftSettings(learning_rate=2e-3, warmup_steps=7).learner_settings(base)
    assert (sft.learning_rate, sft.lr_schedule, sft.warmup_steps) == (2e-3, "cosine", 7)
    assert (sft.kl_coefficient, sft.updates_per_step) == (0.0, 1)
    assert (sft.zero_stage, sft.weight_decay) == (3, 0.5)


def test_the_warm_up_rises_in_equal_steps_to_the_peak():
    rates = [learning_rate_at(u, peak=1.0, schedule="constant", warmup_updates=3, total_updates=10) for u in range(5)]
    assert rates == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])


def test_cosine_is_half_in_the_middle_and_zero_at_and_after_the_end():
    rates = [
        learning_rate_at(u, peak=2.0, schedule="cosine", warmup_updates=2, total_updates=12) for u in (2, 7, 12, 99)
    ]
    assert rates == pytest.approx([2.0, 1.0, 0.0, 0.0])
