"""vLLM over the nodes of a Ray cluster, proven on two real GPUs: `--on ray`, tensor parallel over two nodes.

    python benchmarks/ray_gpus.py --venv DIR [--out DIR] [--executor ray|engine] [--only up,lost,down]

Each GPU of the box is a node of its own: two raylets, on 127.0.0.2 and 127.0.0.3. DIR/bin/python has vLLM and
Ray. The model is made on the spot and has no weights. Every step prints what it found; results.json
and results.md in ``--out`` hold all of it, and logs are beside them. Exit code 1: something was not as it should be.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
import urllib.request
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import psutil  # noqa: E402
from local_gpus_box import (  # noqa: E402
    ENGINE_VERSION,
    Box,
    Load,
    ask,
    empty,
    environ,
    gpu_processes,
    holders,
    processes,
    suppressed,
    title,
    waited,
)

NAME = "spread"
HOSTS = ("127.0.0.2", "127.0.0.3")
"""Ray takes these as they are, and 127.0.0.1 for the box's own address."""
DASHBOARD = "http://127.0.0.1:8265"
MARK = "RAY_GPUS_BENCHMARK"
SAFE = {
    "VLLM_ALLREDUCE_USE_SYMM_MEM": "0",
    "VLLM_FLASHINFER_ALLREDUCE_BACKEND": "trtllm",
    "VLLM_USE_FLASHINFER_SAMPLER": "0",
    "NCCL_NVLS_ENABLE": "0",
    "TORCH_SYMM_MEM_DISABLE_MULTICAST": "1",
    "NVSHMEM_DISABLE_NVLS": "1",
    "NCCL_SOCKET_IFNAME": "lo",
    "GLOO_SOCKET_IFNAME": "lo",
}
"""Of every process: no NVLink multicast, which can put a shared host out of service; both nodes are on loopback."""
SHORT = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_memory_monitor_refresh_ms": "0",
    "RAY_enable_worker_prestart": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}
"""A lost node is noticed within seconds; a virtual machine's memory grows as it is used, so Ray would see too little."""
ENGINES = ("VLLM::", "vllm.entrypoints", "driver.py", "ray::Host")
FUSED = '{"pass_config": {"fuse_allreduce_rms": false}}'


class Nodes:
    """The cluster: a node for each GPU."""

    def __init__(self, box: Box) -> None:
        self._box = box
        self._running: dict[int, subprocess.Popen[bytes]] = {}

    def start(self, number: int) -> None:
        host, low = HOSTS[number], 21_000 + 1000 * number
        how = [f"--address={HOSTS[0]}:6379"]
        if number == 0:
            how = ["--head", "--port=6379", f"--temp-dir={self._box.home / 'ray'}"]
        words = (
            *(f"{self._box.venv}/bin/python", "-m", "ray.scripts.scripts", "start"),
            *(*how, f"--node-ip-address={host}", "--num-gpus=1", "--num-cpus=4"),
            *(f"--min-worker-port={low}", f"--max-worker-port={low + 900}"),
            *(f"--dashboard-agent-listen-port={52_400 + number}", "--block"),
            *("--object-store-memory=200000000", "--disable-usage-stats"),
        )
        own = {"CUDA_VISIBLE_DEVICES": str(number), MARK: host}
        with (self._box.out / f"node-{number}.log").open("ab") as log:
            self._running[number] = subprocess.Popen(
                words,
                env=os.environ | SAFE | SHORT | own,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def await_alive(self, count: int) -> float | None:
        return waited(lambda: alive() == count, 60)

    def kill_raylet(self, number: int) -> None:
        """What Ray runs on that node is an orphan from now on; its `ray start` ends by itself."""
        for process in processes():
            ours = environ(process).get(MARK) == HOSTS[number]
            if ours and title_of(process).endswith("/raylet"):
                process.kill()
        self._running[number].wait(30)

    def end(self) -> None:
        """At once, since `ray start` would drain for 30 s: its family (Ray's own processes write their titles over
        their environment), and all that carries the mark."""
        family: list[psutil.Process] = []
        for each in self._running.values():
            with suppressed():
                own = psutil.Process(each.pid)
                family += [*own.children(recursive=True), own]
        family += [p for p in processes() if environ(p).get(MARK) in HOSTS]
        for process in family:
            with suppressed():
                process.kill()
        for each in self._running.values():
            each.wait(10)


def alive() -> int:
    """Nodes that the dashboard has."""
    try:
        with urllib.request.urlopen(f"{DASHBOARD}/nodes?view=summary", timeout=10) as a:
            rows = json.load(a)["data"]["summary"]
    except OSError:
        return 0
    return sum(row["raylet"].get("state") == "ALIVE" for row in rows)


def is_ours(process: psutil.Process) -> bool:
    """A process of the cluster; vLLM's write their titles over their environment."""
    return environ(process).get(MARK) in HOSTS or "VLLM::" in title(process)


def title_of(process: psutil.Process) -> str:
    with suppressed():
        return str(process.cmdline()[0])
    return ""


def up(box: Box, executor: str) -> None:
    """From a plan for two nodes to a completion through the gateway."""
    code, took, said = started(box, executor)
    box.note("up", "ready", code == 0, f"{took} s {said[-300:]}")
    if code:
        return
    box.note("up", "a completion through the gateway", answers(box))
    gpus = {pid: (gpu, where(pid)) for pid, gpu in gpu_processes().items()}
    box.note("up", "each node's rank has its GPU", apart(gpus), gpus)
    box.note("up", "MiB in use", min(holders().values(), default=0) > 10_000, holders())
    box.note("up", "what ps says", None, seen(box))


def started(box: Box, executor: str) -> tuple[int, float, str]:
    """`lemnos up` (its exit code, seconds, what it said last)."""
    path = str(box.home / "plan.yaml")
    box.lemnos(
        *("plan", str(box.models["dense"]), "--cluster", "2x1xH200"),
        *("--engine", "vllm", "--engine-version", ENGINE_VERSION, "--tp", "2"),
        *("--replicas", "1", "--context", "2048", "--max-num-seqs", "8"),
        *("--enforce-eager", "--save", path),
    )
    given: dict[str, Any] = {
        "venv": box.venv,
        "ray.address": DASHBOARD,
        "ray.executor": executor,
        "engine_args.load-format": "dummy",
        "engine_args.compilation-config": FUSED,
        "engine_args.disable-custom-all-reduce": "true",
    }
    given |= {f"engine_env.{key}": f"'{value}'" for key, value in SAFE.items()}
    words = [f"--set={key}={value}" for key, value in given.items()]
    began = time.monotonic()
    done = box.lemnos("up", path, "--name", NAME, "--on", "ray", *words, "--json")
    took = round(time.monotonic() - began, 1)
    return done.returncode, took, done.stderr.strip()[-900:] if done.returncode else ""


def answers(box: Box) -> bool:
    status = box.status(NAME)
    try:
        found = ask(status["url"], status["model"])
    except Exception as error:
        box.say(f"    {error}")
        return False
    return bool(found["usage"]["completion_tokens"] >= 1)


def where(pid: int) -> str:
    """The node whose raylet, or whose host's process, a process comes from."""
    for process in processes():
        if process.pid == pid:
            return environ(process).get(MARK, "") or "unknown"
    return "gone"


def apart(gpus: dict[int, tuple[str, str]]) -> bool:
    return sorted(gpus.values()) == list(zip(("0", "1"), HOSTS, strict=True))


def seen(box: Box) -> dict[str, Any]:
    status = box.status(NAME)
    return {key: status.get(key) for key in ("phase", "restarts", "why")}


def lost(box: Box, nodes: Nodes) -> None:
    """The second node's raylet is killed, and Ray started there again."""
    before = box.status(NAME)
    with Load(before["url"], str(before["model"])) as load:
        time.sleep(2)
        began = time.monotonic()
        nodes.kill_raylet(1)
        freed = waited(empty, 60)
        noticed = waited(lambda: seen(box)["phase"] != "ready", 60)
        took = round(time.monotonic() - began, 1)
        box.note("lost", "noticed (wanted: 10 s)", noticed is not None and took < 10, f"{took} s")  # fmt: skip
        box.note("lost", "both GPUs are free", freed is not None, f"{freed} s, {holders()}")  # fmt: skip
        box.note("lost", "what ps says", None, seen(box))
        waited(lambda: alive() == 1, 30)
        nodes.start(1)
        joined = nodes.await_alive(2)
        box.note("lost", "the node is back", joined is not None, f"{joined} s")
        waited(lambda: seen(box)["phase"] == "ready", 240)
        took = round(time.monotonic() - began, 1)
        box.note("lost", "the replica is back", answers(box), f"{took} s")
        time.sleep(2)
    box.note("lost", "load", None, load.told())
    gpus = {pid: (gpu, where(pid)) for pid, gpu in gpu_processes().items()}
    box.note("lost", "each node's rank has its GPU", apart(gpus), gpus)


def down(box: Box) -> None:
    """Nothing is left: no process of the deployment, no memory on a GPU; the cluster is there."""
    began = time.monotonic()
    done = box.lemnos("down", "--all")
    took = round(time.monotonic() - began, 1)
    box.note("down", "down", done.returncode == 0, f"{took} s {done.stderr[-200:]}")
    ours = [title(process) for process in processes() if is_ours(process)]
    left = [text for text in ours if any(word in text for word in ENGINES)]
    box.note("down", "processes left", not left, left)
    freed = waited(empty, 10)
    box.note("down", "GPU memory left", freed is not None, holders())
    box.note("down", "Ray's nodes", alive() == len(HOSTS), alive())


def main() -> int:
    """Every step, whatever becomes of the others; 1 if anything was not as it should be."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--venv", required=True)
    parser.add_argument("--out", default="ray-gpus")
    parser.add_argument("--home", default="/tmp/ray-gpus")
    parser.add_argument("--executor", choices=("ray", "engine"), default="ray")
    parser.add_argument("--only", default="up,lost,down")
    options = parser.parse_args()
    Path(options.out).mkdir(parents=True, exist_ok=True)
    box = Box(options)
    nodes = Nodes(box)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    steps = {
        "up": lambda: up(box, options.executor),
        "lost": lambda: lost(box, nodes),
        "down": lambda: down(box),
    }
    try:
        for number in range(len(HOSTS)):
            nodes.start(number)
            ready = nodes.await_alive(number + 1)
            box.note("cluster", f"{number + 1} nodes", ready is not None, f"{ready} s")
        for name in options.only.split(","):
            try:
                steps[name]()
            except Exception as error:
                box.note(name, "could not be tried", False, repr(error)[:300])
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one
        nodes.end()
        with tarfile.open(box.out / "logs.tgz", "w:gz") as packed:
            for path in sorted(box.home.rglob("*.log")):
                packed.add(path, path.relative_to(box.home))
    box.note("cluster", "GPU memory left", waited(empty, 10) is not None, holders())
    return int(any(row["ok"] is False for row in box.rows))


if __name__ == "__main__":
    sys.exit(main())
