"""The systemd launcher in a real systemd: the contract of all launchers, and what only systemd does."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from lemnos.errors import LemnosError
from lemnos.launchers.systemd import render, supervisor
from lemnos.launchers.systemd.launcher import Systemd
from lemnos.launchers.systemd.parse import PROPERTIES, services_of
from lemnos.spec.plan import Secret
from tests.contract.launchers import bed as bed_module
from tests.contract.launchers.bed import (
    ENDS,
    KEY,
    POLITE,
    SERVER,
    WAITER,
    said,
    status_of,
)
from tests.contract.launchers.suite import LauncherSuite
from tests.contract.launchers.systemd_bed import Machine, machine, shared_directory
from tests.testbeds.systemd import Systemd as Real
from tests.testbeds.systemd import systemd

pytestmark = pytest.mark.bed


@pytest.fixture(scope="module")
def shared() -> Iterator[Path]:
    with shared_directory() as directory:
        yield directory


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory, shared: Path) -> Iterator[Real]:
    with systemd(tmp_path_factory.mktemp("systemd"), shared=[shared]) as real:
        yield real


@pytest.fixture(params=["user", "system"])
def bed(request: pytest.FixtureRequest, box: Real, shared: Path) -> Iterator[Machine]:
    with machine(box, shared, request.param) as made:
        yield made


class TestSystemd(LauncherSuite):
    """The contract, with units of an ordinary user and of the system."""


def test_what_is_killed_comes_back_at_the_same_url(bed: Machine) -> None:
    launcher = bed.launcher()
    launcher.submit(bed.unit(launcher))
    pid = bed.told(launcher)["pid"]
    url = launcher.status()["engine-0"].url
    bed.transport.run("kill", "-9", str(pid))
    bed.until(lambda: launcher.status()["engine-0"].starts == 1)
    assert bed.told(launcher)["pid"] != pid
    assert launcher.status()["engine-0"].url == url
    assert said(launcher).count("--- lemnos starts box/engine-0 at ") == 2


def test_active_means_that_it_answers(bed: Machine) -> None:
    launcher = bed.launcher()
    waits = bed.directory / "go"
    code = f"import os, time\nwhile not os.path.exists({str(waits)!r}): time.sleep(0.01)\n{SERVER}"
    launcher.submit(bed.unit(launcher, "engine-0", code))
    service = "lemnos-box-engine-0.service"

    def state() -> str:
        return bed.systemctl("is-active", service).out.strip()

    bed.until(lambda: "starts" in said(launcher))
    assert state() == "activating"
    assert launcher.status()["engine-0"].state == "running"
    waits.touch()
    bed.until(lambda: state() == "active")
    assert bed.told(launcher)


def test_what_fails_again_and_again_is_given_up(bed: Machine) -> None:
    launcher = bed.launcher()
    launcher.submit(bed.unit(launcher, "engine-0", ENDS))
    bed.until(lambda: not launcher.status()["engine-0"].alive)
    assert said(launcher).count("--- lemnos starts") == render.BURST
    why = launcher.status()["engine-0"].why
    assert (
        why
        == f"ended with exit code 3, and systemd gave it up after {render.BURST} starts"
    )


def test_a_program_that_is_not_there_is_told(bed: Machine) -> None:
    launcher = bed.launcher()
    unit = bed.unit(launcher)
    job = unit.jobs[0]
    command = job.command.model_copy(update={"argv": ("/no/such/engine",)})
    job = job.model_copy(update={"command": command})
    launcher.submit(unit.model_copy(update={"jobs": (job,)}))
    bed.until(lambda: not launcher.status()["engine-0"].alive)
    assert "was not found" in launcher.status()["engine-0"].why
    assert "/no/such/engine" in said(launcher)


def test_an_engine_whose_key_cannot_be_read_does_not_start(bed: Machine) -> None:
    launcher = bed.launcher()
    secrets = (Secret(key_file=f"{bed.directory}/nothing.key", env="ENGINE_KEY"),)
    launcher.submit(bed.unit(launcher, secrets=secrets))
    bed.until(lambda: not launcher.status()["engine-0"].alive)
    assert "nothing.key" in said(launcher) and "up []" not in said(launcher)


def test_rolled_back_beside_what_runs(bed: Machine) -> None:
    """A new revision beside the old one, back to the old one, and the first two are gone."""
    launcher = bed.launcher()
    old = bed.unit(launcher, "engine-0", argv=["old"])
    launcher.submit(old)
    assert bed.told(launcher, "engine-0")["argv"] == ["old"]
    launcher.submit(bed.unit(launcher, "engine-1", argv=["new"]))
    assert bed.told(launcher, "engine-1")["argv"] == ["new"]
    launcher.cancel("engine-0")
    bed.until(lambda: not status_of(launcher, "engine-0").alive)
    launcher.submit(bed.unit(launcher, "engine-2", argv=["old"]))
    assert bed.told(launcher, "engine-2")["argv"] == ["old"]
    launcher.cancel("engine-1")
    bed.until(lambda: not status_of(launcher, "engine-1").alive)
    assert "was stopped" in launcher.status()["engine-0"].why
    assert bed.told(launcher, "engine-2")["argv"] == ["old"]


def test_what_was_cancelled_does_not_come_back(bed: Machine) -> None:
    launcher = bed.launcher()
    launcher.submit(bed.unit(launcher))
    assert bed.told(launcher)
    launcher.cancel("engine-0")
    bed.until(lambda: not launcher.status()["engine-0"].alive)
    bed.systemctl("start", "lemnos-box-engine-0.service")  # as a boot would
    assert not launcher.status()["engine-0"].alive
    assert not bed.processes()


def test_units_that_ended_long_ago_are_forgotten(bed: Machine) -> None:
    launcher = bed.launcher()
    for number in range(5):
        launcher.submit(bed.unit(launcher, f"engine-{number}", POLITE))
        launcher.cancel(f"engine-{number}", kill=True)
        bed.until(lambda n=number: not status_of(launcher, f"engine-{n}").alive)  # type: ignore[misc]
    launcher.submit(bed.unit(launcher, "engine-5"))
    assert bed.told(launcher, "engine-5")
    assert list(launcher.status()) == [f"engine-{n}" for n in (2, 3, 4, 5)]
    assert (bed.directory / "box/engine-0.log").exists(), "logs stay"


def test_a_service_of_another_owner_is_left_alone(bed: Machine) -> None:
    mine = bed.launcher()
    mine.submit(bed.unit(mine))
    pid = bed.told(mine)["pid"]
    other = Systemd(
        dataclasses.replace(
            bed.site(), owner="else", directory=str(bed.directory / "else")
        )
    )
    other = Systemd(dataclasses.replace(bed.site(), owner="else"))
    assert other.status() == {}
    with pytest.raises(LemnosError, match="is there already, and is another's"):
        other.submit(bed.unit(mine))
    assert other.sweep() == 0
    assert bed.told(mine)["pid"] == pid


def test_stopped_by_hand_is_told(bed: Machine) -> None:
    launcher = bed.launcher()
    launcher.submit(bed.unit(launcher))
    assert bed.told(launcher)
    bed.systemctl("stop", "lemnos-box-engine-0.service")
    assert "was stopped" in launcher.status()["engine-0"].why


def test_a_start_that_fails_leaves_nothing(bed: Machine) -> None:
    units = {"user": "/home/ada/.config/systemd/user", "system": "/etc/systemd/system"}
    in_the_way = f"{units[bed.keys['systemd']['scope']]}/lemnos-box-engine-0.service"
    bed.transport.run("mkdir", "-p", f"{in_the_way}/x")
    launcher = bed.launcher()
    try:
        with pytest.raises(LemnosError, match="systemd does not take it"):
            launcher.submit(bed.unit(launcher))
    finally:
        bed.transport.remove(in_the_way)
    assert launcher.status() == {} and not bed.processes()
    assert bed.transport.read(f"{bed.directory}/box/units/engine-0/unit.json") is None


def test_directories_of_any_name(bed: Machine) -> None:
    """Nothing in a path becomes a setting, a specifier or a variable of systemd."""
    bed.directory = bed.directory / "a %n \"b\" 'c' $HOME $(touch canary) \\x41 ; # é"
    launcher = bed.launcher()
    key_file = launcher.files("engine-0").key_file
    launcher.submit(bed.unit(launcher, secrets=(Secret(key_file=key_file, env="K"),)))
    assert bed.told(launcher)["env"]["K"] == KEY
    assert "up []" in said(launcher)
    assert not list(bed.directory.parent.rglob("canary*"))


def test_hosts_have_their_own_jobs(bed: Machine) -> None:
    launcher = bed.at("localhost", "127.0.0.1")
    unit = bed.unit(launcher, "engine-0", SERVER, WAITER)
    assert unit.place.hosts == ("localhost",)
    place = unit.place.model_copy(update={"hosts": ("localhost", "127.0.0.1")})
    jobs = (unit.jobs[0], unit.jobs[1].model_copy(update={"host": "127.0.0.1"}))
    launcher.submit(unit.model_copy(update={"jobs": jobs, "place": place}))
    assert bed.told(launcher)
    bed.until(lambda: "waits" in said(launcher))
    assert [log.host for log in launcher.logs("engine-0")] == ["localhost", "127.0.0.1"]
    status = launcher.status()["engine-0"]
    assert status.hosts == ("localhost", "127.0.0.1") and status.pids == ()
    launcher.cancel("engine-0", kill=True)
    bed.until(lambda: not launcher.status()["engine-0"].alive)
    assert launcher.sweep() == 0


def test_a_host_that_does_not_answer_is_told_and_the_rest_is_known(
    bed: Machine,
) -> None:
    launcher = bed.at("localhost", "127.0.0.1")
    unit = bed.unit(launcher, "engine-0", SERVER, WAITER)
    jobs = (unit.jobs[0], unit.jobs[1].model_copy(update={"host": "127.0.0.1"}))
    launcher.submit(unit.model_copy(update={"jobs": jobs}))
    gone = bed.at("localhost", "127.0.0.1", silent="127.0.0.1")
    assert bed.told(gone)
    assert (
        gone.status()["engine-0"].broken == "127.0.0.1 does not answer: the host is off"
    )
    with pytest.raises(LemnosError, match="is not swept: the host is off"):
        gone.sweep()
    launcher.sweep()


def test_the_supervisor_comes_back_and_takes_what_runs_along(bed: Machine) -> None:
    """It is started, killed, brought back; stopping the target stops engines too, starting it starts them."""
    launcher, site = bed.launcher(), bed.site()
    launcher.submit(bed.unit(launcher))
    assert bed.told(launcher)
    wait = (*bed.python, "-c", WAITER)
    env = {
        bed_module.WORD: bed.word,
        "PATH": "/usr/bin:/bin",
        "LEMNOS_HOME": 'a "b" $c',
    }
    try:
        first = supervisor.install(site, env, wait)
        assert first and supervisor.install(site, env, wait) == first
        told = bed.transport.run("cat", f"/proc/{first}/environ").out.split("\0")
        assert 'LEMNOS_HOME=a "b" $c' in told
        bed.transport.run("kill", "-9", str(first))
        service = f"{render.supervisor_of('box')}"

        def pid() -> int:
            shown = bed.systemctl("show", "-p", PROPERTIES, service).out
            return services_of(shown)[service].pid

        bed.until(lambda: pid() not in (0, first))
        assert launcher.status()["engine-0"].alive, "engines do not mind"
        bed.systemctl("stop", "lemnos-box.target")
        assert not launcher.status()["engine-0"].alive and not pid()
        bed.systemctl("start", "lemnos-box.target")  # what a boot does
        assert bed.told(launcher) and pid()
        assert list(launcher.status()) == ["engine-0"]
        assert launcher.sweep() == 1 and pid(), "the supervisor sweeps, itself not"
    finally:
        supervisor.remove(site)
    supervisor.remove(site)
    assert bed.services() == [] and not bed.processes()
