"""Objects of Kubernetes held against strict schemas, as an API server would hold them: unknown fields are errors.

Core kinds: the schemas of kubernetes-validate, of several versions. LeaderWorkerSet, Dynamo and Ray: those
given beside the repository (``../shared/crds``), not in it. The others: tests/data/schemas.
"""

from __future__ import annotations

import functools
import json
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

VERSIONS = ("1.32.0", "1.34.0", "1.37.0")
NEWEST = VERSIONS[-1]
_ROOT = Path(__file__).parents[1]
_OURS = _ROOT / "tests/data/schemas"
_GIVEN = _ROOT.parent / "shared/crds"

needs_crds = pytest.mark.skipif(
    not _GIVEN.is_dir(), reason="../shared/crds is not beside this checkout"
)


def errors_of(found: dict[str, Any], version: str = NEWEST) -> list[str]:
    """What an API server of this version would refuse it for. Raises FileNotFoundError for a kind
    without a schema."""
    if _is_core(found):
        return _errors(_core(found["apiVersion"], found["kind"], version), found)
    errors = _errors(_custom(_path(found)), found)
    pod = _core("v1", "Pod", version)
    # Custom kinds hold whole pods: those are held against Kubernetes' own schema, too.
    whole = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}}
    return errors + [
        error for each in pods_of(found) for error in _errors(pod, whole | {"spec": each})
    ]  # fmt: skip


def check(found: dict[str, Any], version: str = NEWEST) -> None:
    """``errors_of`` has none."""
    assert errors_of(found, version) == [], found["metadata"]["name"]


def has_schema(found: dict[str, Any]) -> bool:
    """Whether there is something to hold it against."""
    try:
        errors_of(found)
    except FileNotFoundError:
        return False
    return True


def pods_of(found: Any) -> list[dict[str, Any]]:
    """The specs of pods anywhere within an object; Dynamo's main container as their first."""
    if isinstance(found, list):
        return [pod for each in found for pod in pods_of(each)]
    if not isinstance(found, dict):
        return []
    if "mainContainer" in found:
        rest = {k: v for k, v in found.items() if k != "mainContainer"}
        return [rest | {"containers": [found["mainContainer"]]}]
    if "containers" in found:
        return [found]
    return [pod for each in found.values() for pod in pods_of(each)]


def _is_core(found: dict[str, Any]) -> bool:
    group = found["apiVersion"].rpartition("/")[0]
    own = "." not in group or group.endswith((".k8s.io", ".kubernetes.io"))
    return own and not _path(found).exists()


def _path(found: dict[str, Any]) -> Path:
    version = found["apiVersion"].rpartition("/")[2]
    name = f"{found['kind'].lower()}_{version}.json"
    return _OURS / name if (_OURS / name).exists() else _GIVEN / name


def _errors(validator: Any, found: dict[str, Any]) -> list[str]:
    return [
        f"{'/'.join(map(str, error.instance_path))}: {error.message}"
        for error in validator.iter_errors(found)
    ]


@functools.cache
def _custom(path: Path) -> Any:
    return jsonschema_rs.Draft7Validator(json.loads(path.read_text()))


@functools.cache
def _core(api: str, kind: str, version: str) -> Any:
    group, _, number = api.rpartition("/")
    name = "-".join(filter(None, (kind.lower(), group.partition(".")[0], number)))
    schema = _strict(version).joinpath(f"{name}.json").read_text()
    return jsonschema_rs.Draft202012Validator(
        json.loads(schema), registry=_registry(version)
    )


@functools.cache
def _registry(version: str) -> Any:
    text = _strict(version).joinpath("_definitions.json").read_text()
    definitions = json.loads(text)
    return jsonschema_rs.Registry([(definitions["$id"], definitions)])


def _strict(version: str) -> Any:
    base = resources.files("kubernetes_validate").joinpath("kubernetes-json-schema")
    return base.joinpath(f"v{version}-local-strict")
