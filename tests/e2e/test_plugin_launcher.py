"""examples/launcher as another package has it: found by its entry point, the contract of all launchers,
and a deployment's life with it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from lemnos.errors import UsageError
from lemnos.launchers import registry
from tests.cluster_life import files_left
from tests.contract.launchers.suite import Bed, LauncherSuite, swept
from tests.unit.deployments.test_prepare_gpu import planned

EXAMPLE = Path(__file__).parents[2] / "examples/launcher"


@pytest.fixture(autouse=True)
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What installing the example leaves in a directory of Python's path, here and in children."""
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    site = tmp_path / "site"
    about = site / f"lemnos_nice-{project['version']}.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    points = project["entry-points"][registry.GROUP]
    lines = [f"[{registry.GROUP}]", *(f"{name} = {at}" for name, at in points.items())]
    (about / "entry_points.txt").write_text("\n".join(lines) + "\n")
    shutil.copy(EXAMPLE / "lemnos_nice.py", site)
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setenv("PYTHONPATH", str(site))
    return site


@pytest.fixture
def bed(tmp_path: Path) -> Iterator[Bed]:
    made = Bed(tmp_path / "state", "nice")
    yield made
    swept(made)


class TestContract(LauncherSuite):
    """What every launcher does."""


def test_its_keys_are_its_own(bed: Bed) -> None:
    launcher = bed.launcher(launcher_args={"level": 15})
    (command,) = launcher.render(bed.unit(launcher)).commands
    assert command[:4] == ("nice", "-n", "15", "sh")
    with pytest.raises(UsageError, match="level, from 0 to 19"):
        bed.launcher(launcher_args={"levle": 15})


def test_what_its_room_cannot_do_is_refused(bed: Bed) -> None:
    with pytest.raises(UsageError, match="use --on local"):
        bed.launcher().place(planned("glm-4.6-fp8", "8xH200"), "engine-0")


@pytest.mark.e2e
@pytest.mark.usefixtures("embedded")
def test_a_life(home: Path) -> None:
    words = ("--on", "nice", "--set", "launcher_args.level=15", "--context", "512")
    shown = lemnos("up", "smollm2", *words, "--dry-run")
    assert "nice -n 15 sh" in shown
    try:
        found = json.loads(lemnos("up", "smollm2", *words, "--json"))
        assert found["output_tokens_per_s"] > 0
        (status,) = json.loads(lemnos("ps", "--json"))
        (engine,) = status["engine_pids"]
        assert psutil.Process(engine).nice() == 15
        assert "listening" in lemnos("logs", "-n", "500")
        again = json.loads(lemnos("scale", "2", "--json"))
        assert again["replicas_ready"] == 2
    finally:
        lemnos("down", "--all")
    assert not psutil.pid_exists(engine)
    assert files_left(home / "lemnos") == []


def lemnos(*words: Any) -> str:
    """``lemnos WORDS`` in a new Python, which reads PYTHONPATH."""
    done = subprocess.run(
        [sys.executable, "-m", "lemnos", *words],
        capture_output=True,
        text=True,
        env=dict(os.environ),
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
