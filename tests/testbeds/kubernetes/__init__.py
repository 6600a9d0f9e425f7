"""A cluster of our own: an API server that the real kubectl talks to, controllers, and nodes whose containers are
processes of this machine (as root, with the volumes that their pods ask for).

kmock's emulator was tried first: it has no label selectors, versions, dry runs, owners of fields or logs.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest
import trustme
from aiohttp import web

from tests.testbeds import kubectl as program
from tests.testbeds.kubernetes.api import Api
from tests.testbeds.kubernetes.controllers import GPU, Controllers
from tests.testbeds.kubernetes.kubelet import Kubelet
from tests.testbeds.kubernetes.store import CUSTOM, Json, Store

T = TypeVar("T")
NAMESPACE = "llm"


@dataclass
class Cluster:
    """One that runs. What changes it is done in its own thread: ``do``."""

    directory: Path
    nodes: int = 3
    gpus: int = 8
    custom: Sequence[str] = tuple(CUSTOM)
    ready: threading.Event = field(default_factory=threading.Event)
    port: int = 0

    def __post_init__(self) -> None:
        self.store = Store(custom=tuple(self.custom))
        network = f"127.{os.getpid() % 200 + 20}"
        self.kubelet = Kubelet(self.store, self.directory / "kubelet", network)
        self.api = Api(self.store, self.kubelet.log_of)
        self.controllers = Controllers(self.store, self.kubelet)
        self.config = self.directory / "kubeconfig"
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._serve()), daemon=True
        )

    def start(self) -> None:
        """Answer from now on."""
        self._thread.start()
        assert self.ready.wait(30)

    def stop(self) -> None:
        """End it, with all its pods."""
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(30)

    def do(self, what: Callable[[], T]) -> T:
        """The answer of ``what``, asked in the cluster's thread."""

        async def ask() -> T:
            return what()

        return asyncio.run_coroutine_threadsafe(ask(), self._loop).result(30)

    def kubectl(self, *words: str, code: int = 0, stdin: str = "") -> str:
        """What ``kubectl WORDS`` prints in the bed's namespace."""
        done = subprocess.run(
            [str(program.KUBECTL), "--kubeconfig", str(self.config), "--namespace", NAMESPACE, *words],
            input=stdin, capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        assert done.returncode == code, done.stderr + done.stdout
        return done.stdout if code == 0 else done.stderr

    def named(self, plural: str) -> list[str]:
        """The names of all objects of a kind in the bed's namespace."""
        return self.do(
            lambda: [o["metadata"]["name"] for o in self.store.all(plural, NAMESPACE)]
        )

    def left(self) -> list[str]:
        """All that is in the namespace, ``kind/name``; events aside."""
        return self.do(
            lambda: sorted(f"{k}/{n}" for k, where, n in self.store.objects if where == NAMESPACE and k != "events")
        )  # fmt: skip

    def pods(self, **labels: str) -> list[Json]:
        """As they are now."""
        return self.do(
            lambda: [
                pod for pod in self.store.all("pods", NAMESPACE)
                if labels.items() <= pod["metadata"].get("labels", {}).items()
            ]
        )  # fmt: skip

    def change(self, plural: str, name: str, **parts: Any) -> None:
        """Replace parts of an object's top, as another client does."""
        self.do(
            lambda: self.store.change(plural, self.store.get(plural, NAMESPACE, name), **parts)
        )  # fmt: skip

    def kill(self, pod: str, reason: str = "") -> None:
        """As the kubelet's, in the namespace of the bed."""
        self.do(lambda: self.kubelet.kill((NAMESPACE, pod), reason))

    def clear(self) -> None:
        """Empty the namespace."""

        def empty() -> None:
            for kind, where, name in [*self.store.objects]:
                if where == NAMESPACE and kind != "pods":
                    self.store.remove(kind, self.store.objects[kind, where, name])
            for pod in self.store.all("pods"):
                self.controllers.delete(pod, 0)

        self.do(empty)

    async def _serve(self) -> None:
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        runner = web.AppRunner(self.api.app(), access_log=None, shutdown_timeout=1)
        await runner.setup()
        # kubectl sends its token over TLS alone.
        authority, tls = trustme.CA(), ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)  # fmt: skip
        authority.issue_cert("127.0.0.1").configure_cert(tls)
        site = web.TCPSite(runner, "127.0.0.1", self.port, ssl_context=tls)
        await site.start()
        assert runner.addresses
        self.port = runner.addresses[0][1]
        self._furnish(authority.cert_pem.bytes())
        task = asyncio.create_task(self._control())
        self.ready.set()
        await self._over.wait()
        task.cancel()
        self.controllers.asleep = True
        for pod in [*self.kubelet.pods.values()]:
            pod.grace = 0
            pod.end()
        while self.kubelet.pods:
            await asyncio.sleep(0.02)
        self.api.cut()
        await runner.cleanup()

    async def _control(self) -> None:
        queue: asyncio.Queue[Any] = asyncio.Queue()
        self.store.watchers.add(queue)
        while True:
            version = self.store.version
            self.controllers.step()
            if self.store.version != version:
                await asyncio.sleep(0)
                continue
            await queue.get()
            while not queue.empty():
                queue.get_nowait()

    def _furnish(self, certificate: bytes) -> None:
        self.store.create("namespaces", "", {"metadata": {"name": "default"}})
        self.store.create("namespaces", "", {"metadata": {"name": NAMESPACE}})
        for number in range(self.nodes):
            size = {GPU: str(self.gpus), "cpu": "96", "memory": "1056Gi"}
            labels = {
                "nvidia.com/gpu.product": "NVIDIA-H200",
                "nvidia.com/gpu.memory": "143771",
                "kubernetes.io/arch": "amd64",
            }
            node = {
                "metadata": {"name": f"n{number + 1}", "labels": labels},
                "spec": {"taints": [{"key": GPU, "effect": "NoSchedule"}]},
                "status": {
                    "allocatable": size,
                    "capacity": size,
                    "conditions": [{"type": "Ready", "status": "True"}],
                    "nodeInfo": {"architecture": "amd64"},
                },
            }
            self.store.create("nodes", "", node)
        server = {
            "server": f"https://127.0.0.1:{self.port}",
            "certificate-authority-data": base64.b64encode(certificate).decode(),
        }
        context = {"cluster": "bed", "user": "ann", "namespace": NAMESPACE}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "bed",
            "clusters": [{"name": "bed", "cluster": server}],
            "users": [{"name": "ann", "user": {"token": self.api.token}}],
            "contexts": [{"name": "bed", "context": context}],
        }
        self.config.write_text(json.dumps(config))


@contextmanager
def kubernetes(directory: Path, **options: Any) -> Iterator[Cluster]:
    """A cluster while the body runs; the test is skipped where there can be none."""
    if os.getuid() != 0:
        pytest.skip("only root can give containers their volumes")
    if reason := program.why_not():
        pytest.skip(reason)
    cluster = Cluster(directory, **options)
    cluster.start()
    try:
        yield cluster
    finally:
        cluster.stop()
