"""Starting DeepSpeed: process group, ZeRO engine, without its op compiler and its chatter.

Input: a module, LearnerSettings, rank and world size; MASTER_ADDR and MASTER_PORT in the environment.
Output: a DeepSpeed engine. The only file that imports deepspeed at start-up.
"""

from __future__ import annotations

import logging
import os
import socket
import warnings
from datetime import timedelta
from typing import Any

import torch

from learner.settings import LearnerSettings
from schemas.errors import ConfigError

COLLECTIVE_DEADLINE = timedelta(minutes=10)  # a peer that is silent for longer is dead (promise 11)
BUCKET_NUMBERS = 50_000_000  # numbers per collective; DeepSpeed's default of 5e8 would allocate 2 GB up front


def device_of_rank() -> torch.device:
    """This rank's device: the first visible GPU (an actor sees only its own), else the CPU."""
    return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")


def start_process_group(rank: int, world_size: int) -> Any:
    """Imports deepspeed, joins the process group and returns the deepspeed module.

    Raises ConfigError where several ranks have no meeting point in the environment.
    """
    on_gpu = torch.cuda.is_available()
    if not on_gpu:
        os.environ["DS_ACCELERATOR"] = "cpu"
    if "MASTER_ADDR" not in os.environ or "MASTER_PORT" not in os.environ:
        if world_size > 1:
            raise ConfigError("MASTER_ADDR, MASTER_PORT", "must be set for several ranks", "unset", "set both")
        os.environ["MASTER_ADDR"] = "127.0.0.1"
        os.environ["MASTER_PORT"] = str(_free_port())
    # deepspeed reads all of these from the environment, and asks MPI for what is missing.
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world_size), LOCAL_RANK="0", LOCAL_SIZE="1")
    import deepspeed

    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    # deepspeed 0.19.8 still calls collectives by the names that torch 2.13 deprecates, once a call.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed\.c10d_logger")
    if not on_gpu:
        # deepspeed 0.19.8 compiles a shared-memory all-reduce on the first start on a CPU (ShareMemCommBuilder: half a
        # minute, needs g++ and ninja). Only tensor-parallel inference calls it: training goes through gloo. An op that
        # counts as incompatible isn't built, and giving the table here also saves the probing of every other op.
        # Remove when deepspeed builds it on first use: test_learner_start notices.
        deepspeed.ops.__dict__["__compatible_ops__"] = {}
    deepspeed.init_distributed(
        dist_backend="nccl" if on_gpu else "gloo",
        auto_mpi_discovery=False,
        verbose=False,
        timeout=COLLECTIVE_DEADLINE,
        init_method="env://",
        rank=rank,
        world_size=world_size,
    )
    return deepspeed


def start_engine(deepspeed: Any, module: torch.nn.Module, settings: LearnerSettings, dtype: torch.dtype) -> Any:
    """A ZeRO engine around ``module`` with torch's AdamW (DeepSpeed's own would be compiled).

    Accumulation is the caller's business (set_gradient_accumulation_boundary), and so are the loss's scale and the
    learning rate. Every stage skips an update whose gradient norm is not finite (``engine.was_step_applied()``).
    """
    bf16 = dtype == torch.bfloat16
    config = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": settings.gradient_clip,
        "steps_per_print": None,
        "bf16": {"enabled": bf16},
        # Summing micro-batches in bfloat16 would lose the small ones.
        "data_types": {"grad_accum_dtype": "fp32"},
        "zero_optimization": {
            "stage": settings.zero_stage,
            "overlap_comm": False,
            "reduce_bucket_size": BUCKET_NUMBERS,
            "allgather_bucket_size": BUCKET_NUMBERS,
        },
    }
    optimizer = torch.optim.AdamW(
        (p for p in module.parameters() if p.requires_grad),
        lr=settings.learning_rate,
        weight_decay=settings.weight_decay,
    )
    engine, *_ = deepspeed.initialize(model=module, optimizer=optimizer, config=config, dist_init_required=False)
    return engine


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
