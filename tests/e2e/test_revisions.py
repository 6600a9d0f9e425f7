"""Revisions, replicas and failures of a deployment on this machine, with the real engine, under requests."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import psutil
import pytest

from lemnos.hardware.ports import free_port
from lemnos.records.store import Store
from lemnos.spec.facts import LocalModel
from tests.cluster_life import Life, failed
from tests.e2e.conftest import models_cache
from tests.waiting import until

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("embedded")]

TWO = ["--concurrency", "2"]


@pytest.fixture
def life(
    embedded: LocalModel, home: Path, pytestconfig: pytest.Config
) -> Iterator[Life]:
    (home / "lemnos").mkdir()
    made = Life([], home / "lemnos", models_cache(pytestconfig))
    made.first = ["--port", str(free_port("127.0.0.1"))]
    yield made
    if made.report("ps"):
        made.run("down", "--all", "--now")


def test_forth_and_back_without_a_failed_request(life: Life) -> None:
    found = life.up(*TWO)
    with life.load(found["url"], every_s=0.3) as told:
        life.up("--concurrency", "3")
        before = life.report("ps")[0]
        life.run("rollback")
        life.run("scale", "2")
        after = life.report("ps")[0]
        life.run("scale", "1")
    assert failed(told) == []
    assert (before["revision"], after["revision"]) == (2, 3)
    assert (before["replicas_ready"], after["replicas_ready"]) == (1, 2)
    history = life.report("history")
    assert [each["state"] for each in history] == ["served", "served", "serves"]
    assert history[1]["changes"] == ["workload.concurrency: 2 -> 3"]
    assert "revision 1 again" in life.run("history")
    # A second way back, to a revision by its number.
    life.run("rollback", "--to", "2")
    assert life.report("ps")[0]["revision"] == 4
    said = life.run("rollback", "--to", "9", code=2)
    assert "has no revision 9" in said


def test_a_revision_that_cannot_start_leaves_the_old_one_and_its_words(
    life: Life, embedded: LocalModel, tmp_path: Path
) -> None:
    found = life.up(*TWO)
    odd = tmp_path / "odd.gguf"
    data = Path(embedded.path).read_bytes()
    arch = b"\x05\x00\x00\x00\x00\x00\x00\x00"
    data = data.replace(arch + b"llama", arch + b"lemma").replace(b"llama.", b"lemma.")
    odd.write_bytes(data)
    with life.load(found["url"]) as told:
        said = life.run("up", str(odd), "--name", found["name"], *life.first, code=1)
    assert "revision 2 of" in said and "revision 1 serves on" in said
    assert "llama.cpp cannot serve" in said or "unknown model architecture" in said
    assert failed(told) == []
    history = life.report("history")
    assert history[0]["state"] == "serves" and "failed" in history[1]["state"]
    assert history[1]["failures"][0]["lines"], "the lines that matter are kept"
    assert life.report("ps")[0]["phase"] == "ready"
    life.run("down")
    assert life.report("history", found["name"]), "history stays after down"


def test_an_interrupted_revision_is_given_up(life: Life) -> None:
    found = life.up(*TWO)
    child = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "lemnos",
            "up",
            "smollm2",
            "--context",
            "1024",
            *life.first,
        ],
        env=os.environ
        | {"LEMNOS_HOME": str(life.home), "LEMNOS_MODELS": str(life.models)},
        stderr=subprocess.PIPE,
    )
    store = Store(life.home / "state" / "lemnos.db")
    until(lambda: len(store.revisions(found["name"])) == 2)
    child.send_signal(signal.SIGINT)
    child.communicate(timeout=60)
    assert child.returncode == 130
    until(lambda: life.report("ps")[0]["wanted"] == 1)
    until(lambda: life.report("ps")[0]["replicas"] == 1)
    assert life.up(*TWO)["already_up"]
    assert life.report("ps")[0]["url"] == found["url"].removesuffix("/v1")


def test_a_supervisor_killed_during_a_change_goes_on_with_it(life: Life) -> None:
    found = life.up(*TWO)
    life.run("up", "smollm2", "--context", "1024", *TWO, *life.first, "--detach")
    (shown,) = life.report("ps")
    psutil.Process(shown["supervisor_pid"]).kill()
    with life.load(found["url"]) as told:
        again = life.report("up", "smollm2", "--context", "1024", *TWO, *life.first)
    assert failed(told) == []
    assert again["already_up"] and life.report("ps")[0]["revision"] == 2


def test_up_believes_no_supervisor_that_is_gone(life: Life) -> None:
    life.up(*TWO)
    (shown,) = life.report("ps")
    psutil.Process(shown["supervisor_pid"]).kill()
    for pid in shown["engine_pids"]:
        psutil.Process(pid).kill()
    life.up(*TWO)
    assert life.run("chat", "--prompt", "Hi", "--max-tokens", "3").strip()


def test_replicas_follow_the_queue(life: Life) -> None:
    spec = life.home / "scaled.yaml"
    spec.write_text(
        "model: smollm2\nworkload: {context: 256, concurrency: 1}\n"
        "scale: {min: 1, max: 2, queue: 2, up_after_s: 1, down_after_s: 3}\n"
    )
    found = life.report("up", str(spec))
    with busy(found["url"], clients=8) as told:
        until(lambda: life.report("ps")[0]["replicas_ready"] == 2, within_s=90)
    assert set(told) == {200}
    until(lambda: life.report("ps")[0]["replicas"] == 1, within_s=60)
    assert "the queue decides" in life.run("scale", "3", code=2)


@contextlib.contextmanager
def busy(url: str, clients: int) -> Iterator[list[int]]:
    """Each client asks again as soon as it is answered, so that requests wait at a machine of any speed."""
    told: list[int] = []
    done = threading.Event()
    body = {"model": "smollm2-135m-instruct", "prompt": "Hello", "max_tokens": 30}

    def ask() -> None:
        with httpx2.Client(trust_env=False, timeout=60) as client:
            while not done.is_set():
                told.append(client.post(f"{url}/completions", json=body).status_code)

    with ThreadPoolExecutor(clients) as pool:
        asking = [pool.submit(ask) for _ in range(clients)]
        try:
            yield told
        finally:
            done.set()
    for each in asking:
        each.result()
