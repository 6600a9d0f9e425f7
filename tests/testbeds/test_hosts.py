"""The beds of plain hosts: what they are, how they fail, and that nothing of them stays."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest

from tests.testbeds.hosts import Hosts, hosts
from tests.waiting import until

pytestmark = pytest.mark.bed

KINDS = {"n2": "closed", "n3": "denied", "n4": "changed"}
SAID = {"n2": "Connection refused", "n3": "Permission denied", "n4": "Host key verification failed"}  # fmt: skip


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    directory = tmp_path_factory.mktemp("hosts")
    with hosts(directory, "desk", "n1", "n2", "n3", "n4", ssh=KINDS) as bed:
        yield bed


def test_each_host_is_a_machine_with_the_same_files(bed: Hosts) -> None:
    (bed.directory / "note").write_text("shared")
    script = f"hostname; cat {bed.directory}/note; echo; ls /sys/class/net; echo ~; ps -e | wc -l"
    name, note, *network, home, count = bed.run("desk", "ssh", "n1", script).split()
    assert (name, note, network) == ("n1", "shared", ["eth0", "lo"])
    assert home == f"{bed.directory}/home" and int(count) < 12
    assert bed.run("n1", "hostname") == "n1\n"
    python = "import sys, lemnos; print(sys.executable)"
    assert bed.run("n1", sys.executable, "-c", python) == f"{sys.executable}\n"


@pytest.mark.parametrize("host", KINDS)
def test_hosts_that_do_not_let_us_in(bed: Hosts, host: str) -> None:
    assert SAID[host] in bed.run("desk", "ssh", host, "true", code=255)
    here = ["ssh", "-F", str(bed.ssh_from_here), host, "true"]
    assert SAID[host] in subprocess.run(here, capture_output=True, text=True, check=False).stderr  # fmt: skip


def test_ssh_from_the_test_itself(bed: Hosts) -> None:
    here = ["ssh", "-F", str(bed.ssh_from_here), "n1", "hostname"]
    assert subprocess.run(here, capture_output=True, text=True, check=True).stdout == "n1\n"  # fmt: skip


def test_signals_and_ends_pass_through(bed: Hosts) -> None:
    trap = "trap 'echo caught; exit 7' INT; echo armed; while :; do sleep 0.05; done"
    for send, code in ((signal.SIGINT, 7), (signal.SIGTERM, -signal.SIGTERM)):
        with bed.start("n1", "bash", "-c", trap) as process:
            assert process.stdout and process.stdout.readline() == "armed\n"
            process.send_signal(send)
            assert process.wait(10) == code
    with bed.start("n1", "sleep", "1000") as process:
        until(lambda: "sleep 1000" in bed.processes("n1"))
        process.kill()
    until(lambda: "sleep 1000" not in bed.processes("n1"))
    assert "no-such-program: No such file" in bed.run("n1", "no-such-program", code=127)


def test_a_host_without_power_comes_back_as_it_was(bed: Hosts) -> None:
    bed.run("n1", "sh", "-c", "setsid nohup sleep 1001 >/dev/null 2>&1 &")
    running = [process.info["cmdline"] for process in psutil.process_iter(["cmdline"])]
    assert ["sleep", "1001"] in running
    bed.kill("n1")
    running = [process.info["cmdline"] for process in psutil.process_iter(["cmdline"])]
    assert ["sleep", "1001"] not in running
    failed = bed.run("desk", "ssh", "-o", "ConnectTimeout=1", "n1", "true", code=255)
    assert "timed out" in failed or "No route" in failed
    bed.boot("n1")
    assert bed.run("desk", "ssh", "n1", "hostname") == "n1\n"
    assert "sleep 1001" not in bed.processes("n1")


def test_a_directory_that_is_not_shared(bed: Hosts) -> None:
    apart = bed.directory / "apart"
    apart.mkdir()
    bed.hide("n1", apart)
    (apart / "file").touch()
    assert bed.run("desk", "ls", str(apart)) == "file\n"
    assert bed.run("n1", "ls", str(apart)) == ""
    bed.hide("n2", apart, size="64k")
    full = bed.run("n2", "dd", "if=/dev/zero", f"of={apart}/big", "bs=128k", "count=1", code=1)  # fmt: skip
    assert "No space left on device" in full
