"""The process environment that vLLM and transformers read when they are imported.

Role: called once, before the first import of either. Input: where the model comes from.
Output: environment variables, inherited by the engine's process; what the user has set stays.
"""

from __future__ import annotations

import os
from pathlib import Path


def prepare_environment(model_path: str) -> None:
    """Quiet, private, and one process fewer.

    Args:
        model_path: a folder, or the name of a model on the hub (only then may the hub be asked).
    """
    defaults = {
        # vLLM's own warnings at each push (caches are reset while requests wait) are what a push is meant to do.
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_NO_USAGE_STATS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        # On a CPU, vLLM would put the model into a third process beside the engine's loop, to bind its threads;
        # affinity.pin has done that. Saves one import of vLLM (15 s) and a hand-over at every token.
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    }
    if Path(model_path).is_dir():
        defaults |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
