"""Units as workloads of Kubernetes, through the user's own kubectl: the cluster brings pods back by itself."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
from collections.abc import Sequence

from pydantic import ValidationError

from lemnos.engines.base import JobFiles
from lemnos.errors import LemnosError
from lemnos.launchers import late
from lemnos.launchers.kubernetes import inventory
from lemnos.launchers.kubernetes.client import Client
from lemnos.launchers.kubernetes.forwarding import Ways
from lemnos.launchers.kubernetes.gateway import targets_map
from lemnos.launchers.kubernetes.names import (
    CACHE,
    FIELD_MANAGER,
    INNER_PORT,
    ROLE,
    NodeFacts,
    key_secret,
    labels,
    object_name,
    selector,
)
from lemnos.launchers.kubernetes.objects import objects_of
from lemnos.launchers.kubernetes.owners import MADE, Owners, resource_of
from lemnos.launchers.kubernetes.parse import Pod, api_pod
from lemnos.launchers.kubernetes.pods import Object, gpus_of, secret_items
from lemnos.launchers.kubernetes.pulls import has_failed, pods_of, why_not_yet
from lemnos.launchers.kubernetes.reading import Logs
from lemnos.launchers.kubernetes.render import render
from lemnos.launchers.kubernetes.watching import Pods
from lemnos.launchers.kubernetes.weights import marker, pull_job
from lemnos.launchers.shape import shape_of
from lemnos.launchers.site import Site
from lemnos.spec.cluster import Cluster
from lemnos.spec.clusters import KEY_IN_A_POD, POD_PORT
from lemnos.spec.place import Place
from lemnos.spec.plan import Plan
from lemnos.spec.unit import LogFile, Rendered, Room, Unit, UnitStatus

SWEEP_S = 120.0
"""Pods that are told to end at once are gone within that, unless their node does not answer."""
ALIVE = "--field-selector=status.phase!=Succeeded,status.phase!=Failed"
TABLE = "lemnos.dev/table"
"""The annotation of a gateway's pod that tells which table it should have."""
ENDED = "ended.json"
"""Units that will not come up, and why: their objects are gone."""


class Kubernetes:
    """The units of one deployment in one namespace."""

    name = "kubernetes"
    restarts = True
    queues = True
    key_file = KEY_IN_A_POD

    def __init__(self, site: Site) -> None:
        self._site = site
        self._spec = site.spec.kubernetes
        self._client = Client(site.transport, self._spec)
        self._selector = _text(selector(site))
        self._pods = Pods(self._client, self._selector)
        self._owners = Owners(self._client, self._selector)
        self._logs = Logs(self._client, site)
        self._ways = Ways(self._client)
        self._units: dict[str, Unit | None] = {}
        self._ended: dict[str, str] | None = None
        self._told: set[str] = set()
        self._nodes = NodeFacts()
        self._published = ""

    def place(self, plan: Plan, name: str, *, dry: bool = False) -> Place:
        """Late hosts, the ports of pods. Raises LemnosError where the cluster cannot be asked."""
        if not dry:
            self._client.check()
            self._look_at_nodes(plan)
        shape, given = shape_of(plan), self._spec.gpus_per_node
        return Place(
            hosts=tuple(late.host(rank) for rank in range(shape.hosts)),
            gpus_per_host=shape.gpus if given is None else given,
            port=POD_PORT,
            inner_port=INNER_PORT,
            interface=self._site.spec.interface,
            multi_node_nvlink=shape.multi_node_nvlink,
            bind="0.0.0.0",
            ray=self._spec.kind == "raycluster",
        )

    def files(self, name: str) -> JobFiles:
        """The key and the cache in the pod; the log is where it is kept when the pod goes."""
        log = self._site.files(name).log
        return JobFiles(
            log=log, key_file=KEY_IN_A_POD, cache=self._site.spec.cache or CACHE
        )

    def render(self, unit: Unit) -> Rendered:
        """A YAML file an object, with the node labels that ``place`` has found."""
        return render(unit, self._site, self._nodes)

    def inventory(self) -> Cluster:
        """The cluster's nodes, their GPUs by their labels."""
        return inventory.cluster_of(self._all_nodes(), self._spec.gpu_resource)

    def room(self, unit: Unit) -> Room:
        """Whether nodes and quota have free GPUs for it; the API server has checked all of its objects
        (``--dry-run=server``). Raises LemnosError with what it refuses."""
        self._apply(self.render(unit), "--dry-run=server")
        gpus, resource = gpus_of(unit, self._spec), self._spec.gpu_resource
        if not gpus:
            return Room(free=True)
        hosts = len(unit.place.hosts)
        quotas = self._client.json("get", "resourcequotas").get("items", [])
        left = inventory.quota_left(quotas, resource)
        if left and left[1] < gpus * hosts:
            why = f"the quota {left[0]} has {max(0, left[1])} GPUs left, and it takes {gpus * hosts}"
            return Room(free=False, why=why)
        try:
            nodes = self._all_nodes()
            pods = self._client.json("get", "pods", "--all-namespaces", ALIVE)["items"]
        except LemnosError as error:  # many may not see more than their namespace
            return Room(free=False, why=f"the cluster does not say what is free: {error.what}")  # fmt: skip
        wanted = self._spec.node_selector or self._nodes.selector
        free = inventory.free_of(nodes, pods, wanted, resource)
        why = inventory.why_not([*free.values()], hosts, gpus)
        return Room(free=not why, why=why)

    def submit(self, unit: Unit) -> None:
        """Write the unit's files, and apply them as the field manager lemnos, after its Secret."""
        rendered = self.render(unit)
        there = unit.name in self._owners.known()
        self._write(unit, rendered)
        try:
            self._apply(rendered, "--dry-run=server")
            self._hand_over_key(unit)
            self._drop_failed_pulls(unit)
            self._apply(rendered)
        except LemnosError:
            if not there:
                self._undo(unit)
            raise
        self._units[unit.name] = unit
        self._note_end(unit.name, None)
        self._pods.forget(unit.name)
        self._owners.add(unit.name)

    def status(self) -> dict[str, UnitStatus]:
        """Every unit, from the pods as they were told of last: nothing is asked for where nothing changes."""
        pods, _ = self._pods.now()
        known = self._owners.known(pods)
        found = {
            name: self._status(name, pods.get(name, []), name in known)
            for name in sorted({*known, *pods} - {""})
        }
        # The launcher of another revision may have buried one that is missing.
        if self._told - found.keys():
            self._ended = None
        self._told = set(found)
        ended = self._all_ended()
        return found | {n: UnitStatus(state="ended", why=why) for n, why in ended.items()}  # fmt: skip

    def logs(self, name: str) -> tuple[LogFile, ...]:
        """One a container, or what was kept of them."""
        ended = name in self._all_ended()
        pods = [] if ended else self._pods.now()[0].get(name, [])
        if found := self._logs.of(name, pods):
            return found
        unit = self._unit(name)
        return self._logs.kept(name, len(unit.jobs)) if unit else ()

    def read(self, log: LogFile, lines: int) -> Sequence[str]:
        """The last lines of one."""
        return self._logs.read(log, lines)

    def cancel(self, name: str, *, kill: bool = False) -> None:
        """Remove its objects, so that its pods end; ``kill``: within a second."""
        pods = self._pods.now()[0].get(name, [])
        references = self._references(name)
        if not references and not pods:
            return
        self._remove(name, pods, references, kill=kill)

    def sweep(self) -> int:
        """Remove all that has the deployment's labels, but the claims with weights; logs are kept here."""
        pods, _ = self._pods.now()
        running = {n for n, own in pods.items() if n and not all(p.over for p in own)}
        for name in running:
            self._logs.keep(name, pods[name], follow=False)
        kinds = sorted(self._client.resources() & MADE)
        words = ("--ignore-not-found", "--wait=false", "--selector", self._selector)
        if kinds:
            self._client.of_kinds("delete", kinds, *words)
        if pods:
            self._client.run("delete", "pods", "--now", *words)
        if not self._pods.wait(lambda left: not left, SWEEP_S):
            raise LemnosError(
                f"pods are not gone after {SWEEP_S:.0f} s",
                where=f"namespace {self._client.namespace()}",
                fix=f"'kubectl get pods -l {self._selector} -o wide' shows them: their node may not answer; "
                "call down again",
            )
        self._ways.close()
        self._owners.clear()
        self._site.transport.remove(f"{self._site.directory}/units")
        self._units.clear()
        self._ended, self._published = {}, ""
        return len(running)

    # ------------------------------------------------------------ beyond the protocol

    def publish(self, table: str) -> None:
        """Put the gateway's table into its ConfigMap. A kubelet hands it to a pod once a minute, or at once
        where the pod itself has changed: so its annotation does."""
        if table == self._published:
            return
        self._client.apply(json.dumps(targets_map(table, self._site)))
        gateways = _text(selector(self._site) | {ROLE: "gateway"})
        stamp = f"{TABLE}={hashlib.sha256(table.encode()).hexdigest()[:12]}"
        self._client.run("annotate", "pods", "--overwrite", "--selector", gateways, stamp)  # fmt: skip
        self._published = table

    def drift(self, unit: Unit) -> str:
        """What the cluster has otherwise than ``submit`` would leave it, as ``kubectl diff`` shows it; empty
        where nothing is. Raises LemnosError."""
        # Forced: of a field that somebody else has set it would show the conflict alone.
        words = ("diff", "--server-side", "--force-conflicts", f"--field-manager={FIELD_MANAGER}")  # fmt: skip
        text = _documents(self.render(unit))
        done = self._client.ask(*words, "--filename=-", stdin=text)
        if done.code > 1:
            raise self._client.problem(done)
        return done.out

    # ------------------------------------------------------------ a unit

    def _status(self, name: str, pods: list[Pod], owned: bool) -> UnitStatus:
        unit = self._unit(name)
        hosts = len(unit.place.hosts) if unit else 1
        found = self._pods.status(name, hosts)
        if found.state == "ended":
            self._bury(name, pods, found.why)
            return found
        if found.state == "queued":
            if failed := self._why_no_model(unit, pods):
                self._bury(name, pods, failed)
                return found.model_copy(update={"state": "ended", "why": failed})
            why = self._why_queued(name, pods) or found.why
            return found.model_copy(update={"why": why})
        if owned and all(pod.deleted for pod in pods):
            # Its owner ends a group as a whole to make it again: a successor would take its GPUs.
            why = f"all of its pods are made again: {found.leaving or 'they end'}"
            return found.model_copy(update={"state": "queued", "leaving": "", "why": why})  # fmt: skip
        first = api_pod(pods)
        if first is None or found.leaving:
            return found
        port = unit.jobs[0].port if unit else POD_PORT
        service = object_name(self._site.deployment, name, "Service")
        inner = f"http://{service}.{self._client.namespace()}:{POD_PORT}"
        if unit and unit.role == "gateway":
            url = self._ways.forward(name, service, POD_PORT, unit.place.port)
        else:
            url = self._ways.url(name, service, first.ip, port)
        return found.model_copy(update={"url": url, "inner_url": inner})

    def _why_queued(self, name: str, pods: list[Pod]) -> str:
        """What only a question tells: why there are no pods, what the one that pulls the model says."""
        if not pods:
            return self._owners.why_no_pods(name, object_name(self._site.deployment, name, ""))  # fmt: skip
        waits = next(
            ((p, c) for p in pods for c in p.inits if c.state == "running"), None
        )
        if waits is None:
            return ""
        pulls = self._pulls()
        if why := why_not_yet(pulls):
            return why
        pod, each = (pulls[0], pulls[0].containers[0]) if pulls else waits
        return self._owners.last_word(pod.name, each.name)

    def _pulls(self) -> list[Pod]:
        return pods_of(self._pods.now()[0].get("", []))

    def _why_no_model(self, unit: Unit | None, pods: list[Pod]) -> str:
        """Why the model that the unit's pods wait for will not come; empty if it may."""
        firsts = (each for pod in pods for each in pod.inits if each.name == "model")
        waits = any(each.state == "running" for each in firsts)
        if not waits or not unit or not unit.served or self._spec.weights.host_path:
            return ""
        if self._pulls():
            return ""
        said = self._owners.pull_failed(marker(unit))
        return f"the Job that pulls its model has failed: {said}" if said else ""

    def _bury(self, name: str, pods: list[Pod], why: str) -> None:
        """A unit that will not come up is ended for good: Kubernetes would try it for ever."""
        self._note_end(name, why)
        self._remove(name, pods, self._references(name), kill=True)

    def _remove(
        self,
        name: str,
        pods: Sequence[Pod],
        references: Sequence[tuple[str, str]],
        *,
        kill: bool,
    ) -> None:
        going = all(pod.deleted for pod in pods)
        if not going or kill:
            self._logs.keep(name, pods, follow=not kill)
        self._client.delete(references)
        self._owners.drop(name)
        self._ways.drop(name)
        if kill and pods:
            chosen = _text(selector(self._site, name))
            words = ("--ignore-not-found", "--wait=false", "--selector", chosen)
            # Not --force: the API would call them gone before their processes are.
            self._client.run("delete", "pods", "--now", *words)

    def _references(self, name: str) -> list[tuple[str, str]]:
        """The unit's own objects, as it was written; by their labels where that cannot be read."""
        unit = self._unit(name)
        if unit:
            return _references(objects_of(unit, self._site, self._nodes))
        return self._owners.found(name)

    def _undo(self, unit: Unit) -> None:
        """After a start that failed: nothing of the unit is left."""
        with contextlib.suppress(LemnosError):
            self._client.delete(_references(objects_of(unit, self._site, self._nodes)))
        with contextlib.suppress(LemnosError):
            self._site.transport.remove(self._site.unit_directory(unit.name))
        self._units.pop(unit.name, None)

    # ------------------------------------------------------------ what is written

    def _write(self, unit: Unit, rendered: Rendered) -> None:
        directory = self._site.unit_directory(unit.name)
        files = {"unit.json": unit.model_dump_json()} | rendered.files
        for name, text in files.items():
            self._site.transport.write(f"{directory}/{name}", text.encode())

    def _apply(self, rendered: Rendered, *more: str) -> None:
        """All of it. A conflict is told with the object that it is about."""
        documents = _documents(rendered)
        try:
            self._client.apply(documents, *more)
        except LemnosError as error:
            raise self._client.about(error, rendered.files) from None

    def _drop_failed_pulls(self, unit: Unit) -> None:
        """A Job that has failed stays so: it is made anew."""
        for each in pull_job(unit, self._site, self._nodes):
            name = each["metadata"]["name"]
            job = self._client.json("get", "jobs.batch", name, "--ignore-not-found")
            if job and has_failed(job):
                self._client.delete([("jobs.batch", name)])

    def _hand_over_key(self, unit: Unit) -> None:
        """The Secret with the engines' key, through kubectl's input alone. Entries that other revisions' pods
        have (SGLang's settings) stay."""
        name = key_secret(self._site.deployment)
        try:
            key = self._site.key_file.read_text(encoding="utf-8").strip()
        except OSError as error:
            what = f"the engines' key cannot be read ({error.strerror})"
            raise LemnosError(what, where=str(self._site.key_file)) from None
        told = self._client.json("get", "secret", name, "--ignore-not-found")
        data = dict(told.get("data") or {})
        for item, text in secret_items(unit).items():
            value = text.replace("{key}", key).encode()
            data[item] = base64.b64encode(value).decode()
        secret = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": name, "labels": labels(self._site)},
            "data": data,
        }
        self._client.apply(json.dumps(secret))

    def _unit(self, name: str) -> Unit | None:
        if name not in self._units:
            path = f"{self._site.unit_directory(name)}/unit.json"
            data = self._site.transport.read(path)
            try:
                self._units[name] = Unit.model_validate_json(data) if data else None
            except ValidationError:  # another version's
                self._units[name] = None
        return self._units[name]

    def _all_ended(self) -> dict[str, str]:
        if self._ended is None:
            data = self._site.transport.read(f"{self._site.directory}/units/{ENDED}")
            self._ended = dict(json.loads(data)) if data else {}
        return self._ended

    def _note_end(self, name: str, why: str | None) -> None:
        """Why the unit will not come up, for launchers made later too; None: it is started anew."""
        if self._all_ended().get(name) == why:
            return
        self._ended = None  # another revision's launcher writes there, too
        ended = self._all_ended()
        if why is None:
            ended.pop(name, None)
        else:
            ended[name] = why
        path = f"{self._site.directory}/units/{ENDED}"
        self._site.transport.write(path, json.dumps(ended).encode())

    # ------------------------------------------------------------ nodes

    def _look_at_nodes(self, plan: Plan) -> None:
        """The label and the taints of the plan's GPU; without the right to see nodes they are the spec's."""
        if plan.proposal is None:
            return
        with contextlib.suppress(LemnosError):
            nodes, resource = self._all_nodes(), self._spec.gpu_resource
            self._nodes = inventory.facts_of(nodes, plan.proposal.gpu, resource)

    def _all_nodes(self) -> list[Object]:
        return list(self._client.json("get", "nodes").get("items", []))


def _references(objects: Sequence[Object]) -> list[tuple[str, str]]:
    return [(resource_of(each), each["metadata"]["name"]) for each in objects]


def _documents(rendered: Rendered) -> str:
    return "\n---\n".join(rendered.files.values())


def _text(chosen: dict[str, str]) -> str:
    return ",".join(f"{key}={value}" for key, value in chosen.items())
