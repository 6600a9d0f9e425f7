"""Hosts on which lemnos is to start a Ray, and which are not fit for it: said before anything is started."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lemnos.errors import LemnosError, UsageError
from lemnos.launchers.registry import launcher_for
from tests.contract.launchers.suite import Bed
from tests.testbeds.hosts import Hosts
from tests.testbeds.ray import PYTHON, hosts_with_ray

pytestmark = pytest.mark.bed

LISTEN = """
import socket
server = socket.create_server(("", 21001))
print(flush=True)
while True:
    server.accept()[0].close()
"""


@pytest.fixture(scope="module")
def boxes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    with hosts_with_ray(tmp_path_factory.mktemp("hosts"), "n1", "n2") as made:
        yield made


@pytest.fixture
def bed(boxes: Hosts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bed:
    monkeypatch.setenv("LEMNOS_SSH_CONFIG", str(boxes.ssh_from_here))
    return Bed(tmp_path, "ray")


def refused(bed: Bed, **keys: Any) -> LemnosError:
    """What starting a unit says; nothing is left of it on any host."""
    spec = {"hosts": ["n1", "n2"], "python": str(PYTHON)} | keys
    launcher = launcher_for(bed.site(ray=spec))
    try:
        with pytest.raises(LemnosError) as caught:
            launcher.submit(bed.unit(launcher))
        assert launcher.status() == {}
        with pytest.raises(LemnosError):
            launcher.room(bed.unit(launcher))
    finally:
        found = launcher.sweep()
    assert found == 0, "something was started"
    return caught.value


def test_hosts_without_ray_are_refused(bed: Bed) -> None:
    error = refused(bed, python=sys.executable)
    assert isinstance(error, UsageError) and "has no Ray" in str(error)
    error = refused(bed, python="/opt/nowhere/python")
    assert "/opt/nowhere/python" in str(error) and "n1" in error.where


def test_mixed_versions_are_refused(bed: Bed, tmp_path: Path) -> None:
    (tmp_path / "old/ray").mkdir(parents=True)
    (tmp_path / "old/ray/__init__.py").write_text("__version__ = '2.9.3'\n")
    python = tmp_path / "python"
    other = f'[ "$(hostname)" = n2 ] && export PYTHONPATH="{tmp_path}/old"'
    python.write_text(f'#!/bin/sh\n{other}\nexec {PYTHON} "$@"\n')
    python.chmod(0o755)
    said = str(refused(bed, python=str(python)))
    assert "n1 has Ray 2.60.0" in said and "n2 has Ray 2.9.3" in said


def test_ports_are_tried_first(bed: Bed, boxes: Hosts) -> None:
    blocked = ("route", "add", "prohibit", boxes.addresses["n1"])
    boxes.run("n2", "ip", *blocked)
    try:
        assert "does not reach port 21000 of n" in str(refused(bed))
    finally:
        boxes.run("n2", "ip", "route", "del", *blocked[2:])
    with boxes.start("n2", sys.executable, "-I", "-S", "-c", LISTEN) as listening:
        assert listening.stdout and listening.stdout.readline()
        error = refused(bed)
        listening.kill()
    assert "another process has port 21001" in str(error) and error.where == "n2"


def test_gpus_that_nobody_has_are_refused(bed: Bed) -> None:
    spec = {"hosts": ["n1", "n2"], "python": str(PYTHON), "resources": {"h200": 1}}
    launcher = launcher_for(bed.site(ray=spec))
    with pytest.raises(UsageError, match="1 h200"):
        launcher.room(bed.unit(launcher))
    assert [node.name for node in launcher.inventory().nodes]


def test_a_host_that_nobody_reaches_is_said(bed: Bed) -> None:
    with pytest.raises(LemnosError, match="nowhere"):
        launcher = launcher_for(bed.site(ray={"hosts": ["nowhere", "n1"]}))
        launcher.submit(bed.unit(launcher))
