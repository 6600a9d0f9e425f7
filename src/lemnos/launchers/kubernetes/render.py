"""A unit as files that ``kubectl`` takes, and the command that applies them. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from importlib import resources
from typing import Any

import yaml

from lemnos.engines.base import engine_named
from lemnos.launchers.kubernetes.around import metric_of
from lemnos.launchers.kubernetes.names import (
    FIELD_MANAGER,
    UNIT,
    NodeFacts,
    key_secret,
)
from lemnos.launchers.kubernetes.objects import kind_of, objects_of, shared_of
from lemnos.launchers.kubernetes.pods import Object, gpus_of, secret_items
from lemnos.launchers.site import Site
from lemnos.spec.clusters import KubernetesSpec
from lemnos.spec.unit import Rendered, Unit

BASE = "kustomization.yaml"
_ROOT_ENGINES = ("vllm", "sglang")


def render(unit: Unit, site: Site, nodes: NodeFacts) -> Rendered:
    """A file for each object, the deployment's before the unit's, and the ``kubectl`` that applies them.

    Raises UsageError for what Kubernetes cannot do, with the key to change.
    """
    found = [*shared_of(unit, site, nodes)] if unit.role != "gateway" else []
    found += objects_of(unit, site, nodes)
    files = {file_of(each): text_of(each) for each in found}
    named = (word for file in files for word in ("-f", file))
    applied = (*_apply(site.spec.kubernetes), *named)
    return Rendered(
        files=files, commands=(applied,), notes=tuple(_notes(unit, site, nodes))
    )


def kubectl(spec: KubernetesSpec) -> tuple[str, ...]:
    """``kubectl`` for the cluster and namespace of the spec."""
    found = ["kubectl"]
    found += ["--kubeconfig", spec.kubeconfig] if spec.kubeconfig else []
    found += ["--context", spec.context] if spec.context else []
    found += ["--namespace", spec.namespace] if spec.namespace else []
    return tuple(found)


def kustomize(rendered: Mapping[str, Rendered]) -> dict[str, str]:
    """File name -> text of a base that ``kubectl apply -k`` takes: all objects of the units, those that
    they share once. Files that are no objects (a gateway's script) are left out."""
    files = {
        file: text
        for unit in rendered.values()
        for file, text in unit.files.items()
        if file.endswith(".yaml")
    }
    base = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": list(files),
    }
    return {BASE: _yaml(base)} | files


def apply_base(spec: KubernetesSpec) -> tuple[str, ...]:
    """What applies a base, from within its directory."""
    return (*_apply(spec), "-k", ".")


def _apply(spec: KubernetesSpec) -> tuple[str, ...]:
    how = ("apply", "--server-side", f"--field-manager={FIELD_MANAGER}")
    return (*kubectl(spec), *how)


def file_of(found: Object) -> str:
    """``deployment-chat-engine-0.yaml``."""
    return f"{found['kind'].lower()}-{found['metadata']['name']}.yaml"


def text_of(found: Object) -> str:
    """The object as YAML, with why it is there."""
    of_gateway = found["metadata"]["labels"].get(UNIT, "").startswith("gateway")
    kind = found["kind"]
    why = why_of()[kind]
    if of_gateway:
        why = why_of().get(f"gateway {kind}", why)
    return f"# {why}\n{_yaml(found)}"


def _notes(unit: Unit, site: Site, nodes: NodeFacts) -> Iterator[str]:
    spec = site.spec.kubernetes
    name = key_secret(unit.deployment)
    if unit.role == "gateway":
        yield f"the gateway reads its table from the ConfigMap {unit.deployment}-targets, which `lemnos up` keeps"
        return
    yield _key_note(unit, name, spec)
    if gpus_of(unit, spec) and not (spec.node_selector or nodes.selector):
        yield (
            "no node is chosen by its GPU, since the cluster was not asked: `lemnos up` asks it, "
            "kubernetes.node_selector says it"
        )
    if unit.served and unit.served.engine in _ROOT_ENGINES and not site.spec.container:
        yield (
            f"{unit.served.engine}'s own image runs as root (without privileges): a namespace that enforces "
            "the restricted pod security standard refuses it"
        )
    kind = kind_of(unit, site)
    over_nodes = any("NCCL_MNNVL_ENABLE" in job.command.env for job in unit.jobs)
    if over_nodes and not spec.compute_domain:
        yield (
            "NVLink between nodes takes an IMEX channel in each pod: kubernetes.compute_domain gives it where "
            "NVIDIA's DRA driver is; else set NCCL_MNNVL_ENABLE to 0 in engine_env"
        )
    if kind == "dynamo":
        yield "Dynamo's frontend takes no key: the NetworkPolicy alone keeps others away"
    if site.spec.scale and spec.autoscale == "hpa" and unit.served:
        waiting = engine_named(unit.served.engine).metrics.waiting or ""
        yield (
            f"the autoscaler reads the pods' metric {metric_of(waiting)}: prometheus-adapter must serve "
            f"{waiting} under that name"
        )


def _key_note(unit: Unit, name: str, spec: KubernetesSpec) -> str:
    """How to make what ``lemnos up`` makes, for people who apply the files themselves."""
    literals = " ".join(
        f"--from-file={item}=FILE_WITH_{'THE_KEY' if item == 'key' else repr(text)}"
        for item, text in secret_items(unit).items()
    )
    return (
        f"the Secret {name} holds the engines' key and is made by `lemnos up`; by hand: "
        f"{' '.join(kubectl(spec))} create secret generic {name} {literals}"
    )


_BREAKS = "\r\x85\u2028\u2029\ufeff"
"""PyYAML writes these as they are in any other style, and reads them back as line breaks."""


class _Dumper(yaml.SafeDumper):
    """Texts of several lines as blocks, which people can read; no anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    if any(mark in text for mark in _BREAKS):
        style = '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def _yaml(value: Any) -> str:
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True)  # fmt: skip


@cache
def why_of() -> dict[str, str]:
    """What a person would ask of an object, by kind."""
    text = resources.files(__package__).joinpath("why.yaml").read_text()
    return dict(yaml.safe_load(text))
