"""Units through a boot, behind walls, over real hosts, and for users who may not: one scope at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lemnos.errors import LemnosError
from lemnos.launchers.systemd import render, supervisor
from lemnos.launchers.systemd.launcher import Systemd
from lemnos.spec.plan import Secret
from tests.contract.launchers.bed import KEY, SERVER, WAITER, said
from tests.contract.launchers.systemd_bed import Inside, machine, shared_directory
from tests.testbeds.systemd import Systemd as Real
from tests.testbeds.systemd import systemd

pytestmark = pytest.mark.bed

# Tries what hardening forbids, tells how each went, and then serves.
TRIES = (
    """
import ctypes, os, socket, sys
def tried(name, act):
    try:
        act()
        print(name, "done", flush=True)
    except OSError as error:
        print(name, os.strerror(error.errno), flush=True)
libc = ctypes.CDLL(None, use_errno=True)
def call(name, *words):
    if getattr(libc, name)(*words) < 0:
        raise OSError(ctypes.get_errno(), name)
def write(path):
    with open(path, "w") as file:
        file.write("x")
home, directory = os.path.expanduser("~"), os.path.dirname(os.environ["OWN"])
tried("usr", lambda: write("/usr/local/canary"))
tried("etc", lambda: write("/etc/canary"))
tried("own", lambda: write(os.environ["OWN"]))
tried("home", lambda: (os.makedirs(home, exist_ok=True), write(home + "/x")))
tried("shm", lambda: write("/dev/shm/canary-" + str(os.getpid())))
tried("packet", lambda: socket.socket(17, socket.SOCK_RAW).close())
tried("unshare", lambda: call("unshare", 0x10000000))
tried("mount", lambda: call("mount", b"none", b"/mnt", b"tmpfs", 0, None))
import mmap
tried("jit", lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC).close())
print("uid", os.getuid(), "nnp", open("/proc/self/status").read().split("NoNewPrivs:")[1].split()[0], flush=True)
"""
    + SERVER
)


@pytest.fixture(scope="module")
def shared() -> Iterator[Path]:
    with shared_directory() as directory:
        yield directory


@pytest.fixture(scope="module")
def boxes(tmp_path_factory: pytest.TempPathFactory, shared: Path) -> Iterator[Real]:
    """Two hosts."""
    with systemd(
        tmp_path_factory.mktemp("systemd"), "box", "other", shared=[shared]
    ) as real:
        yield real


@pytest.mark.parametrize("scope", ["user", "system"])
def test_all_of_it_comes_back_after_a_reboot(
    boxes: Real, shared: Path, scope: str
) -> None:
    with machine(boxes, shared, scope) as bed:
        launcher, site = bed.launcher(), bed.site()
        supervisor.install(site, {"PATH": "/usr/bin:/bin"}, (*bed.python, "-c", WAITER))
        launcher.submit(bed.unit(launcher))
        url = launcher.status()["engine-0"].url
        assert bed.told(launcher)
        launcher.submit(bed.unit(launcher, "engine-1"))
        assert bed.told(launcher, "engine-1")
        launcher.cancel("engine-1")
        bed.until(lambda: not launcher.status()["engine-1"].alive)
        boxes.reboot()
        bed.transport.words = boxes.at("ada" if scope == "user" else "root")
        try:
            again = bed.launcher()
            assert bed.told(again)
            assert again.status()["engine-0"].url == url
            assert not again.status()["engine-1"].alive, "it was cancelled before"
            assert len(bed.processes()) == 1
            service = render.supervisor_of("box")
            assert bed.systemctl("is-active", service).out == "active\n"
        finally:
            supervisor.remove(site)


def test_engines_of_the_system_are_behind_walls(boxes: Real, shared: Path) -> None:
    with machine(boxes, shared, "system", user="ada") as bed:
        launcher = bed.launcher()
        files = launcher.files("engine-0")
        assert files.log.startswith("/var/lib/lemnos/")
        own = f"{files.log.rpartition('/')[0]}/x"
        secrets = (Secret(key_file=files.key_file, env="ENGINE_KEY"),)
        unit = bed.unit(launcher, "engine-0", TRIES, env={"OWN": own}, secrets=secrets)
        launcher.submit(unit)
        assert bed.told(launcher)["env"]["ENGINE_KEY"] == KEY
        tried = dict(
            line.split(" ", 1) for line in said(launcher).splitlines() if " " in line
        )
        for name in ("usr", "etc"):
            assert tried[name] in ("Read-only file system", "Permission denied"), name
        for name in ("packet", "unshare", "mount"):
            assert tried[name] != "done", name
        assert (tried["own"], tried["home"], tried["shm"], tried["jit"]) == (
            "done",
        ) * 4
        assert tried["uid"].startswith("1000 nnp 1") or "nnp 1" in tried["uid"]
        log = bed.transport.run("stat", "-c", "%U %a", files.log).out.strip()
        assert log == "ada 600"
        launcher.sweep()
        left = bed.transport.run(
            "find", f"{files.log.rpartition('/')[0]}", "-type", "f"
        )
        assert {Path(p).name for p in left.out.split()} == {
            "engine-0.log",
            "engine.key",
            "x",
        }


def test_engines_of_an_ordinary_user_are_limited_as_far_as_it_goes(
    boxes: Real, shared: Path
) -> None:
    with machine(boxes, shared, "user") as bed:
        launcher = bed.launcher()
        own = f"{bed.directory}/box/x"
        launcher.submit(bed.unit(launcher, "engine-0", TRIES, env={"OWN": own}))
        assert bed.told(launcher)
        tried = dict(
            line.split(" ", 1) for line in said(launcher).splitlines() if " " in line
        )
        for name in ("packet", "unshare", "mount"):
            assert tried[name] != "done", name
        assert (tried["own"], tried["jit"], tried["shm"]) == ("done",) * 3
        assert "nnp 1" in tried["uid"]


@pytest.mark.parametrize("scope", ["user", "system"])
def test_a_unit_over_two_hosts(boxes: Real, shared: Path, scope: str) -> None:
    """The second host's part runs there; when that host dies it is told, and what is left can be swept."""
    user = "ada" if scope == "user" else "root"
    with machine(boxes, shared, scope) as bed:
        site = bed.site(systemd=bed.keys["systemd"] | {"hosts": ["box", "other"]})
        launcher = Systemd(site, lambda host: Inside(boxes.at(user, host), where=host))
        bed.made.append(launcher)
        unit = bed.unit(launcher, "engine-0", SERVER, WAITER)
        place = unit.place.model_copy(update={"hosts": ("box", "other")})
        jobs = (unit.jobs[0], unit.jobs[1].model_copy(update={"host": "other"}))
        launcher.submit(unit.model_copy(update={"jobs": jobs, "place": place}))
        assert bed.told(launcher)
        bed.until(lambda: "waits" in said(launcher))
        name = "lemnos-box-engine-0.1.service"
        control = ("systemctl", "--user") if scope == "user" else ("systemctl",)
        shown = (*control, "show", "-P", "ActiveState", name)
        assert boxes.run(*shown, user=user, host="other") == "active\n"
        assert boxes.run(*shown, user=user, host="box") == "inactive\n"
        boxes.run(*control, "kill", "-s", "KILL", name, user=user, host="other")
        bed.until(lambda: launcher.status()["engine-0"].broken)
        assert (
            "engine-0.1 was killed by SIGKILL" in launcher.status()["engine-0"].broken
        )


def test_without_lingering_it_is_said_what_to_do(boxes: Real, shared: Path) -> None:
    with machine(boxes, shared, "user") as bed:
        launcher = bed.launcher()
        unit = bed.unit(launcher)
        boxes.run("loginctl", "disable-linger", "ada")
        try:
            with pytest.raises(LemnosError) as error:
                launcher.submit(unit)
            assert "loginctl enable-linger ada" in error.value.fix
        finally:
            boxes.run("loginctl", "enable-linger", "ada")
        bed.until(lambda: bed.systemctl("is-system-running").out.strip() == "running")
        launcher.submit(unit)
        assert bed.told(launcher)


def test_units_of_the_system_need_root(boxes: Real, shared: Path) -> None:
    with machine(boxes, shared, "user") as bed:
        site = bed.site(systemd={"scope": "system"})
        launcher = Systemd(site)
        with pytest.raises(LemnosError, match="need root") as error:
            launcher.submit(bed.unit(bed.launcher()))
        assert "scope: user" in error.value.fix
