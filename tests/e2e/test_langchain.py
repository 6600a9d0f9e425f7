"""examples/langchain with the real langchain-openai, as its first lines say to run it."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.command import lemnos, report
from tests.conftest import live_in
from tests.e2e.conftest import end_all, fetched

pytestmark = pytest.mark.e2e

EXAMPLE = Path(__file__).parents[2] / "examples" / "langchain" / "assistant.py"
LEMNOS = f"{shlex.quote(sys.executable)} -m lemnos"


@pytest.fixture(scope="module")
def deployed(
    tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config
) -> Iterator[tuple[Path, Any]]:
    """LEMNOS_HOME, and what ``up`` says: one deployment for all tests, which only ask it."""
    with pytest.MonkeyPatch.context() as patch:
        home = live_in(tmp_path_factory.mktemp("shared"), patch)
        fetched(pytestconfig, patch)
        yield home / "lemnos", report("up", "--context", "512", "--concurrency", "2")
        lemnos("down", "--now")
        end_all(home)


@pytest.fixture
def endpoint(deployed: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch) -> Any:
    """What ``up`` says; the test's own home sees the deployment."""
    monkeypatch.setenv("LEMNOS_HOME", str(deployed[0]))
    return deployed[1]


def shell(script: str) -> str:
    env = {name: value for name, value in os.environ.items() if "LANG" not in name}
    done = subprocess.run(
        ["sh", "-ec", script], capture_output=True, text=True, check=False, env=env
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_chat_a_tool_and_embeddings(endpoint: Any) -> None:
    said = shell(
        f'eval "$({LEMNOS} connect langchain)"\n{sys.executable} {shlex.quote(str(EXAMPLE))}'
    )
    sentence, call, nearest = said.splitlines()
    assert "sea" in sentence
    assert call == "calls: Weather(city='Athens', unit='celsius')"
    assert (
        nearest == "576 numbers; nearest: The ship to Athens leaves on Monday morning."
    )


@pytest.mark.parametrize("app", ["openai", "langchain"])
def test_snippets_work_as_printed(endpoint: Any, app: str) -> None:
    made = report("connect", app, "--embedding-model", endpoint["model"])
    lines = [*made["exports"], f"{sys.executable} -c {shlex.quote(made['snippet'])}"]
    *_, dimensions = shell("\n".join(lines)).splitlines()
    assert dimensions == "576"


def test_check_shows_which_target_answered(endpoint: Any, tmp_path: Path) -> None:
    lemnos("connect", "claude-code", "--project", str(tmp_path))
    lemnos(
        *("connect", "openai", "--write", str(tmp_path / ".env")),
        *("--embedding-model", endpoint["model"]),
    )
    answers = report("connect", "--check")
    assert [answer["error"] for answer in answers] == [""] * 5
    assert {answer["target"] for answer in answers} == {"engine-0"}
    assert "576 numbers" in [answer["said"] for answer in answers]
    lemnos("connect", "--undo")
    assert list(tmp_path.iterdir()) == []
