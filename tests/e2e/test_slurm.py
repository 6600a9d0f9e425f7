"""A deployment's life on a real Slurm, of both generations, with the real engine."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lemnos.spec.facts import LocalModel
from tests.cluster_life import Life, failed, files_left
from tests.e2e.conftest import models_cache
from tests.testbeds.slurm import Slurm
from tests.waiting import until

pytestmark = [pytest.mark.bed, pytest.mark.usefixtures("embedded")]

ROOM = ["--on", "slurm"]
SMALL = ["slurm.cpus=2", "slurm.memory=1G", "slurm.poll_s=1"]


@pytest.fixture
def life(
    cluster: Slurm, embedded: LocalModel, tmp_path: Path, pytestconfig: pytest.Config
) -> Iterator[Life]:
    """lemnos on the login node; its home is shared with the others."""
    made = Life(cluster.at("login"), tmp_path, models_cache(pytestconfig))
    yield made
    if made.report("ps"):
        made.run("down", "--all", "--now")
    cluster.clear()


def settings(*more: str) -> list[str]:
    return [word for each in (*SMALL, *more) for word in ("--set", each)]


def jobs(cluster: Slurm, *words: str) -> list[str]:
    """``id state`` of each job in the queue."""
    return cluster.run("login", "squeue", "-h", "-o", "%i %T", *words).splitlines()


def test_up_serves_from_a_job_and_down_leaves_nothing(
    cluster: Slurm, life: Life
) -> None:
    found = life.up(*ROOM, *settings("slurm.time=10m"))
    assert found["ready_s"] > 0
    assert len(jobs(cluster)) == 1
    assert life.run(
        *("chat", "--prompt", "The capital of France?", "--temperature", "0")
    )
    assert "listening" in life.run("logs", "-n", "500")
    batch = life.run("logs", "--role", "batch")
    assert "on n" in batch
    again = life.up(*ROOM, *settings("slurm.time=10m"))
    assert again["already_up"]
    life.run("down")
    until(lambda: not jobs(cluster), within_s=30)
    assert files_left(life.home) == []
    for node in ("n1", "n2", "n3"):
        assert not [p for p in cluster.hosts.processes(node) if "llamacpp" in p]


@pytest.mark.timeout(420)
def test_past_the_time_limit_without_a_failed_request(
    cluster: Slurm, life: Life
) -> None:
    # Slurm counts in minutes, and tells a job of its end up to one too early: in shorter jobs than
    # these the end can come before a successor is proven.
    found = life.up(*ROOM, *settings("slurm.time=110s", "slurm.drain_s=20"))
    with life.load(found["url"]) as told:
        until(lambda: len(served(life)) > 1, within_s=200)
        until(lambda: life.report("ps")[0]["replicas"] == 1, within_s=100)
    assert failed(told) == []
    assert len({who for _, who in told}) >= 2, "nothing was handed over"
    assert life.report("ps")[0]["restarts"] == 0


def served(life: Life) -> list[str]:
    state = life.home / "state" / "deployments"
    return [path.stem for path in state.glob("*/engine-?.log")]


def test_a_new_revision_and_back_without_a_failed_request(
    cluster: Slurm, life: Life
) -> None:
    found = life.up(*ROOM, *settings("slurm.time=10m"))
    with life.load(found["url"]) as told:
        life.up("--concurrency", "2", *ROOM, *settings("slurm.time=10m"))
        life.run("rollback")
    assert failed(told) == []
    assert len({who for _, who in told}) == 3
    history = life.report("history")
    assert [each["state"] for each in history] == ["served", "served", "serves"]
    assert history[2]["copy_of"] == 1


def test_a_revision_that_slurm_refuses_leaves_the_old_one(
    cluster: Slurm, life: Life
) -> None:
    found = life.up(*ROOM, *settings("slurm.time=10m"))
    with life.load(found["url"]) as told:
        said = life.run(
            *("up", "smollm2", "--context", "512", *ROOM),
            *settings("slurm.time=10m", "slurm.partition=gpus"),
            code=2,
        )
    assert "no partition 'gpus'" in said or "gpus" in said
    assert "revision 1 serves on" in said
    assert failed(told) == []
    assert life.report("ps")[0]["phase"] == "ready"


def test_when_its_node_dies_a_replica_comes_back_elsewhere(
    cluster: Slurm, life: Life
) -> None:
    life.up(*ROOM, *settings("slurm.time=10m"))
    (node,) = cluster.run("login", "squeue", "-h", "-o", "%N").split()
    cluster.kill_node(node)

    def elsewhere() -> bool:
        (shown,) = life.report("ps")
        running = cluster.run("login", "squeue", "-h", "-t", "R", "-o", "%N").split()
        ready = shown["phase"] == "ready" and shown["restarts"] > 0
        return ready and bool(running) and node not in running

    try:
        until(elsewhere, within_s=150)
        assert life.run(
            *("chat", "--prompt", "The capital of France?", "--temperature", "0")
        )
    finally:
        cluster.revive_node(node)


def test_a_supervisor_that_was_killed_finds_its_jobs(
    cluster: Slurm, life: Life
) -> None:
    found = life.up(*ROOM, *settings("slurm.time=10m"))
    before = jobs(cluster)
    (shown,) = life.report("ps")
    cluster.run("login", "kill", "-9", str(shown["supervisor_pid"]))
    with life.load(found["url"]) as told:
        again = life.up(*ROOM, *settings("slurm.time=10m"))
    assert again["already_up"] and failed(told) == []
    assert jobs(cluster) == before


def test_a_job_cancelled_by_somebody_comes_back_and_it_is_said(
    cluster: Slurm, life: Life
) -> None:
    life.up(*ROOM, *settings("slurm.time=10m"))
    (job,) = jobs(cluster)
    cluster.run("login", "scancel", job.split()[0])
    until(lambda: life.report("ps")[0]["restarts"] == 1, within_s=60)
    until(lambda: life.report("ps")[0]["phase"] == "ready", within_s=60)
    assert "cancel" in life.report("ps")[0]["why"].lower()
    assert life.report("history")[0]["failures"]


CLOUD = """
import http.server, json, socketserver, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        choice = {"index": 0, "text": "cloud", "finish_reason": "stop"}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        body = json.dumps({"id": "c", "object": "text_completion", "choices": [choice], "usage": usage}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args):
        pass
class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = daemon_threads = True
Server(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def test_while_the_job_waits_the_cloud_answers_and_then_the_job_does(
    cluster: Slurm, life: Life
) -> None:
    words = (sys.executable, "-I", "-S", "-c", CLOUD, "9911")
    cloud = cluster.start("login", *words)
    others = cluster.submit("--exclusive", "--nodes=3", "--wrap=sleep 600")
    until(lambda: cluster.state(others) == "RUNNING")
    try:
        key = life.run("keys", "add", "me", "--keys-file", str(life.home / "keys.yaml"))
        spec = life.home / "spec.yaml"
        spec.write_text(
            "model: smollm2\non: slurm\nworkload: {context: 512}\n"
            "slurm: {cpus: 2, memory: 1G, poll_s: 1, time: 10m}\n"
            "endpoint:\n  keys_file: keys.yaml\n  cloud:\n"
            "  - {url: 'http://127.0.0.1:9911', apis: [chat, completions], name: cloud,"
            " price: {input: 1, output: 2, as_of: 2026-11-21}}\n"
        )
        found = life.report("up", str(spec))
        assert life.report("ps")[0]["phase"] == "launching"
        assert "queued" in life.report("ps")[0]["stage"]
        with life.load(found["url"], key=key.split()[-1]) as told:
            until(lambda: cluster.run("login", "scancel", others) == "")
            until(lambda: life.report("ps")[0]["phase"] == "ready", within_s=90)
            until(lambda: "engine-0" in life.run("logs", "--job", "gateway-0"))
    finally:
        cloud.kill()
        cloud.communicate()
        cluster.run("login", "scancel", others)
    assert failed(told) == []
    assert {who for _, who in told} == {"cloud", "engine-0"}


def test_from_elsewhere_through_the_login_node(
    cluster: Slurm, embedded: LocalModel, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    """lemnos and its gateway run here, jobs and files there; the endpoint comes back by forwards."""
    ssh = cluster.hosts.ssh_from_here
    words = ("env", f"LEMNOS_SSH_CONFIG={ssh}")
    here = Life(words, tmp_path, models_cache(pytestconfig))
    try:
        found = here.up(*ROOM, "--via", "login", *settings("slurm.time=10m"))
        with here.load(found["url"]) as told:
            assert here.run("chat", "--prompt", "Hello")
            assert "listening" in here.run("logs", "-n", "500")
        assert failed(told) == []
    finally:
        here.run("down", "--now")
    until(lambda: not jobs(cluster), within_s=30)
    assert files_left(here.home) == []
