"""``lemnos probe``: here, over a real sshd, and between hosts with networks of their own."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from glob import glob
from pathlib import Path

import psutil
import pytest

import lemnos
from lemnos.errors import LemnosError, UsageError
from lemnos.hardware import agent, collect, disk_speed
from lemnos.hardware.probe import hosts_named
from lemnos.hardware.remote import RemoteScript
from lemnos.spec.cluster import Cluster
from lemnos.spec.document import load
from lemnos.transport.ssh import Ssh
from tests import sshd
from tests.command import lemnos as command
from tests.command import report
from tests.testbeds import hosts
from tests.waiting import until

needs_sshd = pytest.mark.skipif(
    sshd.SSHD is None or (os.getuid() == 0 and not os.access("/run", os.W_OK)),
    reason="sshd is not installed (Debian: apt-get install openssh-server)",
)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[sshd.Server]:
    """An sshd with two names, ``box`` and ``twin``."""
    with sshd.serving(tmp_path) as made:
        text = made.config.read_text()
        made.config.write_text(text.replace("Host box\n", "Host box twin\n"))
        yield made


def scripts() -> list[str]:
    """The probe's scripts that run now, as far as this user sees."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if "sys.stdin.buffer.read(int(sys.argv[1]))" in " ".join(words):
            found.append(" ".join(words))
    return found


# ---------------------------------------------------------------- here


def test_this_machine(tmp_path: Path) -> None:
    cluster = lemnos.probe()
    (node,) = cluster.nodes
    assert node.name == socket.gethostname()
    assert node.architecture and node.cores and node.memory_gib and node.free_gib
    assert any(disk.free_gib for disk in node.disks)
    path = tmp_path / "cluster.yaml"
    lemnos.write_cluster(path, cluster)
    assert load(path, Cluster) == cluster


def test_the_command_line_prints_saves_and_keeps_other_files(tmp_path: Path) -> None:
    path = tmp_path / "cluster.yaml"
    printed = command("probe", "--out", str(path))
    assert socket.gethostname() in printed.stdout and "file system" in printed.stdout
    assert load(path, Cluster).nodes[0].name == socket.gethostname()
    command("probe", "--out", str(path))  # an earlier probe's is replaced
    path.write_text("name: mine\n")
    refused = command("probe", "--out", str(path), code=2)
    assert "no probe wrote it" in refused.stderr
    assert path.read_text() == "name: mine\n"
    command("probe", "--out", str(path), "--force")
    assert load(path, Cluster).nodes
    assert "--out cluster.yaml" in command("probe").stderr
    assert report("probe")["nodes"][0]["cores"]


def test_reading_is_measured_and_leaves_no_file(tmp_path: Path) -> None:
    speed, why = disk_speed.measure([str(tmp_path)])[str(tmp_path)]
    assert (speed and speed > 1e6) or why
    assert list(tmp_path.iterdir()) == []


def test_reading_is_measured_only_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk_speed, "WRITE_MOST", 32 << 20)
    monkeypatch.setattr(disk_speed, "READ_S", 0.2)
    (node,) = lemnos.probe(measure_disk=True).nodes
    why = [said for said in node.unknown if "was not measured" in said]
    assert why or any(disk.read_gb_s for disk in node.disks)
    monkeypatch.setattr(
        disk_speed,
        "measure",
        lambda paths: dict.fromkeys(paths, (None, "Permission denied")),
    )
    (node,) = lemnos.probe(measure_disk=True).nodes
    assert any("was not measured: Permission denied" in said for said in node.unknown)


def test_a_models_file_is_read_where_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tmp_path / "models" / "m" / "model.safetensors"
    model.parent.mkdir(parents=True)
    with model.open("wb") as handle:
        handle.truncate((512 << 20) + 5)
    monkeypatch.setattr(disk_speed, "READ_S", 0.2)
    monkeypatch.setattr(disk_speed, "temporary", None)  # must not be needed
    speed, why = disk_speed.measure([str(tmp_path)])[str(tmp_path)]
    assert speed and why is None


def test_a_file_server_that_hangs_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hanging = tmp_path / "bin" / "stat"
    hanging.parent.mkdir()
    hanging.write_text('#!/bin/sh\ncase "$*" in *hung*) exec sleep 60;; esac\n'
                       f'exec {shutil.which("stat")} "$@"\n')  # fmt: skip
    hanging.chmod(0o755)
    monkeypatch.setenv("PATH", f"{hanging.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(collect, "STAT_S", 0.5)
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/mounts").write_text(
        "/dev/vda / ext4 rw 0 0\nserver:/x /hung nfs4 rw 0 0\n"
    )
    unknown: list[str] = []
    began = time.monotonic()
    found = collect.disks(str(tmp_path), "/home/me/models", "/home/me", unknown)
    assert time.monotonic() - began < 5
    by_path = {disk["mount"]: disk for disk in found}
    assert by_path["/"]["total"] > 0
    assert by_path["/hung"]["shared"] and "total" not in by_path["/hung"]
    assert unknown == ["the file system at /hung did not say its size within 0.5 s"]


# ---------------------------------------------------------------- over SSH


@pytest.mark.bed
@needs_sshd
def test_hosts_over_ssh(server: sshd.Server, tmp_path: Path) -> None:
    listed = tmp_path / "hosts"
    listed.write_text("# ours\nbox slots=8\n\ntwin # the other\n")
    config = ("--ssh-config", str(server.config))
    made = report("probe", "--hosts", str(listed), *config, "--ports", "29517")
    assert [node["name"] for node in made["nodes"]] == ["box", "twin"]
    for node in made["nodes"]:
        assert node["architecture"] and node["memory_gib"]
    (link,) = made["network"]["links"]
    assert (link["a"], link["b"]) == ("box", "twin")
    assert link["latency_ms"] > 0 and link["gbit_s"] > 0 and not link["closed_ports"]
    assert "under 1 ms is wanted" in made["network"]["verdict"]
    until(lambda: not scripts())


@pytest.mark.bed
@needs_sshd
def test_a_host_that_cannot_be_reached_stays_and_says_why(server: sshd.Server) -> None:
    config = ("--ssh-config", str(server.config))
    done = command("probe", "--hosts", "box,nowhere", *config, code=1)
    assert "nowhere: nothing could be read: nothing listens for SSH" in done.stdout
    done = command("probe", "--hosts", "nowhere", *config, code=1)
    assert "nothing listens for SSH there" in done.stderr


@pytest.mark.bed
@needs_sshd
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
@pytest.mark.parametrize("where", ["round 1", "reading 2 hosts"])
def test_nothing_is_left_when_the_probe_is_ended(
    server: sshd.Server, how: signal.Signals, where: str
) -> None:
    words = ["probe", "--hosts", "box,twin", "--ssh-config", str(server.config)]
    with subprocess.Popen(
        [sys.executable, "-m", "lemnos", *words], stdout=-3, stderr=-1, text=True
    ) as probing:
        assert probing.stderr
        while where not in probing.stderr.readline():
            pass
        probing.send_signal(how)
        code = probing.wait(15)
        assert "Traceback" not in probing.stderr.read()
    assert code == (130 if how == signal.SIGINT else -9)
    until(lambda: not scripts(), within_s=10)


def test_a_host_is_probed_once(tmp_path: Path) -> None:
    found = hosts_named("b,me@a,a,b")
    assert [host.host for host in found] == ["b", "me@a"]


@pytest.mark.bed
@needs_sshd
def test_chatty_shells_silent_scripts_and_hosts_without_python(
    server: sshd.Server, tmp_path: Path
) -> None:
    host = Ssh("box", server.config)
    with RemoteScript(host, agent, 30) as script:
        assert "not a request" not in script.ask(5, do="close")
        with pytest.raises(LemnosError, match="KeyError"):
            script.ask(5, do="nonsense")
    with (
        RemoteScript(host, agent, 30) as script,
        pytest.raises(LemnosError, match="did not answer in time"),
    ):
        script.answer(-9)
    # a python3 that is not there, for this host alone
    text = server.config.parent.joinpath("sshd_config")
    assert text.exists()
    with RemoteScript(_WithoutPython(host), collect, 5) as script:  # type: ignore[arg-type]
        with pytest.raises(LemnosError, match="there is no python3 there"):
            script.answer(5)


class _WithoutPython:
    def __init__(self, host: Ssh) -> None:
        self.host = host.host
        self._ssh = host

    def start(self, script: str) -> subprocess.Popen[bytes]:
        return self._ssh.start(script.replace("python3", "python3-that-is-not-there"))

    def problem(self, code: int, said: str) -> LemnosError:
        return self._ssh.problem(code, said)


def test_hosts_and_ports_that_cannot_be_right(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="names no host"):
        lemnos.probe(" , ")
    with pytest.raises(UsageError, match="no list of ports"):
        lemnos.probe("a,b", ports="22")
    with pytest.raises(UsageError, match="no host's name"):
        lemnos.probe(["-oProxyCommand=id"])


# ---------------------------------------------------------------- between hosts


@pytest.mark.bed
def test_slow_narrow_closed_and_busy_networks_are_seen(tmp_path: Path) -> None:
    with hosts.hosts(tmp_path, "desk", "n1", "n2") as net:
        net.run("n2", "tc", "qdisc", "add", "dev", "eth0", "root", "tbf",
                "rate", "100mbit", "burst", "64kb", "latency", "50ms")  # fmt: skip
        # n2 is the listener of the pair: what it is sent is not held back, what n1 is sent is.
        net.run("n1", "tc", "qdisc", "add", "dev", "eth0", "root", "tbf",
                "rate", "300mbit", "burst", "64kb", "latency", "50ms")  # fmt: skip
        net.run("n1", "ip", "rule", "add", "ipproto", "tcp", "dport", "6379", "blackhole")  # fmt: skip
        other = subprocess.Popen(
            [*net.at("n2"), sys.executable, "-m", "http.server", "8265"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            until(lambda: ":8265 " in net.run("n2", "ss", "-ltn"))
            words = ["--hosts", "n1,n2", "--ssh-config", str(net.ssh_config), "--json"]
            printed = net.run("desk", sys.executable, "-m", "lemnos", "probe", *words)
        finally:
            other.terminate()
            other.wait()
        still = net.run("n1", "ss", "-ltn") + net.run("n2", "ss", "-ltn")
    made = json.loads(printed)
    (link,) = made["network"]["links"]
    assert 0.2 < link["gbit_s"] < 0.35
    assert link["closed_ports"] == [6379] and link["closed_back"] == []
    assert link["busy_ports"] == [8265]
    verdict = made["network"]["verdict"]
    assert "Not enough" in verdict and "too narrow" in verdict
    assert "ports 6379" in verdict and "8265" in verdict
    assert ":29500 " not in still and ":10001 " not in still


@pytest.mark.bed
def test_hosts_that_do_not_reach_each_other(tmp_path: Path) -> None:
    with hosts.hosts(tmp_path, "desk", "n1", "n2") as net:
        for host, other in (("n1", "10.99.0.3"), ("n2", "10.99.0.2")):
            net.run(host, "ip", "rule", "add", "ipproto", "tcp", "to", other, "blackhole")  # fmt: skip
        words = ["--hosts", "n1,n2", "--ssh-config", str(net.ssh_config), "--json"]
        printed = net.run("desk", sys.executable, "-m", "lemnos", "probe", *words)
    (link,) = json.loads(printed)["network"]["links"]
    assert link["unknown"] == "no port of 10.99.0.3 or 10.99.0.2 can be reached"
    assert link["gbit_s"] is None and 29500 in link["closed_ports"]


# ---------------------------------------------------------------- other Pythons


def test_the_scripts_run_on_older_pythons(tmp_path: Path) -> None:
    if (old := old_python()) is None:
        pytest.skip("no Python 3.6 to 3.9 here")
    for module in (agent, collect, disk_speed):
        assert module.__file__
        asked = {"limit_s": 20, "paths": [str(tmp_path)]}
        with subprocess.Popen(
            [old, module.__file__], stdin=-1, stdout=-1, stderr=-1, text=True
        ) as script:
            assert script.stdin and script.stdout and script.stderr
            script.stdin.write(json.dumps(asked) + "\n")
            if module is agent:
                script.stdin.write(json.dumps({"do": "close"}) + "\n")
            script.stdin.flush()
            lines = [script.stdout.readline(), script.stdout.readline()]
            assert lines[1].startswith(collect.MARK), script.stderr.read()
            script.stdin.close()


def old_python() -> str | None:
    """The oldest that can be started: a name on PATH may be a shim for none."""
    for minor in range(6, 10):
        for name in (
            f"python3.{minor}",
            *glob(f"{Path(sys.base_prefix).parent}/3.{minor}.*/bin/python3"),
        ):
            with contextlib.suppress(OSError):
                if not subprocess.call([name, "-c", ""], stderr=subprocess.DEVNULL):
                    return name
    return None
