"""Dynamo's real frontend, as lemnos renders it, before its own simulated prefill and decode workers."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lemnos.deployments.probes import completion, health
from lemnos.engines.base import JobFiles, engine_named
from lemnos.hardware.ports import free_port
from lemnos.paths import cache_dir
from lemnos.spec.place import Place
from lemnos.spec.proposal import Role
from tests.tiny_glm import make_tiny_glm
from tests.unit.engines.rendered import glm
from tests.waiting import until

VERSION = "1.6.1"
# Looked for before the tests' own home hides it.
HOME = cache_dir() / "tests" / f"dynamo-{VERSION}"
pytestmark = [
    pytest.mark.bed,
    pytest.mark.skipif(
        not (HOME / "installed").exists(),
        reason="no real Dynamo: tests/contract/gateway/install_dynamo.sh installs it",
    ),
]
BOUND_S = 30.0
"""A request is answered in it, whatever happens to a worker. The frontend gives up after 5 s."""
MODEL = "glm-4.5-air-fp8"


class Group:
    """A frontend, and workers that are started one by one."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.model = make_tiny_glm(directory / "model")
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        plan = glm(
            "dynamo",
            VERSION,
            roles=Role(prefill=1, decode=1),
            layout={"tensor": 1, "replicas": 2},
            program=(str(HOME / "venv" / "bin" / "python"),),
        )
        files = JobFiles(
            log=str(directory / "engine-0.log"), key_file="", cache=str(directory)
        )
        place = Place(port=free_port("127.0.0.1"), inner_port=1, gpus_per_host=2)
        self.url = f"http://127.0.0.1:{place.port}"
        frontend, *workers = engine_named("dynamo").jobs(plan, 0, place, files)
        self.env = frontend.command.env
        # Simulated workers are found as the real ones would be.
        assert all(self.env.items() <= each.command.env.items() for each in workers)
        self.backend = [*frontend.command.argv[-2:]]
        self.run("frontend", *frontend.command.argv)

    def worker(self, role: str) -> None:
        python = str(HOME / "venv" / "bin" / "python")
        words = [*(python, "-m", "dynamo.mocker"), "--disaggregation-mode", role]
        words += ["--model-path", str(self.model), "--model-name", MODEL]
        if role == "prefill":
            words += ["--bootstrap-ports", str(free_port("127.0.0.1"))]
        self.run(role, *words, *self.backend)

    def run(self, name: str, *words: str) -> None:
        env = os.environ | self.env | {"HF_HUB_OFFLINE": "1"}
        with (self.directory / f"{name}.log").open("wb") as log:
            self.processes[name] = subprocess.Popen(
                words, env=env, stdout=log, stderr=log
            )

    def answers(self) -> str:
        """ "" or why not, as the supervisor would ask; fails where it is not told in time."""
        told = completion(self.url, MODEL, "key", timeout_s=BOUND_S)
        assert "timed out" not in told, told
        return told


@pytest.fixture
def group(tmp_path: Path) -> Iterator[Group]:
    made = Group(tmp_path)
    try:
        yield made
    finally:
        for process in made.processes.values():
            process.kill()
            process.wait()


def test_it_is_ready_only_when_a_completion_has_crossed_both_roles(group: Group) -> None:  # fmt: skip
    group.worker("decode")
    until(lambda: "answered with 503" in group.answers(), within_s=60)
    assert not health(group.url), "its own health says nothing of its workers"
    group.worker("prefill")
    until(lambda: not group.answers(), within_s=60)


@pytest.mark.parametrize("how", [signal.SIGSTOP, signal.SIGKILL])
def test_a_prefill_worker_that_hangs_or_ends_hangs_nobody(
    group: Group, how: signal.Signals
) -> None:
    """It is an error within seconds, and the next target is asked. The worker's lease runs out, and is
    not taken up again: the supervisor, whose completions fail, brings the group back."""
    group.worker("decode")
    group.worker("prefill")
    until(lambda: not group.answers(), within_s=60)
    group.processes["prefill"].send_signal(how)
    until(group.answers, within_s=BOUND_S)
    until(lambda: "answered with 503" in group.answers(), within_s=60)
