"""Nodes: what is bound to them runs, as processes of this machine.

A container is its command with its environment and its volumes; there are no images and no networks. A pod has an
address of 127.0.0.0/8 of its own, and a word ``0.0.0.0`` of its command becomes that address, since all pods share
one machine. What waits in the real kubelet for seconds (probes, restarts) waits for a tenth of that here.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import json
import sys
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.testbeds.kubernetes.inside import BASE_ENV, CannotRunError, Inside
from tests.testbeds.kubernetes.store import Json, Store, at, now

FASTER = 10.0
CONTAIN = [sys.executable, "-I", "-S", str(Path(__file__).parent / "contain.py")]


@dataclass
class Container:
    """One of a pod, over its restarts."""

    spec: Json
    log: Path
    restarts: int = 0
    process: asyncio.subprocess.Process | None = None
    state: Json = field(
        default_factory=lambda: {"waiting": {"reason": "PodInitializing"}}
    )
    last: Json = field(default_factory=dict)
    started: bool = False
    ready: bool = False
    killed_for: str = ""
    """``OOMKilled``."""

    @property
    def status(self) -> Json:
        return {
            "name": self.spec["name"],
            "image": self.spec.get("image", ""),
            "ready": self.ready,
            "started": self.started,
            "restartCount": self.restarts,
            "state": self.state,
            "lastState": self.last,
        }


@dataclass
class Pod:
    """One that is bound to a node, from its start until nothing of it is left."""

    kubelet: Kubelet
    obj: Json
    ip: str
    inits: list[Container] = field(default_factory=list)
    containers: list[Container] = field(default_factory=list)
    reason: str = ""
    message: str = ""
    ending: bool = False
    grace: int | None = None
    ready_since: str = ""
    was_ready: bool = False
    initialized: str = ""

    def __post_init__(self) -> None:
        spec, base = self.obj["spec"], self.kubelet.directory / self.uid
        for each in spec.get("initContainers", []):
            self.inits.append(Container(each, base / "logs" / each["name"]))
        for each in spec["containers"]:
            self.containers.append(Container(each, base / "logs" / each["name"]))
        (base / "logs").mkdir(parents=True)
        self.started_at = now()
        self.ready_since = self.started_at

    @property
    def uid(self) -> str:
        return str(self.obj["metadata"]["uid"])

    @property
    def name(self) -> tuple[str, str]:
        return self.obj["metadata"]["namespace"], self.obj["metadata"]["name"]

    async def run(self) -> None:
        """Its whole life."""
        self.tell()
        for each in self.inits:
            while not self.ending:
                code = await self._once(each)
                if code == 0 or self.ending:
                    break
                if self.obj["spec"].get("restartPolicy") == "Never":
                    return self.tell("Failed")
                await self._back_off(each)
            if self.ending:
                return
        self.initialized = now()
        async with asyncio.TaskGroup() as tasks:
            for each in self.containers:
                tasks.create_task(self._keep(each))
        policy = self.obj["spec"].get("restartPolicy", "Always")
        if not self.ending and policy != "Always":
            bad = any(at(c.state, ("terminated", "exitCode")) for c in self.containers)
            self.tell("Failed" if bad else "Succeeded")

    async def _keep(self, each: Container) -> None:
        policy = self.obj["spec"].get("restartPolicy", "Always")
        while not self.ending:
            probe = asyncio.create_task(self._probe(each))
            code = await self._once(each)
            probe.cancel()
            each.ready = each.started = False
            if self.ending or policy == "Never" or (policy == "OnFailure" and code == 0):  # fmt: skip
                break
            await self._back_off(each)
        self.tell()

    async def _once(self, each: Container) -> int | None:
        """One run of a container."""
        try:
            await self.kubelet.pull(self, each)
            words = self.kubelet.inside.words(self.obj, self.ip, each.spec)
        except CannotRunError as error:
            each.state = {"waiting": {"reason": error.reason, "message": error.message}}
            self.tell()
            await asyncio.sleep(1 / FASTER)
            if error.reason == "ErrImagePull":
                back = f'Back-off pulling image "{each.spec.get("image")}"'
                each.state = {
                    "waiting": {"reason": "ImagePullBackOff", "message": back}
                }
                self.tell()
                await asyncio.sleep(3 / FASTER)
            return None
        if each.log.exists():
            each.log.replace(each.log.with_suffix(".previous"))
        with each.log.open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                *CONTAIN, stdin=asyncio.subprocess.PIPE, stdout=log, stderr=log, start_new_session=True,
                env={"PATH": BASE_ENV["PATH"]},
            )  # fmt: skip
        assert process.stdin
        process.stdin.write(json.dumps(words).encode() + b"\n")
        each.process, each.killed_for = process, ""
        began = now()
        each.state = {"running": {"startedAt": began}}
        self.tell()
        if self.ending:
            self._end(each)
        code = await process.wait()
        reason = each.killed_for or ("Completed" if code == 0 else "Error")
        end = {"exitCode": code, "reason": reason, "startedAt": began, "finishedAt": now()}  # fmt: skip
        each.state, each.process = {"terminated": end}, None
        each.ready = each.started = False
        self.tell()
        return code

    async def _back_off(self, each: Container) -> None:
        if "waiting" in each.state:
            return
        await asyncio.sleep(1 / FASTER)
        if self.ending:
            return
        each.last = each.state
        if each.restarts:
            wait_s = min(10 * 2 ** (each.restarts - 1), 300)
            message = f"back-off {wait_s}s restarting failed container={each.spec['name']} pod={self.name[1]}"
            each.state = {"waiting": {"reason": "CrashLoopBackOff", "message": message}}
            self.tell()
            await asyncio.sleep(min(wait_s, 20) / FASTER)
        each.restarts += 1

    async def _probe(self, each: Container) -> None:
        """Ready as its probes say: startup first, then readiness; without any, as it runs."""
        for kind in ("startupProbe", "readinessProbe"):
            while probe := each.spec.get(kind):
                ready = await asyncio.to_thread(answers, probe, self.ip, each.spec)
                if each.process and ready:
                    break
                await asyncio.sleep(0.1)
        while not each.process:
            await asyncio.sleep(0.02)
        each.started = each.ready = True
        self.tell()

    def end(self) -> None:
        """Ask all of it to end, and kill what has not within its grace (at once, where that is 0)."""
        self.kubelet.keep(asyncio.create_task(self._end_all()))

    async def _end_all(self) -> None:
        grace = self.grace or 0
        already, self.ending = self.ending, True
        running = [c for c in (*self.inits, *self.containers) if c.process]
        for each in running:
            if grace == 0:
                self._kill(each)
            elif not already:
                self._end(each)
        waits = [asyncio.create_task(c.process.wait()) for c in running if c.process]
        if waits:
            _, late = await asyncio.wait(waits, timeout=grace or None)
            for each in running:
                if late and each.process:
                    self._kill(each)
            await asyncio.wait(waits)
        await asyncio.sleep(0.02)  # what it said last is read
        self.kubelet.gone(self)

    def _end(self, each: Container) -> None:
        if each.process and each.process.stdin:
            with contextlib.suppress(OSError):
                each.process.stdin.write(b"term\n")

    def _kill(self, each: Container) -> None:
        if each.process and each.process.stdin:
            each.process.stdin.close()

    def tell(self, phase: str = "") -> None:
        """Write its status as it is now."""
        ready = bool(self.containers) and all(c.ready for c in self.containers)
        if ready != self.was_ready:
            self.was_ready, self.ready_since = ready, now()
        running = any("running" in c.state or c.restarts for c in self.containers)
        phase = phase or self.reason and "Failed" or ("Running" if running else "Pending")  # fmt: skip
        states = {
            "PodScheduled": (True, self.started_at),
            "Initialized": (
                bool(self.initialized) or not self.inits,
                self.initialized or self.started_at,
            ),
            "ContainersReady": (ready, self.ready_since),
            "Ready": (ready, self.ready_since),
        }
        conditions = [
            {"type": kind, "status": str(on), "lastTransitionTime": since}
            for kind, (on, since) in states.items()
        ]
        status = {
            "phase": phase,
            "podIP": self.ip,
            "podIPs": [{"ip": self.ip}],
            "hostIP": "127.0.0.1",
            "startTime": self.started_at,
            "conditions": conditions,
            "initContainerStatuses": [c.status for c in self.inits],
            "containerStatuses": [c.status for c in self.containers],
        }
        if self.reason:
            status |= {"reason": self.reason, "message": self.message}
        self.obj = self.kubelet.store.change("pods", self.obj, status=copy.deepcopy(status))  # fmt: skip


@dataclass
class Kubelet:
    """Of all nodes."""

    store: Store
    directory: Path
    network: str
    """``127.7``: the beginning of pods' addresses."""
    bad_images: set[str] = field(default_factory=set)
    pods: dict[str, Pod] = field(default_factory=dict)
    number: int = 0
    addresses: dict[tuple[str, str], str] = field(default_factory=dict)
    shown: dict[tuple[str, str], str] = field(default_factory=dict)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.directory.mkdir(parents=True)
        self.hosts = self.directory / "hosts"
        self.hosts.write_text("")
        self.inside = Inside(self.store, self.directory)

    def see(self, obj: Json) -> None:
        """A pod was made, bound, changed or asked to end."""
        meta = obj["metadata"]
        pod = self.pods.get(meta["uid"])
        if pod is None:
            if meta.get("deletionTimestamp"):
                self.store.remove("pods", obj)
            elif obj["spec"].get("nodeName"):
                ip = self.address(meta["namespace"], meta["name"])
                pod = self.pods[meta["uid"]] = Pod(self, obj, ip)
                self.keep(asyncio.create_task(pod.run()))
            return
        pod.obj = obj
        if meta.get("deletionTimestamp") and pod.grace != meta["deletionGracePeriodSeconds"]:  # fmt: skip
            pod.grace = meta["deletionGracePeriodSeconds"]
            pod.end()

    def refresh(self) -> None:
        """ConfigMaps that have changed come to the pods that mount them (in a real cluster, when a pod is
        looked at anew: once a minute, or as its annotations change)."""
        for pod in self.pods.values():
            for volume in pod.obj["spec"].get("volumes", []):
                name = (volume.get("configMap") or {}).get("name")
                key = ("configmaps", pod.name[0], name or "")
                if key not in self.store.objects:
                    continue
                version = self.store.objects[key]["metadata"]["resourceVersion"]
                seen = (pod.uid, volume["name"])
                if self.shown.get(seen) != version:
                    self.shown[seen] = version
                    self.inside.volume(pod.obj, volume)

    def resolve(self) -> None:
        """The cluster's DNS: a hosts file of all pods, in which a Service is its first pod that is ready."""
        lines = ["127.0.0.1 localhost"]
        for service in self.store.all("services"):
            meta, chosen = service["metadata"], service["spec"].get("selector") or {}
            for pod in self.pods.values():
                labels = pod.obj["metadata"].get("labels", {})
                same = pod.name[0] == meta["namespace"]
                if same and chosen and chosen.items() <= labels.items() and pod.was_ready:  # fmt: skip
                    name = f"{meta['name']}.{meta['namespace']}"
                    lines.append(f"{pod.ip} {meta['name']} {name} {name}.svc")
                    break
        for pod in self.pods.values():  # of groups, in a headless Service
            spec = pod.obj["spec"]
            if "subdomain" in spec:
                name = f"{spec.get('hostname', pod.name[1])}.{spec['subdomain']}.{pod.name[0]}"
                lines.append(f"{pod.ip} {name} {name}.svc")
        text = "\n".join([*lines, ""])
        if text != self.hosts.read_text():
            self.hosts.write_text(text)  # the same file: it is mounted

    def address(self, namespace: str, name: str) -> str:
        """Of the pod of this name, which may be about to be made."""
        if (namespace, name) not in self.addresses:
            self.number += 1
            ip = f"{self.network}.{self.number // 250}.{self.number % 250 + 1}"
            self.addresses[namespace, name] = ip
        return self.addresses[namespace, name]

    def kill(self, name: tuple[str, str], reason: str = "") -> None:
        """SIGKILL to all of a pod's containers, as the kernel does it; ``OOMKilled`` where it says so."""
        for each in self.pods.values():
            if each.name == name:
                for container in each.containers:
                    container.killed_for = reason
                    each._kill(container)

    def keep(self, task: asyncio.Task[None]) -> None:
        """Nobody else refers to it, and the loop forgets what nobody refers to."""
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def gone(self, pod: Pod) -> None:
        """Nothing of it runs any more."""
        self.addresses.pop(pod.name, None)
        self.store.remove("pods", pod.obj)
        self.pods.pop(pod.uid, None)

    def log_of(
        self, namespace: str, name: str, container: str, previous: bool
    ) -> tuple[Path | None, Any]:
        """Its file, and whether more may come."""
        for pod in self.pods.values():
            if pod.name != (namespace, name):
                continue
            for each in (*pod.inits, *pod.containers):
                if each.spec["name"] != container:
                    continue
                path = each.log.with_suffix(".previous") if previous else each.log
                found = path if path.exists() else None
                return found, lambda c=each: c.process is not None and not previous
        return None, lambda: False

    async def pull(self, pod: Pod, each: Container) -> None:
        """Raises CannotRunError for an image that there is not."""
        image = each.spec.get("image", "")
        if not image:
            raise CannotRunError("InvalidImageName", "the image has no name")
        if image in self.bad_images:
            raise CannotRunError("ErrImagePull", f'failed to pull and unpack image "{image}": not found')  # fmt: skip


def answers(probe: Json, ip: str, container: Json) -> bool:
    """Whether a probe is content now."""
    if get := probe.get("httpGet"):
        port = get["port"]
        if isinstance(port, str):
            ports = {p.get("name"): p["containerPort"] for p in container["ports"]}
            port = ports[port]
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with direct.open(f"http://{ip}:{port}{get.get('path', '/')}", timeout=5):
                return True
        except (OSError, urllib.error.URLError, ValueError):
            return False
    return True
