"""A deployment's life as units of a real systemd, with the real engine; also over a reboot."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from lemnos.spec.facts import LocalModel
from tests.cluster_life import Life, failed, files_left
from tests.testbeds.systemd import Systemd, systemd
from tests.waiting import until

pytestmark = [pytest.mark.bed, pytest.mark.usefixtures("embedded")]


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Systemd]:
    with systemd(tmp_path_factory.mktemp("systemd")) as bed:
        yield bed


@pytest.fixture
def life(box: Systemd, embedded: LocalModel) -> Iterator[Life]:
    """lemnos as ada, an ordinary user who lingers; her home holds the model."""
    home = box.home / "lemnos"
    if not home.exists():
        model = Path(embedded.path)
        models = model.parents[3]
        shutil.copytree(models, box.home / "models", symlinks=True)
        home.mkdir()
        for path in (home, box.home / "models", *(box.home / "models").rglob("*")):
            shutil.chown(path, box.home.stat().st_uid, box.home.stat().st_gid)
    made = Life(
        words(box),
        Path("/home/ada/lemnos"),
        Path("/home/ada/models"),
        seen_here=home,
    )
    yield made
    if made.report("ps"):
        made.run("down", "--all", "--now")


def words(box: Systemd) -> list[str]:
    """Before a command that ada runs; others after a reboot."""
    return [*box.at("ada"), "env", "--chdir=/home/ada/lemnos"]


def units(box: Systemd) -> list[str]:
    """Services and targets of lemnos that ada's manager knows."""
    said = box.run(
        *("systemctl", "--user", "list-units", "--all", "--plain", "--no-legend"),
        "lemnos-*",
        user="ada",
    )
    return [line.split()[0] for line in said.splitlines()]


def test_a_life(box: Systemd, life: Life) -> None:
    found = life.up("--on", "systemd")
    assert found["ready_s"] > 0
    services = [unit for unit in units(box) if unit.endswith(".service")]
    assert len(services) == 3, services  # supervisor, gateway, engine
    assert "listening" in life.run("logs", "-n", "500")

    (engine,) = [unit for unit in services if "engine-0" in unit]
    box.run("systemctl", "--user", "kill", "-s", "KILL", engine, user="ada")
    until(lambda: life.report("ps")[0]["restarts"] == 1, within_s=60)
    until(lambda: life.report("ps")[0]["phase"] == "ready", within_s=60)

    with life.load(found["url"]) as told:
        life.up("--concurrency", "2", "--on", "systemd")
        life.run("rollback")
    assert failed(told) == []

    box.reboot()
    life.words = words(box)
    until(lambda: life.report("ps")[0]["supervisor_alive"], within_s=60)
    until(lambda: life.report("ps")[0]["phase"] == "ready", within_s=60)
    assert life.run("chat", "--prompt", "Hello")

    life.run("down")
    assert units(box) == []
    assert files_left(box.home / "lemnos") == []
    left = box.home / ".config" / "systemd" / "user"
    assert not left.exists() or not os.listdir(left)


def test_without_lingering_it_is_said_how_to_get_it(box: Systemd, life: Life) -> None:
    box.run("loginctl", "disable-linger", "ada")
    try:
        said = life.run("up", "smollm2", "--context", "512", "--on", "systemd", code=1)
        assert "loginctl enable-linger" in said
        assert life.report("ps") == []
    finally:
        box.run("loginctl", "enable-linger", "ada")
