"""A deployment of prefill and decode apart, on this machine: the real router, supervisor and gateway,
and stand-ins for SGLang's servers, which hang and end at will."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest

import lemnos
from tests import groups
from tests.command import lemnos as run
from tests.command import report
from tests.tiny_glm import make_tiny_glm
from tests.waiting import until

pytestmark = [
    pytest.mark.bed,
    pytest.mark.skipif(groups.ENVIRONMENT is None, reason="smg is not installed"),
    pytest.mark.timeout(400),
]
BOUND_S = 150.0
"""In which a request is answered whatever happens to a prefill server: smg takes 15 to 30 s to see that
one hangs, and the supervisor asks it three times, 10 s apart."""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return make_tiny_glm(tmp_path / "tiny-glm")


@pytest.fixture
def box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An environment with SGLang's stand-in, on a machine that tells of four GPUs."""
    tools = groups.tools(tmp_path)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    yield groups.venv(tmp_path)
    if lemnos.status():
        run("down", "--all", "--now")


def up(spec_file: Path, model: Path, environment: Path, **keys: Any) -> str:
    """The deployment's URL."""
    lemnos.save_spec(spec_file, groups.spec(model, environment, **keys))
    return str(report("up", str(spec_file))["url"])


def ask(url: str) -> httpx2.Response:
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
    with httpx2.Client(trust_env=False, timeout=BOUND_S) as client:
        return client.post(f"{url}/chat/completions", json=body)


def server(role: str, unit: str) -> psutil.Process:
    """The process of a unit's only server of the role."""
    for process in psutil.process_iter():
        try:
            words, env = process.cmdline(), process.environ()
        except psutil.Error:
            continue
        ours = env.get("LEMNOS_JOB", "").rpartition("|")[2].startswith(unit)
        if ours and "sglang.launch_server" in words and role in words:
            return process
    raise AssertionError(f"{unit} has no {role} server")


def flood(url: str, pool: ThreadPoolExecutor, count: int) -> list[Future[httpx2.Response]]:  # fmt: skip
    return [pool.submit(ask, url) for _ in range(count)]


def statuses(asked: list[Future[httpx2.Response]]) -> Counter[int]:
    """Of all of them; one that hangs is a timeout of the client, and fails."""
    return Counter(each.result().status_code for each in asked)


def restarts() -> int:
    return int(report("ps")[0]["restarts"])


def ready() -> bool:
    return bool(report("ps")[0]["phase"] == "ready")


def test_one_group_is_one_target_and_comes_back(
    tmp_path: Path, model: Path, box: Path
) -> None:
    url = up(tmp_path / "pd.yaml", model, box)
    assert ask(url).json()["choices"][0]["message"]["content"] == "by decode"
    said = httpx2.post(
        f"{url}/messages",
        json={"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "Hi"}]},
        trust_env=False,
    )  # fmt: skip
    assert said.json()["content"][0]["text"] == "by decode", "messages are translated"
    logs = run("logs", "-n", "1000").stdout
    assert "PD Disaggregated" in logs
    with ThreadPoolExecutor(8) as pool:
        server("prefill", "engine-0").send_signal(signal.SIGKILL)
        seen = statuses(flood(url, pool, 40))
        assert set(seen) <= {200, 500, 502, 503, 504}
    until(lambda: restarts() == 1 and ready(), within_s=120)
    assert ask(url).status_code == 200


def test_with_two_groups_a_dead_and_a_hung_prefill_server_cost_no_request(
    tmp_path: Path, model: Path, box: Path
) -> None:
    url = up(tmp_path / "pd.yaml", model, box, replicas=2)
    with ThreadPoolExecutor(16) as pool:
        server("prefill", "engine-0").send_signal(signal.SIGKILL)
        assert statuses(flood(url, pool, 60)) == {200: 60}
        until(lambda: restarts() == 1 and ready(), within_s=120)
        hung = server("prefill", "engine-1")
        hung.send_signal(signal.SIGSTOP)
        assert statuses(flood(url, pool, 16)) == {200: 16}, "those that it held, too"
        until(lambda: restarts() == 2 and ready(), within_s=150)
    assert not hung.is_running() or hung.status() == psutil.STATUS_ZOMBIE
    assert statuses([_done(ask(url)) for _ in range(4)]) == {200: 4}


def _done(answer: httpx2.Response) -> Future[httpx2.Response]:
    future: Future[httpx2.Response] = Future()
    future.set_result(answer)
    return future
