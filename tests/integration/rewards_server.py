"""A reward service for tests: as a process, or an app on a real socket; items and groups to score."""

import asyncio
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI
from made_up_scorer import PLUGIN

from rewards.client import RewardClient
from rewards.settings import RewardServiceSettings
from schemas.group import Completion, RolloutGroup, Sampling, VersionSpan
from schemas.prompt import Box, Prompt, Reference

TOKEN = "a-token-of-the-test"
REPOSITORY = Path(__file__).parents[2]
READY_S = 60.0

BOX = Box(x1=0.1, y1=0.2, x2=0.3, y2=0.4, label="nodule")


def item(**changes: object) -> dict[str, Any]:
    reference = {"boxes": [{"box": list(BOX.corners), "label": "nodule"}], "report": "No effusion."}
    base = {"id": "a", "task": "grounding", "completion": "At [0.1, 0.2, 0.3, 0.4].", "box_format": "radvlm"}
    return {**base, "reference": reference, **changes}


def group(texts: Sequence[str], question: str = "Where is the nodule?") -> RolloutGroup:
    prompt = Prompt(
        prompt_id="p1",
        task="grounding",
        question=question,
        box_format="radvlm",
        reference=Reference(boxes=(BOX,)),
        dataset="test",
        patient_id="1",
        study_id="1",
        split="train",
    )
    completions = tuple(
        Completion(
            token_ids=(1, 2),
            rollout_logprobs=(-0.5, -0.25),
            versions=(VersionSpan(version=3, start=0, end=2),),
            finish_reason="stop",
            text=text,
        )
        for text in texts
    )
    return RolloutGroup(
        group_id="g1",
        prompt=prompt,
        epoch=0,
        incarnation=0,
        sampling=Sampling(max_tokens=8),
        completions=completions,
        fingerprint="f",
        worker="w0",
        generate_s=1.0,
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """A service process; its log is kept, to prove what is not in it."""

    def __init__(self, folder: Path, port: int = 0, config: str = "") -> None:
        folder.mkdir(exist_ok=True)
        token_file = folder / "token"
        token_file.write_text(TOKEN)
        config_file = folder / "config.toml"
        config_file.write_text(config)
        self.log = folder / "log"
        self._address_file = folder / "address"
        self._address_file.unlink(missing_ok=True)
        command = [sys.executable, "-m", "rewards.serve", "--port", str(port), "--token-file", str(token_file)]
        command += ["--config", str(config_file)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "--address-file", str(self._address_file)], cwd=REPOSITORY, stdout=log, stderr=log
            )

    @property
    def address(self) -> str:
        deadline = time.monotonic() + READY_S
        while not self._address_file.exists():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)
        return self._address_file.read_text()

    def stop(self, signal_number: int = signal.SIGTERM) -> int:
        self.process.send_signal(signal_number)
        return self.process.wait(timeout=30)


@contextmanager
def running(app: FastAPI) -> Iterator[str]:
    """An app on a real socket, for scorers that a process can't be given."""
    listener = socket.create_server(("127.0.0.1", 0))
    running_server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False))
    thread = threading.Thread(target=running_server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        running_server.should_exit = True
        thread.join(timeout=30)
        listener.close()


def made_up(**changes: Any) -> RewardServiceSettings:
    """A service with one process and one scorer that does what an answer says."""
    values = {"plugins": (PLUGIN,), "scorers": ("made_up",), "workers": 1, **changes}
    return RewardServiceSettings.model_validate(values)


async def scored(address: str, texts: Sequence[str], scorers: Sequence[str] = ("made_up",)) -> RolloutGroup:
    """A group's answer from a service without a token."""
    client = RewardClient([address], None, READY_S)
    await client.wait_ready(READY_S)
    result = await client.score_group(group(texts), scorers, {})
    await client.close()
    return result


def wait_for_ready(address: str, deadline_s: float = READY_S) -> None:
    """Until a service without a token answers requests."""

    async def wait() -> None:
        client = RewardClient([address], None, deadline_s)
        await client.wait_ready(deadline_s)
        await client.close()

    asyncio.run(wait())


def wait_until(holds: Callable[[], bool]) -> None:
    """Until something holds."""
    deadline = time.monotonic() + READY_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def wait_for_metric(address: str, line: str) -> None:
    """Until the service's metrics hold a line that starts so."""
    deadline = time.monotonic() + READY_S
    with httpx.Client(trust_env=False, headers={"Authorization": f"Bearer {TOKEN}"}) as probe:
        while f"\n{line}" not in probe.get(f"{address}/metrics").text:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def wait_for_pending(address: str, items: int) -> None:
    """Until the service says that it is scoring that many items."""
    wait_for_metric(address, f"overread_rewards_pending_items {items}.0")
