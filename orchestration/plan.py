"""Plan: what a recipe would run where, and whether this machine has room for it.

Role: `overread plan` and `train --dry-run`; every run checks its plan before it starts anything.
Input: a recipe, a machine. Output: ``Plan`` to read, or one ConfigError that says what is too small.
"""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from orchestration.config import Recipe
from orchestration.machine import Machine, this_machine
from orchestration.model_facts import ModelFacts, model_facts
from orchestration.placement import place_run
from schemas.errors import ConfigError

GIB = 2**30
_BYTES = {"float32": 4, "bfloat16": 2}
# What a process takes beside its model and cache. Proportional set sizes of a run of the tiny model on two CPU cores
# (engine 1.2 GiB and its actor 0.7, rank 0.7, service 0.3, driver 0.2, Ray's own processes 0.3), rounded up.
_RUNTIME = {"rollout": int(2.0 * GIB), "learner": int(0.9 * GIB), "driver": int(0.3 * GIB), "rewards": int(0.3 * GIB)}
_RAY = int(0.5 * GIB)  # the object store is counted by what lies in it
_GPU_CONTEXT = int(1.5 * GIB)  # an allowance for a card's context, kernels and fragmentation
_ADAM_BYTES = 12  # a parameter's float32 master copy and two moments
_HEAD_TOKENS = 4096  # the learner's head works on slices of this many tokens
_ACTIVATION_BYTES = 34  # a token, layer and hidden unit, in 16 bit (Korthikanti et al. 2022, section 4.1)


@dataclass(frozen=True)
class Process:
    """One process of the run: where it runs, and its memory by purpose (bytes), on its card where it has one."""

    name: str
    cores: tuple[int, ...]
    gpu: int | None
    memory: tuple[tuple[str, int], ...]

    @property
    def memory_bytes(self) -> int:
        return sum(size for _, size in self.memory)


@dataclass(frozen=True)
class Plan:
    """What a recipe would run on a machine."""

    recipe: Recipe
    machine: Machine
    model: ModelFacts
    learner_dtype: str
    processes: tuple[Process, ...]

    @property
    def completions_per_step(self) -> int:
        return self.recipe.groups_per_step * self.recipe.rollout.group_size

    @property
    def tokens_per_step(self) -> int:
        """Sampled tokens a step, at most."""
        return self.completions_per_step * self.recipe.rollout.max_tokens

    @property
    def kv_tokens(self) -> int:
        """Tokens that one engine's KV cache holds."""
        return (
            self.recipe.rollout.kv_cache_mib * 2**20 // self.model.kv_bytes_per_token(_BYTES[self.recipe.rollout.dtype])
        )

    @property
    def main_memory_bytes(self) -> int:
        """Of all processes without a card."""
        return sum(process.memory_bytes for process in self.processes if process.gpu is None)

    def gpu_bytes(self, index: int) -> int:
        """Of all processes on one card."""
        return sum(process.memory_bytes for process in self.processes if process.gpu == index)


def make_plan(recipe: Recipe, machine: Machine | None = None) -> Plan:
    """Lay a recipe out on a machine (this one). It may not fit: ``check_plan`` says so.

    Raises:
        DataError: the model is neither on this machine nor of a known size, or is no Qwen3-VL.
    """
    machine = machine or this_machine()
    facts = model_facts(recipe.model)
    dtype = recipe.learner.dtype
    if dtype == "auto":
        dtype = "bfloat16" if machine.gpus else "float32"
    workers, ranks = _core_shares(recipe, machine)
    cards = _deal_gpus(len(workers) + len(ranks), len(machine.gpus))
    engine, rank = _engine_memory(recipe, facts), _rank_memory(recipe, facts, dtype)
    processes = [
        Process("driver and Ray", (), None, (("runtime", _RUNTIME["driver"] + _RAY), _store_part(facts, dtype)))
    ]
    if not recipe.reward.addresses:
        replicas = [f"reward replica {i}" for i in range(recipe.reward.scale.most)]
        for name in [*replicas, "Ray Serve"] if replicas else ["reward service"]:
            processes.append(Process(name, (), None, (("runtime", _RUNTIME["rewards"]),)))
    named = [(f"rollout-{i}", "rollout", cores, engine) for i, cores in enumerate(workers)]
    named += [(f"learner-{i}", "learner", cores, rank) for i, cores in enumerate(ranks)]
    for (name, role, cores, parts), card in zip(named, cards, strict=True):
        runtime = ("runtime", _RUNTIME[role] if card is None else _GPU_CONTEXT)
        processes.append(Process(name, cores, card, (*parts, runtime)))
        if card is not None:
            processes.append(Process(f"{name}, on the host", cores, None, (("runtime", _RUNTIME[role]),)))
    return Plan(recipe, machine, facts, dtype, tuple(processes))


def _core_shares(recipe: Recipe, machine: Machine) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    try:
        placement = place_run(recipe, machine.cores)
    except ConfigError:
        # Too few cores: the plan is still shown, with none dealt out; check_plan raises this error.
        return [()] * recipe.rollout.workers, [()] * recipe.learner.ranks
    return list(placement.workers), list(placement.ranks)


def _deal_gpus(processes: int, gpus: int) -> list[int | None]:
    """A card each; where there are fewer cards than processes, they share them in turn."""
    return [None if gpus == 0 else index % gpus for index in range(processes)]


def _engine_memory(recipe: Recipe, facts: ModelFacts) -> tuple[tuple[str, int], ...]:
    weights = facts.parameters * _BYTES[recipe.rollout.dtype]
    return (("weights", weights), ("KV cache", recipe.rollout.kv_cache_mib * 2**20))


def _rank_memory(recipe: Recipe, facts: ModelFacts, dtype: str) -> tuple[tuple[str, int], ...]:
    """A learner rank's share under ZeRO: stage 1 shards the optimiser, 2 the gradients too, 3 the weights too."""
    learner, size = recipe.learner, _BYTES[dtype]
    shards = [learner.ranks if learner.zero_stage >= stage else 1 for stage in (1, 2, 3)]
    # In 16 bit, gradients are summed in float32 beside the ones that backward makes.
    gradient = 4 if size == 4 else size + 4
    parts = [
        ("weights", facts.parameters * size // shards[2]),
        ("gradients", facts.parameters * gradient // shards[1]),
        ("optimiser", facts.parameters * _ADAM_BYTES // shards[0]),
    ]
    if learner.kl_coefficient > 0.0:
        parts.append(("reference policy", facts.parameters * size))
    return (*parts, ("activations", _activation_bytes(recipe, facts, size)))


def _activation_bytes(recipe: Recipe, facts: ModelFacts, size: int) -> int:
    """One micro-batch's activations and logits, at most."""
    rollout, learner = recipe.rollout, recipe.learner
    row = rollout.max_model_len + (rollout.group_size - 1) * rollout.max_tokens
    rows = recipe.groups_per_step // (learner.ranks * learner.updates_per_step)
    tokens = max(row, min(learner.micro_batch_tokens, rows * row))
    unit = tokens * facts.hidden_size
    layer = unit * _ACTIVATION_BYTES * size // 2
    held = unit * size * facts.layers + layer if learner.gradient_checkpointing else layer * facts.layers
    logits = 2 * 4 * min(_HEAD_TOKENS, tokens) * facts.vocab_size
    return held + logits


def _store_part(facts: ModelFacts, dtype: str) -> tuple[str, int]:
    # A push lies in shared memory once for all engines of a node; the buffered groups are small beside it.
    return ("weights in transit", facts.parameters * _BYTES[dtype])


def check_plan(plan: Plan) -> None:
    """Refuse a plan that this machine has no room for.

    Raises:
        ConfigError: too few cores, too little memory, or an engine that would serve another precision than the learner
            pushes. One line: field, rule, given, remedy.
    """
    place_run(plan.recipe, plan.machine.cores)
    _check_precision(plan)
    # An engine must be able to hold one whole completion, or vLLM refuses to start.
    if plan.kv_tokens < plan.recipe.rollout.max_model_len:
        least = plan.recipe.rollout.max_model_len * plan.recipe.rollout.kv_cache_mib // max(1, plan.kv_tokens) + 1
        raise ConfigError(
            "rollout.kv_cache_mib",
            f"must hold one sequence of rollout.max_model_len = {plan.recipe.rollout.max_model_len} tokens",
            f"{plan.recipe.rollout.kv_cache_mib} MiB for {plan.kv_tokens} tokens",
            f"set it to {least} or more",
        )
    for index, gpu in enumerate(plan.machine.gpus):
        _check_room(
            plan,
            f"GPU {index}",
            plan.gpu_bytes(index),
            gpu.memory_bytes,
            "add GPUs and raise learner.ranks with learner.zero_stage=3",
        )
    without = "run it on a machine with GPUs" if not plan.machine.gpus else "take a machine with more memory"
    remedy = f"{without}, or lower rollout.workers, learner.ranks or the model's size"
    _check_room(plan, "this machine", plan.main_memory_bytes, plan.machine.memory_bytes, remedy)


def _check_precision(plan: Plan) -> None:
    # Pushed means identical: an engine of another precision would round every tensor that it is given.
    if plan.recipe.rollout.dtype != plan.learner_dtype:
        where = "a machine with GPUs" if plan.machine.gpus else "a machine without GPUs"
        raise ConfigError(
            "rollout.dtype",
            f"must be the learner's, {plan.learner_dtype} (learner.dtype={plan.recipe.learner.dtype} on {where})",
            plan.recipe.rollout.dtype,
            f"set rollout.dtype={plan.learner_dtype}, or learner.dtype={plan.recipe.rollout.dtype}",
        )


def _check_room(plan: Plan, where: str, needed: int, given: int, remedy: str) -> None:
    if needed > given:
        raise ConfigError(
            "plan",
            f"must fit into the {_gib(given)} of {where}",
            f"{_gib(needed)} for {plan.model.name} ({plan.model.parameters:,} parameters)",
            remedy,
        )


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB" if size >= GIB // 10 else f"{size / 2**20:.1f} MiB"


def show_plan(plan: Plan, console: Console) -> None:
    """Print the plan: what is trained, what runs where, and its memory."""
    recipe, model, machine = plan.recipe, plan.model, plan.machine
    head = Table.grid(padding=(0, 2))
    head.add_column(style="dim")
    head.add_column(overflow="fold")
    cards = ", ".join(f"{gpu.name} ({_gib(gpu.memory_bytes)})" for gpu in machine.gpus) or "no GPU"
    kv = f"{plan.kv_tokens:,} tokens, {plan.kv_tokens // recipe.rollout.max_model_len} whole sequences"
    for term, value in (
        ("recipe", recipe.name),
        ("model", f"{model.name}: {model.parameters:,} parameters ({model.source})"),
        ("machine", f"{len(machine.cores)} cores, {_gib(machine.memory_bytes)}, {cards}"),
        ("warm start", "none" if recipe.sft is None else f"{recipe.sft.steps} steps of {recipe.sft.batch_size}"),
        ("training", f"{recipe.steps} steps, {recipe.steps * recipe.groups_per_step:,} prompts"),
        (
            "a step",
            f"{recipe.groups_per_step} prompts x {recipe.rollout.group_size} = {plan.completions_per_step} completions",
        ),
        ("", f"at most {plan.tokens_per_step:,} sampled tokens; optimiser updates: {recipe.learner.updates_per_step}"),
        ("staleness", f"policy versions behind, at most: {recipe.max_staleness}"),
        ("precision", f"engine {recipe.rollout.dtype}, learner {plan.learner_dtype}"),
        ("KV cache", f"{kv} per engine"),
        *((f"GPU {i}", f"{_gib(plan.gpu_bytes(i))} of {_gib(gpu.memory_bytes)}") for i, gpu in enumerate(machine.gpus)),
    ):
        head.add_row(term, escape(value))
    console.print(head)
    console.print(_process_table(plan))


def _process_table(plan: Plan) -> Table:
    table = Table(title="what runs where (memory is an estimate)", title_justify="left", show_footer=True)
    footer = f"{_gib(plan.main_memory_bytes)} of {_gib(plan.machine.memory_bytes)}"
    table.add_column("process", "main memory")
    table.add_column("cores")
    table.add_column("GPU")
    table.add_column("memory", footer, justify="right")
    table.add_column("made of")
    for process in plan.processes:
        cores = ", ".join(map(str, process.cores)) or "any"
        parts = ", ".join(f"{purpose} {_gib(size)}" for purpose, size in process.memory)
        card = "-" if process.gpu is None else str(process.gpu)
        table.add_row(process.name, cores, card, _gib(process.memory_bytes), parts)
    return table
