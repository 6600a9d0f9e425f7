"""kubectl on a login node: what runs for long there ends with us."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from lemnos.launchers.kubernetes.watching import lines_of, spawned
from lemnos.transport.here import Here
from lemnos.transport.ssh import Ssh
from tests.sshd import SSHD, serving
from tests.waiting import until

pytestmark = [
    pytest.mark.bed,
    pytest.mark.skipif(not SSHD, reason="needs sshd (openssh-server)"),
]


@pytest.fixture
def ssh(tmp_path: Path) -> Iterator[Ssh]:
    with serving(tmp_path) as server:
        made = Ssh("box", server.config)
        yield made
        made.close()


def left(word: str) -> list[psutil.Process]:
    """What still runs with this word."""
    return [p for p in psutil.process_iter(["cmdline"]) if word in (p.info["cmdline"] or ())]  # fmt: skip


@pytest.mark.parametrize("where", ["here", "there"])
def test_lines_come_as_they_are_said_and_the_child_ends_with_us(
    where: str, ssh: Ssh, tmp_path: Path
) -> None:
    word = f"word-{tmp_path.name}-{where}"
    says = "import sys, time; print('one'); print('two', flush=True); time.sleep(1000)"
    argv = (shutil.which("python3") or "python3", "-c", says, word)
    transport = Here() if where == "here" else ssh
    with (tmp_path / "said").open("wb") as said:
        with spawned(transport, argv, said) as child:
            lines = lines_of(child, threading.Event())
            assert [next(lines), next(lines)] == [b"one", b"two"]
            assert left(word)
        until(lambda: not left(word))
    with (tmp_path / "said").open("wb") as said:
        with spawned(transport, ("sh", "-c", "echo out; exit 3"), said) as child:
            assert list(lines_of(child, threading.Event())) == [b"out"]
            assert child.wait() == 3
