"""Units as jobs of a real Ray that is joined: a head and two nodes, reached through SSH to the head."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lemnos.errors import LemnosError, UsageError
from lemnos.launchers import late
from lemnos.launchers.base import Launcher
from lemnos.launchers.registry import launcher_for
from lemnos.spec.plan import Command, Secret
from lemnos.spec.unit import Unit
from lemnos.transport.ssh import Ssh
from tests.contract.launchers.bed import (
    KEY,
    SERVER,
    WAITER,
    WORD,
    evils,
    said,
    status_of,
)
from tests.contract.launchers.suite import Bed, LauncherSuite, swept
from tests.testbeds.ray import Ray, ray

pytestmark = [pytest.mark.bed, pytest.mark.timeout(300)]


# Stands where vLLM is: tells what an actor of Ray gave it, and ends as vLLM does when it is asked.
VLLM = """
import http.server, json, os, signal, sys, threading
def main():
    import ray
    group = ray.util.get_current_placement_group()
    told = {"argv": sys.argv, "env": dict(os.environ), "pid": os.getpid(), "bundles": group.bundle_specs}
    told["main"] = threading.current_thread() is threading.main_thread()
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            body = json.dumps(told).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        def log_message(self, *args):
            pass
    words = sys.argv
    host, port = words[words.index("--host") + 1], int(words[words.index("--port") + 1])
    server = http.server.ThreadingHTTPServer((host, port), Handler)
    def end(*_):
        threading.Thread(target=server.shutdown).start()
    signal.signal(signal.SIGTERM, end)
    print("up in Ray", flush=True)
    server.serve_forever()
    server.server_close()
    print("asked", flush=True)
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ray]:
    directory = tmp_path_factory.mktemp("ray")
    stand_in = directory / "python/vllm/entrypoints/cli"
    stand_in.mkdir(parents=True)
    (stand_in / "main.py").write_text(VLLM)
    with ray(directory, env={"PYTHONPATH": str(directory / "python")}) as bed:
        yield bed


@pytest.fixture(scope="module")
def ssh(cluster: Ray) -> Iterator[Ssh]:
    made = Ssh("head", cluster.hosts.ssh_from_here)
    yield made
    made.close()


@pytest.fixture
def bed(ssh: Ssh, tmp_path: Path) -> Iterator[Bed]:
    made = Bed(tmp_path / "a b", "ray", ssh, wait_s=90.0)
    made.directory.mkdir()
    yield made
    swept(made)


class TestRay(LauncherSuite):
    pass


def gang(bed: Bed, launcher: Launcher, name: str, gpus: int, hosts: int = 2) -> Unit:
    """A process with an API and its followers, a host each, with GPUs."""
    unit = bed.unit(launcher, name, SERVER, *[WAITER] * (hosts - 1))
    place = unit.place.model_copy(
        update={"hosts": tuple(late.host(n) for n in range(hosts)), "gpus_per_host": gpus}
    )  # fmt: skip
    jobs = [job.model_copy(update={"host": late.host(n)}) for n, job in enumerate(unit.jobs)]  # fmt: skip
    return unit.model_copy(update={"place": place, "jobs": tuple(jobs)})


def test_ranks_have_their_gpus_on_a_node_each_and_others_wait(bed: Bed) -> None:
    launcher = bed.launcher()
    launcher.submit(gang(bed, launcher, "engine-0", gpus=5))
    told = bed.told(launcher)
    assert len(told["env"]["CUDA_VISIBLE_DEVICES"].split(",")) == 5
    status = launcher.status()["engine-0"]
    assert len(set(status.hosts)) == 2
    assert {log.host for log in launcher.logs("engine-0")} == {*status.hosts, ""}

    second = gang(bed, launcher, "engine-1", gpus=4)
    # Nodes tell Ray what is free a moment later.
    bed.until(lambda: not launcher.room(second).free)
    assert "0 of the 2 nodes" in launcher.room(second).why
    launcher.submit(second)
    bed.until(lambda: "2 hosts with 4 GPU" in launcher.status()["engine-1"].why)
    assert launcher.status()["engine-1"].state == "queued"
    launcher.cancel("engine-1")
    bed.until(lambda: not status_of(launcher, "engine-1").alive)
    assert launcher.status()["engine-0"].state == "running"
    with pytest.raises(UsageError, match="GPU are needed, and 0 of this"):
        launcher.room(gang(bed, launcher, "engine-2", gpus=16))


def test_vllm_is_an_actor_whose_group_has_a_bundle_for_each_rank(
    bed: Bed, cluster: Ray
) -> None:
    launcher = bed.launcher()
    words = ("vllm", "serve", "it's $HOME", "--host", late.host(0), "--port", str(late.PORT))  # fmt: skip
    unit = gang(bed, launcher, "engine-0", gpus=2)
    secret = Secret(key_file=launcher.files("engine-0").key_file, env="VLLM_API_KEY")
    command = Command(argv=words, env={**evils(bed), WORD: bed.word}, secrets=(secret,))
    job = unit.jobs[0].model_copy(update={"command": command})
    place = unit.place.model_copy(update={"ray": True, "ray_is_there": True})
    unit = unit.model_copy(update={"jobs": (job,), "place": place})
    launcher.submit(unit)
    told = bed.told(launcher)
    assert told["argv"][:3] == ["vllm", "serve", "it's $HOME"] and told["main"]
    assert {name: told["env"].get(name) for name in evils(bed)} == evils(bed)
    assert told["env"]["VLLM_API_KEY"] == KEY
    assert told["env"]["RAY_ADDRESS"].startswith(cluster.hosts.addresses["head"])
    status = launcher.status()["engine-0"]
    pins = [next(k for k in each if k.startswith("node:")) for each in told["bundles"]]
    assert [each["GPU"] for each in told["bundles"]] == [1, 1, 1, 1]
    first, second = status.hosts
    assert pins == [f"node:{first}"] * 2 + [f"node:{second}"] * 2
    assert "up in Ray" in said(launcher)
    launcher.cancel("engine-0")
    bed.until(lambda: not status_of(launcher).alive)
    assert "asked" in said(launcher)
    assert (bed.directory / "box/engine.key").exists(), "it was not ours to remove"


def test_a_worker_that_is_killed_leaves_nothing(cluster: Ray, bed: Bed) -> None:
    launcher = bed.launcher()
    launcher.submit(gang(bed, launcher, "engine-0", gpus=1))
    assert bed.told(launcher)
    address = launcher.status()["engine-0"].hosts[1]
    node = next(n for n, a in cluster.hosts.addresses.items() if a == address)
    workers = cluster.hosts.run(node, "pgrep", "-f", "^ray::Host").split()
    cluster.hosts.run(node, "kill", "-9", *workers)
    bed.until(lambda: not status_of(launcher).alive)
    assert address in status_of(launcher).why
    bed.until(lambda: not bed.processes())


def test_a_lost_raylet_is_noticed_and_a_new_start_runs(cluster: Ray, bed: Bed) -> None:
    launcher = bed.launcher()
    unit = gang(bed, launcher, "engine-0", gpus=8)
    launcher.submit(unit)
    first = bed.told(launcher)["pid"]
    address = launcher.status()["engine-0"].hosts[0]
    node = next(n for n, a in cluster.hosts.addresses.items() if a == address)
    raylet = cluster.hosts.run(node, "pgrep", "-x", "raylet").split()
    killed = time.monotonic()
    cluster.hosts.run(node, "kill", "-9", *raylet)
    bed.until(lambda: not status_of(launcher).alive)
    print(f"raylet killed: noticed after {time.monotonic() - killed:.1f} s")  # noqa: T201
    bed.until(lambda: not bed.processes())
    launcher.submit(unit)
    bed.until(lambda: "that is too few" in status_of(launcher).why)
    cluster.restart(node)
    assert bed.told(launcher)["pid"] != first
    assert said(launcher).count("up []") == 1, "each start has its own log"


def test_a_head_that_went_away_ends_nothing(cluster: Ray, bed: Bed) -> None:
    """The last of this module: its cluster is gone afterwards."""
    launcher = launcher_for(bed.site())
    launcher.submit(bed.unit(launcher))
    bed.until(lambda: launcher.status()["engine-0"].url)
    cluster.kill_node("head")
    with pytest.raises(LemnosError):
        bed.until(lambda: not launcher.status()["engine-0"].alive)
    bed.until(lambda: not bed.processes())
