"""One connection for many commands: begun, kept, lost and replaced; shells that talk, users' own settings."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from lemnos.errors import LemnosError
from lemnos.transport import sharing
from lemnos.transport.ssh import Ssh
from tests import sshd
from tests.waiting import until

pytestmark = [
    pytest.mark.bed,
    pytest.mark.skipif(
        sshd.SSHD is None,
        reason="sshd is not installed (Debian: apt-get install openssh-server)",
    ),
]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[sshd.Server]:
    with sshd.serving(tmp_path) as made:
        yield made


@pytest.fixture
def ssh(server: sshd.Server) -> Iterator[Callable[[], Ssh]]:
    """Makes transports to the box, as many processes of a user would."""
    made = []

    def another() -> Ssh:
        made.append(Ssh("box", server.config))
        return made[-1]

    yield another
    for one in made:
        one.close()


def connections(server: sshd.Server) -> int:
    """The sessions of sshd that are open now."""
    return len(psutil.Process(server.process.pid).children())


def test_commands_share_one_connection(
    server: sshd.Server, ssh: Callable[[], Ssh]
) -> None:
    first, second = ssh(), ssh()
    answers: list[str] = []
    threads = [
        threading.Thread(target=lambda i=i: answers.append((first, second)[i % 2].run("echo", str(i)).out))
        for i in range(6)
    ]  # fmt: skip
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [f"{i}\n" for i in range(6)]
    assert connections(server) == 1
    first.close()
    until(lambda: connections(server) == 0)
    assert second.run("echo", "again").out == "again\n"


def test_a_dead_connection_is_replaced(
    server: sshd.Server, ssh: Callable[[], Ssh]
) -> None:
    host = ssh()
    assert host.run("true").code == 0
    for session in psutil.Process(server.process.pid).children():
        session.kill()
    until(lambda: connections(server) == 0)
    assert host.run("echo", "back").out == "back\n"
    # and one whose process left its socket behind
    (master,) = [p for p in psutil.process_iter() if _is_master(p, host)]
    master.kill()
    until(lambda: not master.is_running() or master.status() == "zombie")
    assert host._socket and host._socket.exists()
    assert host.run("echo", "back").out == "back\n"


def test_a_connection_that_breaks_under_a_command_is_said(
    server: sshd.Server, ssh: Callable[[], Ssh], tmp_path: Path
) -> None:
    host = ssh()
    started = tmp_path / "started"
    problems: list[str] = []

    def run() -> None:
        try:
            host.run("sh", "-c", f"touch '{started}'; exec sleep 1000")
        except LemnosError as error:
            problems.append(str(error))

    thread = threading.Thread(target=run)
    thread.start()
    until(started.exists)
    for session in psutil.Process(server.process.pid).children(recursive=True):
        session.kill()
    thread.join(30)
    assert problems and problems[0].startswith("box: the connection broke while 'sh'")


def test_login_shells_may_talk_and_be_any_shell(
    server: sshd.Server, ssh: Callable[[], Ssh], tmp_path: Path
) -> None:
    authorized = server.directory / "authorized"
    key = authorized.read_text()
    shell = "echo Welcome; echo mind the step >&2; exec {} -c \\\"$SSH_ORIGINAL_COMMAND\\\""  # fmt: skip
    for name in ("sh", "tcsh", "fish"):
        authorized.write_text(f'command="{shell.format(name)}" {key}')
        if subprocess.run(["which", name], capture_output=True, check=False).returncode:
            continue
        host = ssh()
        assert host.run("printf", "%s", "it's !x\n").out == "it's !x\n"
        done = host.run("sh", "-c", "echo out; echo err >&2; exit 3")
        assert (done.code, done.out, done.err) == (3, "out\n", "err\n")
        host.write(str(tmp_path / "a b/file"), b"\x00\xff")
        assert host.read(str(tmp_path / "a b/file")) == b"\x00\xff"
        assert host.output("echo", "plain") == "plain\n"
        host.close()


def test_a_users_own_shared_connection_is_used(
    server: sshd.Server, ssh: Callable[[], Ssh], tmp_path: Path
) -> None:
    # As somebody does who types a second factor once a day.
    own = tmp_path / "own"
    with server.config.open("a") as config:
        config.write(f"Host *\n ControlPath {own}\n ControlMaster auto\n")
    base = ["ssh", "-F", str(server.config)]
    by_hand = subprocess.Popen([*base, "-M", "-N", "box"], stdin=subprocess.DEVNULL)
    until(own.exists)
    (server.directory / "authorized").write_text("")  # nobody is let in any more
    try:
        host = ssh()
        assert host.run("echo", "in").out == "in\n"
        assert host.run("sh", "-c", "exit 255").code == 255
        assert connections(server) == 1
    finally:
        by_hand.terminate()
        by_hand.wait(10)
    with pytest.raises(LemnosError, match="does not let you in"):
        host.run("true")


def test_sockets_are_private_short_and_apart(tmp_path: Path) -> None:
    directory = sharing.directory()
    assert directory.stat().st_mode & 0o777 == 0o700
    jumps = [f"host a\nhostname 10.0.0.5\nproxyjump {jump}\n" for jump in ("j1", "j2")]
    paths = {sharing.socket_for("a", settings) for settings in jumps}
    paths |= {sharing.socket_for("b", jumps[0])}
    assert len(paths) == 3
    assert all(len(str(path)) <= sharing.LONGEST for path in paths)


def test_another_users_directory_is_not_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lemnos-ssh").mkdir(mode=0o777)
    os.chmod(tmp_path / "lemnos-ssh", 0o777)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    sharing.directory.cache_clear()
    try:
        assert sharing.directory() != tmp_path / "lemnos-ssh"
        os.chmod(tmp_path / "lemnos-ssh", 0o700)
        sharing.directory.cache_clear()
        short = len(str(tmp_path / "lemnos-ssh")) + 21 <= sharing.LONGEST
        assert (sharing.directory() == tmp_path / "lemnos-ssh") == short
    finally:
        sharing.directory.cache_clear()


def test_the_connection_outlives_ctrl_c_and_carries_no_mark(
    server: sshd.Server, ssh: Callable[[], Ssh], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEMNOS_JOB", "a supervisor's")
    host = ssh()
    host.run("true")
    (master,) = [p for p in psutil.process_iter() if _is_master(p, host)]
    assert "LEMNOS_JOB" not in master.environ()
    assert os.getsid(master.pid) != os.getsid(0)


def _is_master(process: psutil.Process, host: Ssh) -> bool:
    words = " ".join(_words(process))
    return "[mux]" in words and str(host._socket) in words


def _words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []
