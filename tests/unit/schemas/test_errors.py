"""Errors cross process borders whole, and read as one line."""

from __future__ import annotations

import inspect
import pickle

import pytest

from schemas import errors

EXAMPLES = [
    errors.InputError("a", "must be b", 3, "do c"),
    errors.ConfigError("rollout.group_size", "must be at least 2", 1, "raise it"),
    errors.DataError("prompts.parquet row 3", "must exist", "a.png", "restore it"),
    errors.RolloutError("deadline", "no completion after 60 s"),
    errors.RewardError("unreachable", "nothing listens"),
    errors.LearnerError("the fingerprint differs"),
    errors.WeightPushError("digest of lm_head"),
    errors.DeadlineError("weights", "worker-0", 12.34, "the worker is replaced"),
    errors.OverreadError("something"),
]


def test_every_error_of_the_tree_is_among_the_examples() -> None:
    tree = {each for _, each in inspect.getmembers(errors, inspect.isclass) if issubclass(each, errors.OverreadError)}
    assert tree == {type(example) for example in EXAMPLES}


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_an_error_survives_pickling(error: errors.OverreadError) -> None:
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is type(error)
    assert str(back) == str(error)
    assert vars(back) == vars(error)


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_an_error_is_one_line(error: errors.OverreadError) -> None:
    assert len(str(error).splitlines()) == 1


def test_wrong_input_names_field_rule_value_and_remedy() -> None:
    error = errors.ConfigError("rollout.group_size", "must be at least 2", 1, "raise it")
    assert str(error) == "rollout.group_size: must be at least 2; given: 1; raise it"
    assert isinstance(error, errors.InputError)


def test_a_deadline_names_what_on_whom_how_long_and_what_next() -> None:
    error = errors.DeadlineError("weights", "worker-0", 12.34, "the worker is replaced")
    assert str(error) == "waited 12.3 s for weights from worker-0; the worker is replaced"
