"""The API server: HTTP as kubectl speaks it, over a ``Store``."""

from __future__ import annotations

import asyncio
import copy
import json
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

from tests.testbeds.kubernetes.store import (
    Json,
    ProblemError,
    Resource,
    Store,
    applied,
    leaves,
    merged,
    note_fields,
    now,
    picks,
    selects,
)

PATH = re.compile(
    r"/api(?:s/(?P<group>[^/]+))?/(?P<version>v[^/]+)"
    r"(?:/namespaces/(?P<namespace>[^/]+)(?=/))?/(?P<plural>[^/]+)(?:/(?P<name>[^/]+)(?:/(?P<sub>[^/]+))?)?"
)
LogOf = Callable[[str, str, str, bool], tuple[Path | None, Callable[[], bool]]]
"""(namespace, pod, container, previous) -> its file, and whether more may come."""


@dataclass
class Api:
    """``forbidden``: (verb, plural) that the user may not do. ``denied``: names that an admission webhook
    refuses. ``token``: of the only user, if there is to be one."""

    store: Store
    log_of: LogOf
    forbidden: set[tuple[str, str]] = field(default_factory=set)
    denied: set[str] = field(default_factory=set)
    token: str = "bed"
    version: str = "v1.34.1"
    requests: list[str] = field(default_factory=list)
    """``GET /api/v1/...`` of each."""
    expired: int = 0
    """Watches that begin at a version before this one are told that it is too old."""
    streams: set[asyncio.Task[Any] | None] = field(default_factory=set)

    def app(self) -> web.Application:
        made = web.Application(client_max_size=64 * 1024**2)
        made.router.add_route("*", "/{tail:.*}", self._answer)
        return made

    def cut(self) -> None:
        """End every watch and every log that is followed, as a network does."""
        for task in [*self.streams]:
            if task:
                task.cancel()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(f"{request.method} {request.path_qs}")
        try:
            if request.headers.get("authorization") != f"Bearer {self.token}":
                raise ProblemError(401, "Unauthorized", "Unauthorized")
            if request.path == "/openapi/v2":  # protobuf: a document without contents
                kind = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
                return web.Response(body=b"", content_type=kind)
            if (told := self._discovery(request.path)) is not None:
                return web.json_response(told)
            found = PATH.fullmatch(request.path)
            what = self.store.resources.get(found["plural"]) if found else None
            if not found or not what or what.group != (found["group"] or ""):
                raise ProblemError(404, "NotFound", "the server could not find the requested resource")  # fmt: skip
            ask = _Ask(self, request, what, found["namespace"] or "", found["name"] or "", found["sub"] or "")  # fmt: skip
            return await ask.answer()
        except ProblemError as problem:
            return web.json_response(problem.status, status=problem.status["code"])

    def _discovery(self, path: str) -> Any:
        groups: dict[str, str] = {}
        for each in self.store.resources.values():
            groups[each.group] = each.api_version
        match path.strip("/").split("/"):
            case ["version"]:
                major, minor, _ = self.version.removeprefix("v").split(".")
                return {"major": major, "minor": minor, "gitVersion": self.version, "platform": "linux/amd64"}  # fmt: skip
            case ["api"]:
                return {"kind": "APIVersions", "versions": ["v1"]}
            case ["apis"]:
                rows = [_group(n, v) for n, v in groups.items() if n]
                return {
                    "kind": "APIGroupList",
                    "apiVersion": "v1",
                    "groups": rows,
                }
            case ["api", "v1"]:
                return self._resources("v1")
            case ["apis", group, version]:
                if groups.get(group) == f"{group}/{version}":
                    return self._resources(f"{group}/{version}")
            case ["apis", "apiextensions.k8s.io", "v1", "customresourcedefinitions"]:
                version = "apiextensions.k8s.io/v1"
                return {"kind": "CustomResourceDefinitionList", "apiVersion": version, "metadata": {}, "items": []}  # fmt: skip
            case ["openapi", "v3"]:
                urls = {
                    ("apis/" if "/" in v else "api/") + v: {
                        "serverRelativeURL": f"/openapi/v3/{'apis' if '/' in v else 'api'}/{v}?hash=1"
                    }
                    for v in groups.values()
                }
                return {"paths": urls}
            case ["openapi", "v3", _, *version]:
                return self._openapi("/".join(version))
        return None

    def _resources(self, version: str) -> Json:
        verbs = ["create", "delete", "get", "list", "patch", "update", "watch"]
        rows = [
            {
                "name": each.plural,
                "singularName": each.kind.lower(),
                "namespaced": each.namespaced,
                "kind": each.kind,
                "verbs": verbs,
                "shortNames": each.short,
            }
            for each in self.store.resources.values()
            if each.api_version == version
        ]
        return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": rows}  # fmt: skip

    def _openapi(self, version: str) -> Json:
        """Enough for kubectl to see that the server itself validates and tries without keeping."""
        paths = {}
        for each in self.store.resources.values():
            if each.api_version != version:
                continue
            group, _, v = version.rpartition("/")
            kind = {"group": group, "version": v, "kind": each.kind}
            names = ("fieldValidation", "dryRun", "force", "fieldManager")
            query = [{"name": n, "in": "query"} for n in names]
            patch = {"parameters": query, "x-kubernetes-group-version-kind": kind}
            paths[f"/{version}/{each.plural}/{{name}}"] = {"patch": patch}
        return {
            "openapi": "3.0.0",
            "info": {"title": "bed", "version": "1"},
            "paths": paths,
        }


@dataclass
class _Ask:
    """One request for a resource."""

    api: Api
    request: web.Request
    what: Resource
    namespace: str
    name: str
    sub: str

    async def answer(self) -> web.StreamResponse:
        request, what, store = self.request, self.what, self.api.store
        if what.plural == "namespaces" and self.namespace:
            self.name, self.namespace = self.namespace, ""
        verb = self._verb()
        if (verb, what.plural) in self.api.forbidden:
            self._forbid(verb)
        if self.sub == "log":
            return await self._log()
        body = json.loads(await self._text() or "{}")
        match verb:
            case "list":
                return web.json_response(self._list())
            case "watch":
                return await self._watch()
            case "get":
                return web.json_response(store.get(*self._key()))
            case "delete":
                return web.json_response(self._delete(body))
            case "create":
                self._admit(body)
                made = self._try(lambda: store.create(what.plural, self.namespace, body, self._manager()), body)  # fmt: skip
                return web.json_response(made, status=201)
        self._admit(body)
        if "apply-patch" in request.content_type:
            return web.json_response(self._apply(body))
        old = store.get(*self._key())
        new = body if request.method == "PUT" else merged(old, body)
        changed = {p: v for p, v in leaves(new).items() if leaves(old).get(p, ...) != v}
        note_fields(new, self._manager(), changed, "Update")
        return web.json_response(self._try(lambda: store.replace(what.plural, new), new))  # fmt: skip

    def _verb(self) -> str:
        method, query = self.request.method, self.request.query
        if method == "GET" and query.get("watch") in ("1", "true"):
            return "watch"
        reading = "get" if self.name else "list"
        return {"GET": reading, "POST": "create", "PUT": "update"}.get(
            method, method.lower()
        )

    def _key(self) -> tuple[str, str, str]:
        return self.what.plural, self.namespace, self.name

    def _manager(self) -> str:
        agent = self.request.headers.get("user-agent", "").partition("/")[0]
        return self.request.query.get("fieldManager") or agent or "unknown"

    async def _text(self) -> str:
        import yaml

        text = await self.request.text()
        if "yaml" in self.request.content_type and text:
            return json.dumps(yaml.safe_load(text))
        return text

    def _forbid(self, verb: str) -> None:
        what = self.what
        where = f' in the namespace "{self.namespace}"' if self.namespace else " at the cluster scope"  # fmt: skip
        named = f' "{self.name}"' if self.name else ""
        raise ProblemError(
            403,
            "Forbidden",
            f'{what.qualified}{named} is forbidden: User "ann" cannot {verb} resource "{what.plural}" '
            f'in API group "{what.group}"{where}',
            {"name": self.name, "group": what.group, "kind": what.plural},
        )

    def _admit(self, body: Json) -> None:
        name = body.get("metadata", {}).get("name", self.name)
        if name in self.api.denied:
            raise ProblemError(
                403,
                "Forbidden",
                f'admission webhook "policy.example.org" denied the request: {name} has no cost centre',
            )

    def _try(self, do: Callable[[], Json], dry: Json) -> Json:
        """Do it, or only say what would be."""
        if self.request.query.get("dryRun") != "All":
            return do()
        kept, version = dict(self.api.store.objects), self.api.store.version
        watchers, self.api.store.watchers = self.api.store.watchers, set()
        self.api.store.trying = True
        try:
            return copy.deepcopy(do())
        finally:
            self.api.store.trying = False
            self.api.store.objects, self.api.store.version = kept, version
            self.api.store.watchers = watchers

    def _apply(self, body: Json) -> Json:
        store, manager = self.api.store, self._manager()
        old = store.objects.get(self._key())
        new = applied(old, body, manager, self.request.query.get("force") == "true")
        new["apiVersion"], new["kind"] = self.what.api_version, self.what.kind
        new["metadata"]["name"] = self.name
        if old is None:
            managed = new["metadata"]["managedFields"]

            def make() -> Json:
                made = store.create(self.what.plural, self.namespace, new)
                made["metadata"]["managedFields"] = managed
                return made

            return self._try(make, new)
        return self._try(lambda: store.replace(self.what.plural, new), new)

    def _list(self) -> Json:
        store = self.api.store
        items = [each for each in store.all(self.what.plural, self.namespace) if self._wants(each)]  # fmt: skip
        return {
            "kind": f"{self.what.kind}List",
            "apiVersion": self.what.api_version,
            "metadata": {"resourceVersion": str(store.version)},
            "items": items,
        }

    def _wants(self, obj: Json) -> bool:
        meta, query = obj["metadata"], self.request.query
        return (
            obj["kind"] == self.what.kind
            and self.namespace in ("", meta.get("namespace", ""))
            and self.name in ("", meta["name"])
            and selects(query.get("labelSelector", ""), meta.get("labels", {}))
            and picks(query.get("fieldSelector", ""), obj)
        )

    def _delete(self, body: Json) -> Json:
        store = self.api.store
        obj = copy.deepcopy(store.get(*self._key()))
        if self.request.query.get("dryRun") == "All":
            return obj
        meta = obj["metadata"]
        grace = body.get("gracePeriodSeconds")
        if self.what.plural == "pods":
            default = obj["spec"].get("terminationGracePeriodSeconds", 30)
            grace = default if grace is None else grace
            if meta.get("deletionTimestamp"):
                grace = min(grace, meta["deletionGracePeriodSeconds"])
            meta["deletionTimestamp"] = now()
            meta["deletionGracePeriodSeconds"] = grace
            return store.replace("pods", obj)
        if body.get("propagationPolicy") == "Foreground":
            meta["deletionTimestamp"] = now()
            meta["finalizers"] = ["foregroundDeletion"]
            return store.replace(self.what.plural, obj)
        store.remove(self.what.plural, obj)
        return {"kind": "Status", "apiVersion": "v1", "status": "Success"}

    async def _watch(self) -> web.StreamResponse:
        store, query = self.api.store, self.request.query
        begins = int(query.get("resourceVersion") or 0)
        answer = web.StreamResponse(headers={"content-type": "application/json"})
        await answer.prepare(self.request)
        if 0 < begins < self.api.expired:
            status = ProblemError(410, "Expired", "too old resource version").status
            await answer.write(_line("ERROR", status))
            return answer
        queue: asyncio.Queue[tuple[str, Json]] = asyncio.Queue()
        if begins:
            for version, how, each in store.history:
                if version > begins:
                    queue.put_nowait((how, each))
        else:
            for each in store.all(self.what.plural, self.namespace):
                queue.put_nowait(("ADDED", each))
        if query.get("sendInitialEvents") == "true":
            queue.put_nowait(("BOOKMARK", self._bookmark()))
        store.watchers.add(queue)
        try:
            async with asyncio.timeout(float(query.get("timeoutSeconds") or 3600)):
                await self._stream(self._pass_on(queue, answer))
        except (TimeoutError, ConnectionError):
            pass
        finally:
            store.watchers.discard(queue)
        return answer

    def _bookmark(self) -> Json:
        """The end of what there was when a watch began."""
        meta = {
            "resourceVersion": str(self.api.store.version),
            "annotations": {"k8s.io/initial-events-end": "true"},
        }
        return {
            "kind": self.what.kind,
            "apiVersion": self.what.api_version,
            "metadata": meta,
        }

    async def _stream(self, body: Awaitable[None]) -> None:
        task = asyncio.ensure_future(body)
        self.api.streams.add(task)
        try:
            await task
        except asyncio.CancelledError:
            task.cancel()
            if asyncio.current_task().cancelling():  # type: ignore[union-attr]
                raise
        finally:
            self.api.streams.discard(task)

    async def _pass_on(
        self, queue: asyncio.Queue[tuple[str, Json]], answer: web.StreamResponse
    ) -> None:
        while True:
            how, obj = await queue.get()
            if how == "BOOKMARK" or self._wants(obj):
                await answer.write(_line(how, obj))

    async def _log(self) -> web.StreamResponse:
        pod = self.api.store.get("pods", self.namespace, self.name)
        query = self.request.query
        names = [each["name"] for each in pod["spec"]["containers"]]
        container = query.get("container") or names[0]
        previous = query.get("previous") == "true"
        path, runs = self.api.log_of(self.namespace, self.name, container, previous)
        if path is None:
            kind = "previous terminated" if previous else "waiting to start"
            raise ProblemError(
                400,
                "BadRequest",
                f'{kind} container "{container}" in pod "{self.name}" not found'
                if previous
                else f'container "{container}" in pod "{self.name}" is {kind}: ContainerCreating',
            )
        data = path.read_bytes()
        tail = int(query.get("tailLines") or -1)
        lines = data.splitlines(keepends=True)
        shown = b"".join(lines if tail < 0 else lines[len(lines) - min(tail, len(lines)) :])  # fmt: skip
        answer = web.StreamResponse(headers={"content-type": "text/plain"})
        await answer.prepare(self.request)
        await answer.write(shown)
        if query.get("follow") == "true":
            await self._stream(_follow(path, len(data), runs, answer))
        return answer


async def _follow(
    path: Path, at: int, runs: Callable[[], bool], answer: web.StreamResponse
) -> None:
    while True:
        over = not runs()
        with path.open("rb") as handle:
            handle.seek(at)
            if more := handle.read():
                at += len(more)
                await answer.write(more)
        if over:
            return
        await asyncio.sleep(0.02)


def _line(how: str, obj: Json) -> bytes:
    return json.dumps({"type": how, "object": obj}).encode() + b"\n"


def _group(name: str, version: str) -> Json:
    row = {"groupVersion": version, "version": version.rpartition("/")[2]}
    return {"name": name, "versions": [row], "preferredVersion": row}
