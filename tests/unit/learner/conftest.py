from pathlib import Path

import pytest
import torch
from learner_cases import make_model, special_ids

from learner.policy import Policy, load_model


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_model(Path(tmp_path_factory.mktemp("learner") / "tiny"))


@pytest.fixture(scope="session")
def policy(model_path: str) -> Policy:
    """The tiny model with the vision tokens forbidden."""
    return Policy(load_model(model_path, torch.float32), tuple(special_ids(model_path).values()))
