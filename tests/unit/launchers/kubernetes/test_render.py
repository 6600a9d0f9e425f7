"""Files as a person would read them, and the commands that take them."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from lemnos.launchers.kubernetes.names import NodeFacts
from lemnos.launchers.kubernetes.objects import objects_of, shared_of
from lemnos.launchers.kubernetes.render import BASE, kustomize, render
from lemnos.spec.unit import Rendered, Unit
from tests.unit.launchers.kubernetes import units
from tests.unit.launchers.kubernetes.units import site

GOLDEN = Path(__file__).parents[3] / "data/golden/kubernetes"
KEYED = {"endpoint": {"api_key_file": "keys"}}
EXPOSED = {
    "gateway_image": "registry.example/lemnos:1",
    "expose": {"host": "llm.example.org"},
    "client_namespaces": ["apps"],
}
CASES: dict[str, tuple[Callable[[], Unit], dict[str, Any]]] = {
    "vllm": (units.vllm, {"kubernetes": {"context": "prod", "namespace": "llm"}}),
    "sglang-two-nodes": (
        lambda: units.sglang(2),
        {"kubernetes": {"weights": {"host_path": "/data/models"}}},
    ),
    "data-parallel": (
        units.data_parallel,
        {"kubernetes": {"weights": {"claim": "models", "path": "glm"}}},
    ),
    "dynamo": (units.over_trays, {"kubernetes": {"monitor": True}}),
    "ray": (units.on_ray, {"kubernetes": {"kind": "raycluster"}}),
    "embedded": (
        units.small,
        {"kubernetes": {"gateway_image": "registry.example/lemnos:1"}, **KEYED},
    ),
    "gateway": (units.gateway, {"kubernetes": EXPOSED, **KEYED}),
    "scaled": (units.vllm, {"scale": {"max": 8}}),
}


def rendered(name: str) -> Rendered:
    make, keys = CASES[name]
    return render(make(), site(**keys), units.NODES)


@pytest.mark.parametrize("name", CASES)
def test_golden(name: str) -> None:
    """GOLDEN=1 writes them anew."""
    done = rendered(name)
    text = "".join(f"==> {file} <==\n{body}\n" for file, body in done.files.items())
    text += "".join(f"$ {shlex.join(command)}\n" for command in done.commands)
    text += "".join(f"note: {note}\n" for note in done.notes)
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("GOLDEN"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert text == path.read_text()


@pytest.mark.parametrize("name", CASES)
def test_a_file_holds_one_object_and_why(name: str) -> None:
    make, keys = CASES[name]
    unit, at = make(), site(**keys)
    want = objects_of(unit, at, units.NODES)
    if unit.role == "engine":
        want = shared_of(unit, at, units.NODES) + want
    files = rendered(name).files
    assert [yaml.safe_load(text) for text in files.values()] == want
    assert all(text.startswith("# ") for text in files.values())


def test_the_command_names_cluster_and_namespace() -> None:
    (command,) = rendered("vllm").commands
    assert command[:8] == (
        *("kubectl", "--context", "prod", "--namespace", "llm"),
        *("apply", "--server-side", "--field-manager=lemnos"),
    )
    named = [b for a, b in zip(command, command[1:], strict=False) if a == "-f"]
    assert named == list(rendered("vllm").files)


def test_a_base_has_what_units_share_once() -> None:
    at = site()
    first = units.vllm()
    second = first.model_copy(update={"name": "engine-1"})
    local = Rendered(files={"gateway-0.sh": "exec x"}, commands=())
    both = {unit.name: render(unit, at, units.NODES) for unit in (first, second)}
    base = kustomize({"gateway-0": local} | both)
    listed = yaml.safe_load(base[BASE])["resources"]
    assert [BASE, *listed] == list(base)
    kinds = [yaml.safe_load(base[file])["kind"] for file in listed]
    assert kinds.count("Deployment") == kinds.count("Service") == 2
    assert kinds.count("PersistentVolumeClaim") == kinds.count("Job") == 1


def test_notes_say_what_a_person_must_know() -> None:
    bare = render(units.vllm(), site(), NodeFacts())
    assert any("kubernetes.node_selector says it" in note for note in bare.notes)
    assert any("create secret generic chat-key" in note for note in bare.notes)
    assert not any("node_selector" in note for note in rendered("vllm").notes)
    assert any("prometheus-adapter" in note for note in rendered("scaled").notes)
    assert any("IMEX" in note for note in rendered("dynamo").notes)
