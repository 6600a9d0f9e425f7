"""What an API server keeps: objects by resource, with versions, owners of fields and watchers.

Written from the API's documentation. Of server-side apply it has what tests look at: fields have
managers, another manager's field with another value is a conflict, fields that a manager applies no more go.
Lists are one field each.
"""

from __future__ import annotations

import asyncio
import copy
import datetime
import re
import uuid
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]
Key = tuple[str, str, str]
"""plural, namespace, name."""

# kind, plural, apiVersion, short names; all but nodes and namespaces belong to a namespace.
CORE = [
    ("Pod", "pods", "v1", ["po"]),
    ("Service", "services", "v1", ["svc"]),
    ("Secret", "secrets", "v1", []),
    ("ConfigMap", "configmaps", "v1", ["cm"]),
    ("Event", "events", "v1", ["ev"]),
    ("Node", "nodes", "v1", ["no"]),
    ("Namespace", "namespaces", "v1", ["ns"]),
    ("ResourceQuota", "resourcequotas", "v1", ["quota"]),
    ("PersistentVolumeClaim", "persistentvolumeclaims", "v1", ["pvc"]),
    ("ServiceAccount", "serviceaccounts", "v1", ["sa"]),
    ("Deployment", "deployments", "apps/v1", ["deploy"]),
    ("ReplicaSet", "replicasets", "apps/v1", ["rs"]),
    ("Job", "jobs", "batch/v1", []),
    ("NetworkPolicy", "networkpolicies", "networking.k8s.io/v1", ["netpol"]),
    ("Ingress", "ingresses", "networking.k8s.io/v1", ["ing"]),
    ("PodDisruptionBudget", "poddisruptionbudgets", "policy/v1", ["pdb"]),
    ("HorizontalPodAutoscaler", "horizontalpodautoscalers", "autoscaling/v2", ["hpa"]),
    ("Lease", "leases", "coordination.k8s.io/v1", []),
]
CUSTOM = {
    "lws": (
        "LeaderWorkerSet",
        "leaderworkersets",
        "leaderworkerset.x-k8s.io/v1",
        ["lws"],
    ),
    "dynamo": (
        "DynamoGraphDeployment",
        "dynamographdeployments",
        "nvidia.com/v1alpha1",
        ["dgd"],
    ),
    "ray": ("RayCluster", "rayclusters", "ray.io/v1", []),
    "monitor": (
        "ServiceMonitor",
        "servicemonitors",
        "monitoring.coreos.com/v1",
        ["smon"],
    ),
    "keda": ("ScaledObject", "scaledobjects", "keda.sh/v1alpha1", ["so"]),
    "gateway": ("HTTPRoute", "httproutes", "gateway.networking.k8s.io/v1", []),
}
WHOLE_CLUSTER = ("nodes", "namespaces")


class ProblemError(Exception):
    """An answer of failure, as a Status."""

    def __init__(
        self, code: int, reason: str, message: str, details: Json | None = None
    ):
        super().__init__(message)
        self.status: Json = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": message,
            "reason": reason,
            "code": code,
            "details": details or {},
        }


@dataclass
class Resource:
    kind: str
    plural: str
    api_version: str
    short: list[str]

    @property
    def namespaced(self) -> bool:
        return self.plural not in WHOLE_CLUSTER

    @property
    def group(self) -> str:
        return self.api_version.rpartition("/")[0]

    @property
    def qualified(self) -> str:
        return f"{self.plural}.{self.group}" if self.group else self.plural


@dataclass
class Store:
    """All objects. Changes are told to every queue in ``watchers``."""

    custom: tuple[str, ...] = tuple(CUSTOM)
    objects: dict[Key, Json] = field(default_factory=dict)
    version: int = 100
    watchers: set[asyncio.Queue[tuple[str, Json]]] = field(default_factory=set)
    history: deque[tuple[int, str, Json]] = field(
        default_factory=lambda: deque(maxlen=20_000)
    )
    """(version, how, object) of every change, for watches that begin in the past."""

    trying: bool = False
    """What is done now is forgotten again (a dry run)."""

    def __post_init__(self) -> None:
        rows = [*CORE, *(CUSTOM[name] for name in self.custom)]
        self.resources = {row[1]: Resource(*row) for row in rows}
        self.kinds = {each.kind: each for each in self.resources.values()}

    def all(self, plural: str, namespace: str = "") -> Iterator[Json]:
        for (kind, where, _), each in [*self.objects.items()]:
            if kind == plural and namespace in ("", where):
                yield each

    def get(self, plural: str, namespace: str, name: str) -> Json:
        found = self.objects.get((plural, namespace, name))
        if found is None:
            what = self.resources[plural]
            raise ProblemError(
                404,
                "NotFound",
                f'{what.qualified} "{name}" not found',
                {"name": name, "group": what.group, "kind": plural},
            )
        return found

    def create(self, plural: str, namespace: str, obj: Json, manager: str = "") -> Json:
        """Add it, as new. Raises ProblemError where it is there."""
        new = copy.deepcopy(obj)
        what, meta = self.resources[plural], new.setdefault("metadata", {})
        if what.namespaced:
            if ("namespaces", "", namespace) not in self.objects:
                raise ProblemError(
                    404,
                    "NotFound",
                    f'namespaces "{namespace}" not found',
                    {"name": namespace, "kind": "namespaces"},
                )
            meta["namespace"] = namespace
        name = meta["name"]
        check_name(name, what)
        if (plural, namespace, name) in self.objects:
            raise ProblemError(
                409,
                "AlreadyExists",
                f'{what.qualified} "{name}" already exists',
                {"name": name, "group": what.group, "kind": plural},
            )
        new.setdefault("apiVersion", what.api_version)
        new.setdefault("kind", what.kind)
        meta["uid"] = str(uuid.uuid4())
        meta["creationTimestamp"] = now()
        meta["generation"] = 1
        if manager:
            note_fields(new, manager, leaves(obj), "Update")
        return self._keep("ADDED", plural, new)

    def replace(self, plural: str, obj: Json) -> Json:
        """Put ``obj`` in the place of the one of its name."""
        meta = obj["metadata"]
        old = self.get(plural, meta.get("namespace", ""), meta["name"])
        if {**old, "metadata": {}} == {**obj, "metadata": {}} and _same(old, obj):
            return old
        if old.get("spec") != obj.get("spec"):
            meta["generation"] = meta.get("generation", 1) + 1
        return self._keep("MODIFIED", plural, obj)

    def change(self, plural: str, obj: Json, **parts: Any) -> Json:
        """The object as it is now, with these parts of its top replaced."""
        meta = obj["metadata"]
        found = self.objects.get((plural, meta.get("namespace", ""), meta["name"]))
        if found is None or found["metadata"]["uid"] != meta["uid"]:
            return obj
        return self.replace(plural, copy.deepcopy(found) | parts)

    def remove(self, plural: str, obj: Json) -> None:
        """Gone for good."""
        meta = obj["metadata"]
        key = (plural, meta.get("namespace", ""), meta["name"])
        if self.objects.get(key, {}).get("metadata", {}).get("uid") == meta["uid"]:
            gone = self.objects.pop(key)
            self.version += 1
            gone["metadata"]["resourceVersion"] = str(self.version)
            self._tell("DELETED", gone)

    def _keep(self, how: str, plural: str, obj: Json) -> Json:
        self.version += 1
        meta = obj["metadata"]
        meta["resourceVersion"] = str(self.version)
        self.objects[plural, meta.get("namespace", ""), meta["name"]] = obj
        self._tell(how, obj)
        return obj

    def _tell(self, how: str, obj: Json) -> None:
        if not self.trying:
            self.history.append((self.version, how, obj))
        for queue in self.watchers:
            queue.put_nowait((how, obj))


def applied(old: Json | None, new: Json, manager: str, force: bool) -> Json:
    """``old`` after ``manager`` applied ``new``. Raises ProblemError on another manager's fields."""
    base = copy.deepcopy(old) if old else {}
    mine = leaves(new)
    owners = fields_of(base)
    conflicts = []
    for other, paths in owners.items():
        if other == manager:
            continue
        for path in paths & set(mine):
            if at(base, path) == mine[path]:
                continue
            conflicts.append((other, path))
    if conflicts and not force:
        raise _conflict(conflicts, base)
    for path in owners.get(manager, set()) - set(mine):
        if not any(path in paths for who, paths in owners.items() if who != manager):
            drop(base, path)
    for path, value in mine.items():
        put(base, path, value)
    taken = {path for _, path in conflicts}
    how = {e["manager"]: e["operation"] for e in base.get("metadata", {}).get("managedFields", ())}  # fmt: skip
    for other in [o for o in owners if o != manager]:
        note_fields(base, other, owners[other] - taken, how[other])
    note_fields(base, manager, set(mine))
    return base


def _conflict(found: list[tuple[str, tuple[str, ...]]], obj: Json) -> ProblemError:
    """As the API server says it: one on the line, several by their managers; when, of those that did not apply."""
    entries = {each["manager"]: each for each in obj["metadata"]["managedFields"]}
    fields: dict[str, list[str]] = {}
    for who, path in sorted(found):
        by, entry = f'"{who}"', entries[who]
        if entry["operation"] == "Update":
            by += f" using {entry['apiVersion']} at {entry['time']}"
        fields.setdefault(by, []).append(f".{'.'.join(path)}")
    if len(found) == 1:
        ((by, (field_,)),) = fields.items()
        text = f"1 conflict: conflict with {by}: {field_}"
    else:
        told = ["\n- ".join([f"conflicts with {by}:", *each]) for by, each in fields.items()]  # fmt: skip
        text = f"{len(found)} conflicts: " + "\n".join(told)
    causes = [
        {
            "reason": "FieldManagerConflict",
            "message": f"conflict with {by}",
            "field": each,
        }
        for by, names in fields.items()
        for each in names
    ]
    return ProblemError(409, "Conflict", f"Apply failed with {text}", {"causes": causes})  # fmt: skip


def leaves(obj: Json) -> dict[tuple[str, ...], Any]:
    """Every field that is no mapping, by its path; those that the server sets are left out."""
    found: dict[tuple[str, ...], Any] = {}

    def walk(value: Any, path: tuple[str, ...]) -> None:
        if isinstance(value, dict) and value:
            for key, each in value.items():
                walk(each, (*path, key))
        elif path[0] not in ("apiVersion", "kind", "status") and path not in _SERVERS:
            found[path] = value

    if obj:
        walk(obj, ())
    return found


_SERVERS = {
    ("metadata", key)
    for key in (
        "name",
        "namespace",
        "managedFields",
        "resourceVersion",
        "uid",
        "creationTimestamp",
        "generation",
    )
}


def fields_of(obj: Json) -> dict[str, set[tuple[str, ...]]]:
    """Who manages which fields."""
    managed = obj.get("metadata", {}).get("managedFields", [])
    return {
        each["manager"]: {tuple(path) for path in each["fieldsV1"]["f:bed"]}
        for each in managed
    }


def note_fields(obj: Json, manager: str, paths: Any, operation: str = "Apply") -> None:
    """From now on these are ``manager``'s."""
    meta = obj.setdefault("metadata", {})
    others = [e for e in meta.get("managedFields", []) if e["manager"] != manager]
    entry = {
        "manager": manager,
        "operation": operation,
        "apiVersion": obj.get("apiVersion", "v1"),
        "time": now(),
        "fieldsType": "FieldsV1",
        "fieldsV1": {"f:bed": sorted(list(p) for p in paths)},
    }
    meta["managedFields"] = [*others, entry]


def at(obj: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        if not isinstance(obj, dict) or key not in obj:
            return None
        obj = obj[key]
    return obj


def put(obj: Json, path: tuple[str, ...], value: Any) -> None:
    for key in path[:-1]:
        below = obj.get(key)
        obj[key] = below if isinstance(below, dict) else {}
        obj = obj[key]
    obj[path[-1]] = copy.deepcopy(value)


def drop(obj: Json, path: tuple[str, ...]) -> None:
    parent = at(obj, path[:-1])
    if isinstance(parent, dict):
        parent.pop(path[-1], None)


def merged(old: Any, patch: Any) -> Any:
    """RFC 7396."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    new = copy.deepcopy(old) if isinstance(old, dict) else {}
    for key, value in patch.items():
        if value is None:
            new.pop(key, None)
        else:
            new[key] = merged(new.get(key), value)
    return new


def selects(selector: str, labels: dict[str, str]) -> bool:
    """Whether a label selector, as kubectl sends it, takes these labels."""
    for term in re.split(r",(?![^()]*\))", selector):
        term = term.strip()
        if found := re.fullmatch(r"(\S+)\s+(in|notin)\s+\((.*)\)", term):
            among = labels.get(found[1]) in [w.strip() for w in found[3].split(",")]
            if among != (found[2] == "in"):
                return False
        elif "!=" in term:
            key, _, value = term.partition("!=")
            if labels.get(key.strip()) == value.strip():
                return False
        elif "=" in term:
            key, value = re.split("==?", term, maxsplit=1)
            if labels.get(key.strip()) != value.strip():
                return False
        elif term.startswith("!"):
            if term[1:] in labels:
                return False
        elif term and term not in labels:
            return False
    return True


def picks(selector: str, obj: Json) -> bool:
    """Whether a field selector takes the object."""
    for term in filter(None, selector.split(",")):
        path, how, value = re.split("(!=|==?)", term, maxsplit=1)
        same = str(at(obj, tuple(path.split("."))) or "") == value
        if same == (how == "!="):
            return False
    return True


def check_name(name: str, what: Resource) -> None:
    """Raises ProblemError for what Kubernetes calls no name."""
    label = what.plural in ("services", "namespaces")
    pattern = r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?" if label else r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?"  # fmt: skip
    if re.fullmatch(pattern, name):
        return
    rule = (
        "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', "
        "and must start and end with an alphanumeric character"
    )
    raise ProblemError(
        422,
        "Invalid",
        f'{what.kind}{"." + what.group if what.group else ""} "{name}" is invalid: metadata.name: Invalid value: "{name}": {rule}',
        {
            "name": name,
            "group": what.group,
            "kind": what.kind,
            "causes": [
                {
                    "reason": "FieldValueInvalid",
                    "message": f'Invalid value: "{name}": {rule}',
                    "field": "metadata.name",
                }
            ],
        },
    )


def now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _same(old: Json, new: Json) -> bool:
    skipped = ("resourceVersion", "managedFields", "generation")

    def bare(obj: Json) -> Json:
        return {k: v for k, v in obj["metadata"].items() if k not in skipped}

    def owned(obj: Json) -> Any:
        return fields_of(obj)

    return bare(old) == bare(new) and owned(old) == owned(new)
