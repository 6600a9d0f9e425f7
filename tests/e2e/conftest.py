"""The embedded model, fetched once and kept in pytest's own cache between runs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from lemnos.launchers.processes import Processes
from lemnos.models.progress import Silent
from lemnos.models.pull import pull
from lemnos.spec.deployment import ModelSpec
from lemnos.spec.facts import LocalModel
from tests.conftest import network_as_it_was


@pytest.fixture
def embedded(
    pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch
) -> LocalModel:
    """SmolLM2, whole and verified; workers that want it at the same time fetch it once."""
    return fetched(pytestconfig, monkeypatch)


def fetched(config: pytest.Config, monkeypatch: pytest.MonkeyPatch) -> LocalModel:
    """The same, for an environment that lasts for longer than a test."""
    monkeypatch.setenv("LEMNOS_MODELS", str(models_cache(config)))
    with network_as_it_was(monkeypatch):
        return pull(ModelSpec(source="smollm2"), Silent())


def models_cache(config: pytest.Config) -> Path:
    """Below .pytest_cache, which workers of one run share."""
    assert config.cache
    return config.cache.mkdir("lemnos-models")


@pytest.fixture(autouse=True)
def nothing_is_left(home: Path) -> Iterator[None]:
    """Whatever a test does, its processes end with it; and a test that passes left none."""
    yield
    end_all(home)


def end_all(home: Path) -> None:
    """End what runs for the user of this home; fails if there was anything."""
    names = _deployments(home)
    left = {name: Processes(name).sweep() for name in names}
    supervisors = _supervisors(home)
    for process in supervisors:
        process.kill()
    assert not any(left.values()) and not supervisors, (
        f"left running: {left}, {supervisors}"
    )


def _deployments(home: Path) -> list[str]:
    root = home / "lemnos" / "state" / "deployments"
    return [path.name for path in root.iterdir()] if root.is_dir() else []


def _supervisors(home: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            command, env = process.cmdline(), process.environ()
        except psutil.Error:
            continue
        ours = env.get("LEMNOS_HOME", "").startswith(str(home))
        if ours and "lemnos.deployments" in command and process.pid != os.getpid():
            found.append(process)
    return found
