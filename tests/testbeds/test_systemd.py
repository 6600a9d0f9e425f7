"""The systemd bed runs units, of the system and of a user, and brings them back."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.testbeds.hosts import ADA, REPOSITORY
from tests.testbeds.systemd import Systemd, systemd
from tests.waiting import until

pytestmark = pytest.mark.bed

UNIT = """
[Service]
ExecStart=/bin/sh -c 'echo started >> {log}; exec sleep 1005'
Restart=always
RestartSec=0
[Install]
WantedBy={target}
"""


def _pid(bed: Systemd, *systemctl: str, user: str) -> str:
    return bed.run(*systemctl, "show", "-P", "MainPID", "sleeper", user=user).strip()


@pytest.mark.parametrize("user", ["root", "ada"])
def test_a_unit_is_brought_back_and_survives_a_reboot(
    systemd_box: Systemd, user: str
) -> None:
    own = ("systemctl",) if user == "root" else ("systemctl", "--user")
    home = systemd_box.home
    units = ".config/systemd/user" if user == "ada" else "system"
    systemd_box.run("mkdir", "-p", f"/home/ada/{units}", user="ada")
    target = "default.target" if user == "ada" else "multi-user.target"
    unit = home / units / "sleeper.service"
    unit.write_text(UNIT.format(log=f"/home/ada/started-{user}", target=target))
    enable = "/home/ada/system/sleeper.service" if user == "root" else "sleeper"
    systemd_box.run(*own, "enable", "--now", enable, user=user)

    first = _pid(systemd_box, *own, user=user)
    systemd_box.run("kill", "-9", first)
    until(lambda: _pid(systemd_box, *own, user=user) not in (first, "0"))
    assert systemd_box.run(*own, "show", "-P", "NRestarts", "sleeper", user=user) == "1\n"  # fmt: skip

    systemd_box.reboot()
    assert systemd_box.run(*own, "is-active", "sleeper", user=user) == "active\n"
    until(lambda: (home / f"started-{user}").read_text() == "started\n" * 3)

    systemd_box.run(*own, "disable", "--now", "sleeper", user=user)
    assert "sleep 1005" not in systemd_box.hosts.processes("box")
    unit.unlink()


def test_users_find_the_repository_and_its_python(systemd_box: Systemd) -> None:
    script = "import lemnos, os; print(os.getuid(), lemnos.__file__)"
    printed = systemd_box.run(sys.executable, "-c", script, user="ada").split()
    assert printed == [str(ADA), str(REPOSITORY / "src/lemnos/__init__.py")]
    assert f"uid={ADA}(ada)" in systemd_box.run("ssh", "ada@box", "systemctl --user is-active dbus; id")  # fmt: skip


def test_the_journal_has_what_units_say(systemd_box: Systemd) -> None:
    systemd_box.run("systemd-run", "--wait", "--unit=talker", "echo", "heard")
    until(lambda: "heard" in systemd_box.run("journalctl", "-o", "cat", "-u", "talker"))


def test_this_machine_keeps_its_own(tmp_path: Path) -> None:
    """What a boot throws away and what its units change is the bed's."""
    mine = [Path("/etc/machine-id"), Path("/etc/passwd"), Path("/usr/bin/true")]
    before = [path.read_bytes() for path in mine if path.exists()]
    kept = tmp_path / "kept"
    kept.touch()
    os.utime(kept, (0, 0))
    with systemd(tmp_path / "bed", "box", "other", shared=[tmp_path]) as bed:
        assert bed.run("ssh", "other", "hostname") == "other\n"
        bed.run("rm", "/usr/bin/true")
        bed.run("systemd-tmpfiles", "--clean")
        assert bed.run("stat", "-c", "%F", str(tmp_path)) == "directory\n"
    assert [path.read_bytes() for path in mine if path.exists()] == before
    assert kept.exists()
    assert str(tmp_path) not in Path("/proc/mounts").read_text()
