"""A cluster whose API server, controllers and scheduler are Kubernetes' own; nodes are the bed's, as in the package's other cluster.

LEMNOS_KUBE_BIN names a directory with kube-apiserver, kube-controller-manager, kube-scheduler and etcd; what it may have
besides: ``crds/*.yaml``, which are applied, and ``lws``, LeaderWorkerSet's controller with its webhooks.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import shutil
import socket
import ssl
import subprocess
import tempfile
import threading
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest
import trustme
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.rights import FILE
from tests.testbeds import kubectl as program
from tests.testbeds.kubernetes import NAMESPACE
from tests.testbeds.kubernetes.controllers import GPU
from tests.testbeds.kubernetes.kubelet import Kubelet
from tests.testbeds.kubernetes.mirror import Mirror, Node
from tests.testbeds.kubernetes.store import Json
from tests.waiting import until

T = TypeVar("T")
BINARIES = os.environ.get("LEMNOS_KUBE_BIN", "")
NEEDED = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")
START_S = 120.0
OWN = {
    "serviceaccount/default",
    "configmap/kube-root-ca.crt",
    "configmap/openshift-service-ca.crt",
}
"""What every namespace has, that of a fork too."""
KINDS = (
    "pods,services,secrets,configmaps,persistentvolumeclaims,deployments,replicasets,statefulsets,jobs,"
    "networkpolicies,ingresses,poddisruptionbudgets,horizontalpodautoscalers,controllerrevisions,resourcequotas"
)


def why_not() -> str:
    """Why there is no such cluster here; empty where there can be."""
    if not BINARIES:
        return "LEMNOS_KUBE_BIN names no directory with a real kube-apiserver"
    lacks = [each for each in NEEDED if not os.access(f"{BINARIES}/{each}", os.X_OK)]
    if lacks:
        return f"LEMNOS_KUBE_BIN lacks {', '.join(lacks)}"
    if os.getuid() != 0:
        return "only root can give containers their volumes"
    return program.why_not() or ""


@dataclass
class Real:
    """One that runs. ``config`` is of a user with the rights of deploy/kubernetes-rights.yaml and no others, ``admin`` of one who may
    do anything."""

    directory: Path
    nodes: int = 3
    gpus: int = 8
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.config, self.admin = self.directory / "ann", self.directory / "admin"
        self.network = f"10.{os.getpid() % 100 + 100}"
        self.data = Path(tempfile.mkdtemp(prefix="lemnos-etcd-", dir="/dev/shm"))
        self.etcd, self.peer, self.port, self.hooks = (free_port() for _ in range(4))
        self.url = f"https://127.0.0.1:{self.port}"
        self.ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)  # fmt: skip

    # ------------------------------------------------------------ its life

    def start(self) -> None:
        """All of it; its nodes are ready when this returns."""
        self._certify()
        self.spawn("etcd", f"--data-dir={self.data}", "--log-level=error", *_etcd(self.etcd, self.peer))  # fmt: skip
        self.start_api()
        follow = (f"--kubeconfig={self.admin}", "--leader-elect=false", "--secure-port=0", "--v=1")  # fmt: skip
        self.spawn(
            "kube-controller-manager", *follow, "--node-monitor-grace-period=24h", "--concurrent-gc-syncs=5",
            f"--service-account-private-key-file={self.directory}/sa.key", f"--root-ca-file={self.directory}/ca.crt",
        )  # fmt: skip
        self.spawn("kube-scheduler", *follow)
        # Addresses that are no loopback's: EndpointSlices take none of those.
        subprocess.run(["ip", "route", "replace", "local", f"{self.network}.0.0/16", "dev", "lo"], check=True)  # fmt: skip
        self._thread.start()
        assert self.ready.wait(START_S)
        self._furnish()

    def stop(self) -> None:
        """End it, with all its pods."""
        if self.ready.is_set():
            self._loop.call_soon_threadsafe(self._over.set)
            self._thread.join(30)
        for each in reversed(self.processes.values()):
            each.kill()
            each.wait()
        subprocess.run(["ip", "route", "del", "local", f"{self.network}.0.0/16", "dev", "lo"], check=False)  # fmt: skip
        shutil.rmtree(self.data, ignore_errors=True)

    def spawn(self, name: str, *words: str) -> None:
        """One of the binaries, which ends with this thread; what it says is in ``NAME.log``."""
        with (self.directory / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                ["setpriv", "--pdeathsig=KILL", f"{BINARIES}/{name}", *words], stdout=log, stderr=log,
                cwd=self.directory, env={"PATH": os.environ["PATH"], "HOME": str(self.directory)},
            )  # fmt: skip

    def start_api(self) -> None:
        """The API server, until it is ready."""
        at = self.directory
        self.spawn(
            "kube-apiserver", f"--etcd-servers=http://127.0.0.1:{self.etcd}", "--bind-address=127.0.0.1",
            f"--secure-port={self.port}", "--advertise-address=127.0.0.1", "--endpoint-reconciler-type=none",
            "--authorization-mode=RBAC", "--anonymous-auth=false", "--allow-privileged=true", "--v=1",
            "--service-cluster-ip-range=10.96.0.0/16", f"--token-auth-file={at}/tokens", f"--cert-dir={at}/certs",
            f"--tls-cert-file={at}/api.crt", f"--tls-private-key-file={at}/api.key",
            "--service-account-issuer=https://bed", f"--service-account-key-file={at}/sa.pub",
            f"--service-account-signing-key-file={at}/sa.key", "--kubelet-preferred-address-types=InternalIP",
        )  # fmt: skip
        until(self._answers, within_s=START_S)

    def stop_api(self) -> None:
        """Gone, as in an upgrade."""
        process = self.processes.pop("kube-apiserver")
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _answers(self) -> bool:
        process = self.processes["kube-apiserver"]
        assert process.poll() is None, (self.directory / "kube-apiserver.log").read_text()[-2000:]  # fmt: skip
        tls = ssl.create_default_context(cafile=str(self.directory / "ca.crt"))
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=tls))  # fmt: skip
        ask = urllib.request.Request(f"{self.url}/readyz", headers={"Authorization": "Bearer root"})  # fmt: skip
        try:
            with direct.open(ask, timeout=5):
                return True
        except OSError:
            return False

    # ------------------------------------------------------------ what tests ask

    def kubectl(self, *words: str, code: int | None = 0, stdin: str = "", as_admin: bool = True) -> str:  # fmt: skip
        """What ``kubectl WORDS`` prints in the bed's namespace."""
        config = self.admin if as_admin else self.config
        done = subprocess.run(
            [str(program.KUBECTL), "--kubeconfig", str(config), f"--cache-dir={self.directory}/cache", "--namespace", NAMESPACE, *words],
            input=stdin, capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
        assert code is None or done.returncode == code, done.stderr + done.stdout
        return done.stdout if done.returncode == 0 else done.stderr

    def objects(self, kinds: str, *words: str) -> list[Json]:
        """As they are now."""
        told: Json = json.loads(self.kubectl("get", kinds, "-o", "json", *words))
        return list(told["items"])

    def pods(self) -> list[Json]:
        return self.objects("pods")

    def left(self) -> list[str]:
        """All that is in the namespace, ``kind/name``, but what every namespace has."""
        found = {f"{o['kind'].lower()}/{o['metadata']['name']}" for o in self.objects(self.kinds)}  # fmt: skip
        return sorted(found - OWN)

    @property
    def kinds(self) -> str:
        own = self.kubectl("get", "crds", "-o", "name").split()
        return ",".join([KINDS, *(each.partition("/")[2] for each in own)])

    def kill(self, pod: str, reason: str = "") -> None:
        """As the kubelet's, in the namespace of the bed."""
        self.do(lambda: self.kubelet.kill((NAMESPACE, pod), reason))

    def clear(self) -> None:
        """Empty the namespace."""
        for each in self.objects(self.kinds):
            kind, name = each["kind"], each["metadata"]["name"]
            if f"{kind.lower()}/{name}" not in OWN and not each["metadata"].get("ownerReferences"):  # fmt: skip
                self.kubectl("delete", f"{kind}/{name}", "--wait=false", "--grace-period=1", "--ignore-not-found")  # fmt: skip
        until(lambda: not self.left(), within_s=60)

    def do(self, what: Callable[[], T]) -> T:
        """The answer of ``what``, asked in the nodes' thread."""

        async def ask() -> T:
            return what()

        return asyncio.run_coroutine_threadsafe(ask(), self._loop).result(30)

    # ------------------------------------------------------------ its nodes

    async def _serve(self) -> None:
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        tls = ssl.create_default_context(cafile=str(self.directory / "ca.crt"))
        self.store = Mirror(url=self.url, token="root", tls=tls, changed=self._see)
        self.kubelet = Kubelet(self.store, self.directory / "kubelet", self.network)
        own = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._authority.issue_cert("127.0.0.1").configure_cert(own)
        node = Node(self.kubelet)
        server = await asyncio.start_server(node.answer, "127.0.0.1", 0, ssl=own)
        self.logs_at = server.sockets[0].getsockname()[1]
        follows = asyncio.create_task(self.store.run())
        self.ready.set()
        await self._over.wait()
        for pod in [*self.kubelet.pods.values()]:
            pod.grace = 0
            pod.end()
        while self.kubelet.pods:
            await asyncio.sleep(0.02)
        follows.cancel()
        await asyncio.gather(follows, return_exceptions=True)
        await asyncio.sleep(0.2)  # aiohttp waits for no connection's end
        server.close()

    def _see(self, how: str, plural: str, obj: Json) -> None:
        if plural == "pods" and how != "DELETED":
            self.kubelet.see(obj)
        elif (
            plural == "pods" and obj["metadata"]["uid"] in self.kubelet.pods
        ):  # --force
            pod = self.kubelet.pods[obj["metadata"]["uid"]]
            pod.grace = 0
            pod.end()
        elif plural == "persistentvolumeclaims" and how != "DELETED":
            self._provide(obj)
        self.kubelet.refresh()
        self.kubelet.resolve()

    def _provide(self, claim: Json) -> None:
        """A volume for a claim that has none: what a provisioner does."""
        meta, spec = claim["metadata"], claim["spec"]
        if spec.get("volumeName") or meta.get("deletionTimestamp"):
            return
        volume = {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": f"pvc-{meta['uid']}"},
            "spec": {
                "capacity": {"storage": spec["resources"]["requests"]["storage"]},
                "accessModes": spec["accessModes"],
                "claimRef": {"namespace": meta["namespace"], "name": meta["name"]},
                "persistentVolumeReclaimPolicy": "Retain",
                "hostPath": {"path": str(self.directory / "volumes" / meta["uid"])},
            },
        }
        self.store._send("POST", "/api/v1/persistentvolumes", volume)

    def _furnish(self) -> None:
        crds = sorted(Path(BINARIES).glob("crds/*.yaml"))
        for crd in crds:
            self.kubectl("apply", "--server-side", "-f", str(crd))
        if crds:
            self.kubectl("wait", "--for=condition=Established", "--timeout=60s", "crds", "--all")  # fmt: skip
        self.kubectl("create", "namespace", NAMESPACE)
        for number in range(self.nodes + 1):
            node = node_of(number, self.gpus if number else 0, self.logs_at)
            self.kubectl("create", "-f", "-", stdin=json.dumps(node))
        self.kubectl("apply", "-f", str(FILE))
        self.kubectl("create", "rolebinding", "lemnos", "--role=lemnos", "--user=ann")
        self.kubectl("create", "clusterrolebinding", "lemnos-nodes", "--clusterrole=lemnos-nodes", "--user=ann")  # fmt: skip
        if os.access(f"{BINARIES}/lws", os.X_OK):
            self._start_lws()
        until(lambda: "default" in self.kubectl("get", "serviceaccounts", "-o", "name"), within_s=60)  # fmt: skip

        def usable() -> bool:
            taints = [t["key"] for n in self.objects("nodes") for t in n["spec"].get("taints", ())]  # fmt: skip
            return not any(key.startswith("node.kubernetes.io/") for key in taints)

        until(usable, within_s=60)

    def _start_lws(self) -> None:
        """LeaderWorkerSet's own controller; its webhooks are asked at a port of this machine."""
        certs = self.directory / "hooks"
        certs.mkdir()
        issued = self._authority.issue_cert("127.0.0.1")
        (certs / "tls.crt").write_bytes(b"".join(c.bytes() for c in issued.cert_chain_pems))  # fmt: skip
        (certs / "tls.key").write_bytes(issued.private_key_pem.bytes())
        self.spawn("lws", f"--kubeconfig={self.admin}", f"--webhook-port={self.hooks}", f"--cert-dir={certs}")  # fmt: skip
        until(lambda: _listens(self.hooks), within_s=60)
        for file in sorted(Path(BINARIES).glob("webhooks/*.yaml")):
            documents = [d for d in yaml.safe_load_all(file.read_text()) if d]
            for hook in (hook for each in documents for hook in each["webhooks"]):
                path = hook["clientConfig"].pop("service")["path"]
                authority = base64.b64encode(self._authority.cert_pem.bytes()).decode()
                hook["clientConfig"] = {"url": f"https://127.0.0.1:{self.hooks}{path}", "caBundle": authority}  # fmt: skip
            self.kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(documents))

    def _certify(self) -> None:
        self._authority = trustme.CA()
        issued = self._authority.issue_cert("127.0.0.1", "localhost")
        at = self.directory
        self._authority.cert_pem.write_to_path(str(at / "ca.crt"))
        (at / "api.crt").write_bytes(b"".join(c.bytes() for c in issued.cert_chain_pems))  # fmt: skip
        issued.private_key_pem.write_to_path(str(at / "api.key"))
        key = rsa.generate_private_key(65537, 2048)
        pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
        private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain)
        public = key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)  # fmt: skip
        (at / "sa.key").write_bytes(private)
        (at / "sa.pub").write_bytes(public)
        (at / "tokens").write_text('bed,ann,1\nroot,admin,2,"system:masters"\n')
        for file, token in ((self.config, "bed"), (self.admin, "root")):
            file.write_text(json.dumps(config_of(self.url, self._authority.cert_pem.bytes(), token)))  # fmt: skip


def config_of(url: str, certificate: bytes, token: str) -> Json:
    """A kubeconfig of one who has this token."""
    authority = base64.b64encode(certificate).decode()
    server = {"server": url, "certificate-authority-data": authority}
    context = {"cluster": "bed", "user": "me", "namespace": NAMESPACE}
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "bed",
        "clusters": [{"name": "bed", "cluster": server}],
        "users": [{"name": "me", "user": {"token": token}}],
        "contexts": [{"name": "bed", "context": context}],
    }


def node_of(number: int, gpus: int, port: int) -> Json:
    """As its kubelet registers it; its logs are asked for at ``port`` of this machine."""
    size = {"cpu": "96", "memory": "1056Gi", "pods": "110"} | ({GPU: str(gpus)} if gpus else {})  # fmt: skip
    name = f"n{number}" if gpus else "cpu"
    labels = {"kubernetes.io/arch": "amd64", "kubernetes.io/hostname": name}
    if gpus:
        labels |= {"nvidia.com/gpu.product": "NVIDIA-H200", "nvidia.com/gpu.memory": "143771"}  # fmt: skip
    taints = [{"key": GPU, "effect": "NoSchedule"}] if gpus else []
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": labels},
        "spec": {"taints": taints},
        "status": {
            "allocatable": size,
            "capacity": size,
            "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "is ready"}],
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
            "nodeInfo": dict.fromkeys(
                ("machineID", "systemUUID", "bootID", "kernelVersion", "osImage", "containerRuntimeVersion", "kubeProxyVersion"), ""
            ) | {"architecture": "amd64", "operatingSystem": "linux", "kubeletVersion": "v1.36.0"},
        },
    }  # fmt: skip


def free_port() -> int:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as server:
        return int(server.getsockname()[1])


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError):
        socket.create_connection(("127.0.0.1", port), 1).close()
        return True
    return False


def _etcd(client: int, peer: int) -> list[str]:
    words = []
    for flag, port in (("client", client), ("peer", peer)):
        url = f"http://127.0.0.1:{port}"
        advertised = "advertise-client-urls" if flag == "client" else "initial-advertise-peer-urls"  # fmt: skip
        words += [f"--listen-{flag}-urls={url}", f"--{advertised}={url}"]
    return [*words, f"--initial-cluster=default=http://127.0.0.1:{peer}"]


@contextlib.contextmanager
def real(directory: Path, **options: Any) -> Iterator[Real]:
    """A cluster while the body runs; the test is skipped where there can be none."""
    if reason := why_not():
        pytest.skip(reason)
    cluster = Real(directory, **options)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
