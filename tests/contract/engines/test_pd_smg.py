"""A group as lemnos renders it: the real router before stand-ins for SGLang's servers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from lemnos.deployments.probes import completion, health
from lemnos.engines import smg
from lemnos.engines.base import JobFiles, engine_named
from lemnos.engines.quirks import quirks_for
from lemnos.hardware.ports import free_port
from lemnos.launchers.processes import Processes
from lemnos.models.describe import describe
from lemnos.spec.facts import LocalModel
from lemnos.spec.place import Place
from lemnos.spec.plan import Job, Plan
from tests import groups
from tests.tiny_glm import make_tiny_glm
from tests.waiting import until

pytestmark = [
    pytest.mark.bed,
    pytest.mark.skipif(groups.ENVIRONMENT is None, reason="smg is not installed"),
]
KEY = "-the-key-of-the-group"


class Group:
    """The jobs of a unit, started one by one."""

    def __init__(self, directory: Path) -> None:
        environment = groups.venv(directory)
        model = make_tiny_glm(directory / "tiny-glm")
        spec = groups.spec(model, environment)
        assert spec.plan
        architecture = describe(str(model))[0].architecture
        python = (f"{environment}/bin/python",)
        plan = Plan(
            name="pd",
            spec=spec,
            model=LocalModel(name="m", source=f"file://{model}", format="safetensors", path=str(model), bytes=0),
            engine="sglang",
            engine_version="0.5.23",
            program=python,
            router=python,
            layout=spec.plan.layout,
            proposal=spec.plan,
            quirks=quirks_for("sglang", "0.5.23", "GLM-4.5-Air", architecture),
            reasons=(),
        )  # fmt: skip
        key = directory / "engine.key"
        key.write_text(KEY + "\n")
        key.chmod(0o600)
        files = JobFiles(log=str(directory / "engine-0.log"), key_file=str(key))
        place = Place(port=free_port("127.0.0.1"), inner_port=_free_range())
        self.url = f"http://127.0.0.1:{place.port}"
        self.router, self.prefill, self.decode = engine_named("sglang").jobs(
            plan, 0, place, files
        )
        self.launcher = Processes("pd")

    def start(self, *jobs: Job) -> None:
        for job in jobs:
            self.launcher.submit(job)

    def readiness(self) -> str:
        return health(self.url, smg.HEALTH)

    def answers(self) -> str:
        """ "" or why not, as the supervisor would ask."""
        return completion(self.url, "m", KEY)


def _free_range() -> int:
    from lemnos.launchers.seats import _free_range as of_lemnos

    return of_lemnos(16)


@pytest.fixture
def group(tmp_path: Path) -> Iterator[Group]:
    made = Group(tmp_path)
    try:
        yield made
    finally:
        made.launcher.sweep()


def test_it_is_ready_only_when_a_completion_has_crossed_both_roles(group: Group) -> None:  # fmt: skip
    group.start(group.router, group.decode)
    log = Path(group.router.log)
    until(lambda: "/health" in log.read_text(), within_s=60)  # it misses the prefill
    assert not health(group.url), "smg's own health says nothing of its engines"
    assert group.readiness() and group.answers()
    group.start(group.prefill)
    until(lambda: not group.answers(), within_s=60)
    until(lambda: not group.readiness(), within_s=60)


def test_a_prefill_server_that_ended_is_an_error_at_once(group: Group) -> None:
    """One that hangs is in tests/e2e/test_disaggregated.py: smg needs 15 to 30 s to see it."""
    group.start(group.router, group.prefill, group.decode)
    until(lambda: not group.answers(), within_s=60)
    psutil.Process(group.launcher.status()["engine-0.1"].pids[0]).kill()
    until(lambda: "answered with 50" in group.answers(), within_s=30)


def test_nobody_is_told_the_key(group: Group) -> None:
    group.start(group.router, group.prefill, group.decode)
    until(lambda: not group.answers(), within_s=60)
    for status in group.launcher.status().values():
        for pid in status.pids:
            process = psutil.Process(pid)
            assert KEY not in " ".join(process.cmdline())
            assert KEY not in str(process.environ())
    assert "401" in completion(group.url, "m", "another key")
    for job in (group.router, group.prefill, group.decode):
        assert KEY not in Path(job.log).read_text()
