"""A deployment's life on systemd, as people run it: up, an engine killed, a boot, down; nothing is left."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lemnos.transport.base import Done
from lemnos.transport.here import Here
from tests.contract.launchers.systemd_bed import USERS, shared_directory
from tests.e2e.conftest import fetched
from tests.testbeds.systemd import Systemd as Real
from tests.testbeds.systemd import systemd
from tests.waiting import until

pytestmark = [pytest.mark.bed, pytest.mark.e2e]

SPEC = """
name: chat
model: smollm2-135m-instruct
"on": systemd
systemd: {systemd}
workload: {{context: 1024, concurrency: 2}}
"""


@pytest.fixture(scope="module")
def shared() -> Iterator[Path]:
    with shared_directory() as directory:
        yield directory


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory, shared: Path) -> Iterator[Real]:
    with systemd(tmp_path_factory.mktemp("systemd"), shared=[shared]) as real:
        yield real


@pytest.mark.parametrize(
    ("scope", "keys"),
    [("user", "{scope: user}"), ("system", "{scope: system, user: ada}")],
)
def test_a_life_on_systemd(
    box: Real,
    shared: Path,
    scope: str,
    keys: str,
    pytestconfig: pytest.Config,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    home = shared / scope
    model = Path(fetched(pytestconfig, monkeypatch).path)
    models = next(each for each in model.parents if each.name == "lemnos-models")
    user, owner = USERS[scope]
    shutil.copytree(models, home / "models")
    (home / "chat.yaml").write_text(SPEC.format(systemd=keys))
    for path in (home, *home.rglob("*")):
        shutil.chown(path, owner, owner)
    own = [f"LEMNOS_HOME={home}", f"LEMNOS_MODELS={home}/models", "NO_PROXY=*"]

    def at(*words: str) -> Done:
        return Here().run(*box.at(user), "env", *own, *words, timeout_s=200)

    def lemnos(*words: str) -> str:
        done = at(sys.executable, "-m", "lemnos", *words)
        assert done.code == 0, done.err
        return done.out

    def status() -> dict[str, Any]:
        [told] = json.loads(lemnos("ps", "--json"))
        return dict(told)

    lemnos("up", str(home / "chat.yaml"))
    first = status()
    assert first["phase"] == "ready"
    pid = at("systemctl", f"--{scope}", "show", "-P", "MainPID", ENGINE).out.strip()
    at("kill", "-9", pid)
    until(
        lambda: status()["restarts"] >= 1 and status()["phase"] == "ready", within_s=90
    )
    box.reboot()
    until(
        lambda: status()["phase"] == "ready" and answers(at, first["url"]), within_s=90
    )
    lemnos("down", "chat")
    files = at("systemctl", f"--{scope}", "list-unit-files", "--no-legend", "lemnos-*")
    assert files.out == ""
    assert not [line for line in box.hosts.processes("box") if "lemnos" in line]
    left = {path.suffix for path in (home / "state/deployments").rglob("*.*")}
    assert left == {".log"}


ENGINE = "lemnos-chat-engine-0.service"
ASK = """
import json, sys, urllib.request
body = json.dumps({"model": "smollm2-135m-instruct", "prompt": "Hello", "max_tokens": 1}).encode()
head = {"content-type": "application/json"}
asked = urllib.request.Request(sys.argv[1].removesuffix("/v1") + "/v1/completions", body, head)
print(json.load(urllib.request.build_opener(urllib.request.ProxyHandler({})).open(asked))["choices"][0])
"""


def answers(at: Any, url: str) -> bool:
    """Whether the endpoint completes something."""
    return bool(at(sys.executable, "-I", "-c", ASK, url).code == 0)
