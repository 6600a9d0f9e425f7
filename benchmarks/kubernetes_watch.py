"""What it costs to know how 200 replicas on Kubernetes are, while some of them change all the time.

    python benchmarks/kubernetes_watch.py [--replicas 200] [--changes 10] [--seconds 30] [--real]

An API server of the testbed (a process of its own) has that many pods, as large as real ones are, and changes their
status. The launcher's watch reads them through the real kubectl, and ``status()`` is asked twice a second, as the supervisor
does. Printed: the share of one core of this process, and of kubectl. Wanted: under 1 % for both together at ten changes
a second. Without a network: the answer of an API server elsewhere costs no more here. With ``--real`` the server is Kubernetes' own,
out of the directory that LEMNOS_KUBE_BIN names (tests/testbeds/kubernetes/real.py).
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import multiprocessing
import os
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

NAMESPACE, SELECTOR = "llm", "lemnos.dev/deployment=chat,lemnos.dev/owner=bench"


def main() -> None:
    """Measure, and print a line of JSON at the end."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--replicas", type=int, default=200)
    parser.add_argument("--changes", type=float, default=10.0, help="a second")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--real", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        here, there = multiprocessing.Pipe()
        words = (Path(directory), given.replicas, given.changes, there)
        target = serve_real if given.real else serve
        server = multiprocessing.get_context("spawn").Process(target=target, args=words)
        server.start()
        try:
            config = here.recv()
            found = measure(config, given.replicas, given.seconds)
        finally:
            here.send("stop")
            server.join(30)
    found |= {"replicas": given.replicas, "changes_a_second": given.changes}
    sys.stdout.write(json.dumps(found) + "\n")


def measure(config: str, replicas: int, seconds: float) -> dict[str, float]:
    """The shares of a core, and what was seen."""
    from lemnos.launchers.kubernetes.client import Client
    from lemnos.launchers.kubernetes.watching import Pods
    from lemnos.spec.clusters import KubernetesSpec
    from lemnos.transport.here import Here
    from tests.testbeds.kubectl import KUBECTL

    os.environ["PATH"] = f"{KUBECTL.parent}:{os.environ['PATH']}"
    os.environ["HOME"] = str(Path(config).parent)
    client = Client(Here(), KubernetesSpec(kubeconfig=config, namespace=NAMESPACE))
    pods = Pods(client, SELECTOR)
    found, _ = pods.now()
    assert len(found) == replicas, len(found)
    time.sleep(2)  # its child has begun
    own = psutil.Process()
    children = [c for c in own.children(recursive=True) if "--raw" in " ".join(c.cmdline())]  # fmt: skip
    before = own.cpu_times(), [c.cpu_times() for c in children]
    began, asked, slowest = time.monotonic(), 0, 0.0
    first = {pod.uid: pod.version for each in found.values() for pod in each}
    while time.monotonic() - began < seconds:
        at = time.perf_counter()
        found, _ = pods.now()
        for name in found:
            pods.status(name, 1)
        asked, slowest = asked + 1, max(slowest, time.perf_counter() - at)
        time.sleep(0.5)
    wall = time.monotonic() - began
    after = own.cpu_times(), [c.cpu_times() for c in children]
    last = {pod.uid: pod.version for each in found.values() for pod in each}
    pods.close()

    def spent(a: object, b: object) -> float:
        return b.user + b.system - a.user - a.system  # type: ignore[attr-defined, no-any-return]

    kubectl = sum(spent(a, b) for a, b in zip(before[1], after[1], strict=True))
    return {
        "our_percent_of_a_core": round(100 * spent(before[0], after[0]) / wall, 3),
        "kubectl_percent_of_a_core": round(100 * kubectl / wall, 3),
        "pods_changed": sum(last[uid] != first.get(uid) for uid in last),
        "slowest_status_ms": round(1000 * slowest, 2),
        "asked": asked,
    }


def serve(directory: Path, replicas: int, changes: float, pipe: Connection) -> None:
    """The API server, whose pods go ready and not ready, one after the other."""
    from tests.testbeds.kubernetes import Cluster

    cluster = Cluster(directory)
    cluster.start()
    cluster.controllers.asleep = True
    for number in range(replicas):
        cluster.do(lambda n=number: cluster.store.create("pods", NAMESPACE, pod(n)))  # type: ignore[misc]
    pipe.send(str(cluster.config))
    for turn in itertools.count():
        if pipe.poll(1 / changes):
            break

        def change(at: int = turn) -> None:
            found = cluster.store.get("pods", NAMESPACE, f"chat-{at % replicas}")
            new = copy.deepcopy(found)
            ready = (at // replicas) % 2 == 1
            new["status"]["conditions"][3]["status"] = str(ready)
            new["status"]["containerStatuses"][0]["ready"] = ready
            cluster.store.replace("pods", new)

        cluster.do(change)
    cluster.stop()


def serve_real(
    directory: Path, replicas: int, changes: float, pipe: Connection
) -> None:
    """The same with Kubernetes' own: pods that nothing schedules, whose status a client of ours writes."""
    from tests.testbeds.kubernetes.real import real

    with real(directory, nodes=0) as cluster:
        made = []
        for number in range(replicas):
            each = {"apiVersion": "v1", "kind": "Pod"} | pod(number)
            spec: dict[str, object] = each["spec"]  # type: ignore[assignment]
            del spec["nodeName"]
            spec["schedulingGates"] = [{"name": "bench.example/never"}]
            made.append(each)
        cluster.kubectl("create", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": made}))  # fmt: skip
        base = f"/api/v1/namespaces/{NAMESPACE}/pods"

        def change(number: int, ready: bool) -> None:
            status = copy.deepcopy(made[number]["status"])
            status["conditions"][3]["status"] = str(ready)  # type: ignore[index]
            status["containerStatuses"][0]["ready"] = ready  # type: ignore[index]
            cluster.do(lambda: cluster.store.write(f"{base}/chat-{number}/status", {"status": status}))  # fmt: skip

        for number in range(replicas):
            change(number, ready=True)
        pipe.send(str(cluster.config))
        for turn in itertools.count():
            if pipe.poll(1 / changes):
                break
            change(turn % replicas, (turn // replicas) % 2 == 1)


def pod(number: int) -> dict[str, object]:
    """As large as vLLM's are in a real cluster (some 10 KB): most of it is who manages which field."""
    labels = {
        "lemnos.dev/deployment": "chat",
        "lemnos.dev/owner": "bench",
        "lemnos.dev/unit": f"engine-{number}",
        "lemnos.dev/role": "engine",
        "lemnos.dev/rank": "0",
    }
    times = {"lastTransitionTime": "2026-11-21T10:00:00Z", "lastProbeTime": None}
    kinds = ("PodReadyToStartContainers", "Initialized", "ContainersReady", "Ready", "PodScheduled")  # fmt: skip
    env = [{"name": f"VARIABLE_{i}", "value": "x" * 40} for i in range(30)]
    args = [word for i in range(25) for word in (f"--some-flag-{i}", "value" * 4)]
    managed: dict[str, object] = {
        f"f:{word}": {".": {}, "f:name": {}, "f:value": {}} for word in args
    }
    status = {
        "phase": "Running",
        "podIP": "10.1.2.3",
        "hostIP": "10.0.0.1",
        "conditions": [{"type": kind, "status": "True", **times} for kind in kinds],
        "containerStatuses": [
            {
                "name": "engine",
                "image": "vllm/vllm-openai:v0.26.0",
                "imageID": "sha256:" + "0" * 64,
                "ready": True,
                "restartCount": 0,
                "state": {"running": {"startedAt": "2026-11-21T10:00:00Z"}},
            }
        ],
    }
    container = {"name": "engine", "image": "vllm/vllm-openai:v0.26.0", "command": args, "env": env}  # fmt: skip
    return {
        "metadata": {
            "name": f"chat-{number}",
            "labels": labels,
            "annotations": {"managed": json.dumps(managed)},
        },
        "spec": {"nodeName": f"n{number}", "containers": [container]},
        "status": status,
    }


if __name__ == "__main__":
    main()
