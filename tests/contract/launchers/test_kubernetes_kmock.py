"""Our manifests, the real kubectl, and an API server that others wrote: kmock's emulator of Kubernetes, with the resources of a K3s.

The bed's own server (tests/testbeds/kubernetes) does more, but we wrote it, too. Two things kmock 0.8 cannot, which
``Emulator`` adds: an apply that creates (``KubernetesEmulator._handle`` answers 404 to a PATCH of what is not there), and
``/api/v1`` as kubectl reads it (``KubernetesScaffold._serve_version`` calls the core group's version ``/v1``).

Not tried here, since it does not keep them: field managers and their conflicts, an apply that takes fields away
(``Object.patch`` merges), validation and dry runs (it stores what it is sent), selectors, versions of objects, logs.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from kmock import KubernetesEmulator, Request, Server

from lemnos.launchers.kubernetes.render import BASE, apply_base, kubectl, kustomize
from lemnos.spec.clusters import KubernetesSpec
from tests.testbeds.kubectl import KUBECTL, why_not
from tests.testbeds.kubernetes.store import CUSTOM
from tests.unit.launchers.kubernetes.test_examples import SPECS, base_of
from tests.unit.launchers.kubernetes.test_render import CASES, rendered

pytestmark = [
    pytest.mark.bed,
    pytest.mark.skipif(bool(why_not()), reason=why_not() or ""),
]
SEED_003 = {p.stem: p for p in SPECS if "seed-003" in str(p)}


class Emulator(KubernetesEmulator):
    """kmock's, but for what the module's docstring says."""

    async def _handle(self, request: Request) -> Any:
        key: Any = (request.resource, request.namespace, request.name)
        kind = request.headers.get("Content-Type", "")
        if kind.startswith("application/apply-patch") and key not in self.objects:
            self.objects[key] = {}
        return await super()._handle(request)

    async def _serve_version(self, request: Request) -> Any:
        found: Any = await super()._serve_version(request)
        return found | {"groupVersion": found["groupVersion"].lstrip("/")}


@dataclass(frozen=True)
class Cluster:
    emulator: Emulator
    config: Path

    def ask(self, *argv: str, at: Path) -> str:
        """What the real kubectl prints, within ``at``; its home and its settings are the test's."""
        words = (str(KUBECTL), *argv[1:], f"--cache-dir={self.config.parent}/cache")
        env = {"HOME": str(self.config.parent)}
        done = subprocess.run(
            words, cwd=at, env=env, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def kept(self) -> list[Any]:
        """The objects that nobody has deleted."""
        return [each for each in self.emulator.objects.values() if not each.deleted]


@pytest.fixture
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    emulator = Emulator()
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        emulator.resources.load_bundled()  # by what Python 3.11 calls old
    for kind, plural, api, short in CUSTOM.values():
        info = emulator.resources[f"{api}/{plural}"]
        info.kind, info.namespaced, info.shortnames = kind, True, set(short)
    config = tmp_path_factory.mktemp("kmock") / "config"
    up: Future[tuple[str, asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    async def serve() -> None:
        over = asyncio.Event()
        async with emulator, Server(emulator) as server:
            up.set_result((str(server.url), asyncio.get_running_loop(), over))
            await over.wait()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    url, loop, over = up.result(30)
    named = {"name": "kmock", "cluster": {"server": url}}
    context = {"name": "kmock", "context": {"cluster": "kmock", "user": ""}}
    parts = {"clusters": [named], "contexts": [context], "current-context": "kmock"}
    config.write_text(json.dumps({"apiVersion": "v1", "kind": "Config"} | parts))
    yield Cluster(emulator, config)
    loop.call_soon_threadsafe(over.set)
    thread.join(30)


def name_of(found: Any) -> tuple[str, str]:
    return found["kind"], found["metadata"]["name"]


@pytest.mark.parametrize("name", [*SEED_003, *CASES])
def test_the_life_of_a_base(name: str, cluster: Cluster, tmp_path: Path) -> None:
    """As ``lemnos up SPEC --dry-run --output DIR`` writes it, applied by the command beside it."""
    own = name in SEED_003
    files = base_of(SEED_003[name]) if own else kustomize({"": rendered(name)})
    for file, text in files.items():
        (tmp_path / file).write_text(text)
    objects = [yaml.safe_load(text) for file, text in files.items() if file != BASE]
    for each in objects:
        each["metadata"].setdefault("namespace", "default")
    (namespace,) = {each["metadata"]["namespace"] for each in objects}
    written = {name_of(each): each for each in objects}
    spec = KubernetesSpec(kubeconfig=str(cluster.config), namespace=namespace)
    asked = kubectl(spec)

    for _ in range(2):
        cluster.ask(*apply_base(spec), "--validate=false", at=tmp_path)
        assert len(cluster.kept()) == len(objects) == len(written)
    read = json.loads(cluster.ask(*asked, "get", "-k", ".", "-o", "json", at=tmp_path))
    assert {name_of(each): each for each in read["items"]} == written

    patch = json.dumps({"metadata": {"labels": {"by": "hand"}}})
    cluster.ask(*asked, "patch", "--type=merge", "-p", patch, "-k", ".", at=tmp_path)
    for each in objects:
        each["metadata"]["labels"]["by"] = "hand"
    assert {name_of(each): each for each in cluster.kept()} == written

    assert cluster.emulator.errors == []
    cluster.ask(*asked, "delete", "-k", ".", at=tmp_path)
    assert cluster.kept() == []
