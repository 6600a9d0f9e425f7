"""``cluster.yaml``, as the probe writes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from lemnos.errors import UsageError
from lemnos.paths import replace_file
from lemnos.spec.cluster import Cluster

HEAD = "# Written by 'lemnos probe'; 'lemnos plan --cluster THIS_FILE' reads it."
_WIDTH = 100


def write_cluster(path: Path, cluster: Cluster, *, force: bool = False) -> None:
    """Write the file; one that an earlier probe wrote is replaced, another only by ``force``."""
    if not force and path.exists() and not _is_ours(path):
        raise UsageError(
            "exists, and no probe wrote it",
            where=str(path),
            fix="choose another name, or --force to replace it",
        )
    if not path.parent.is_dir():
        raise UsageError("is no directory", where=str(path.parent), fix="make it first")
    replace_file(path, cluster_yaml(cluster).encode())


def cluster_yaml(cluster: Cluster) -> str:
    """The document, without what is not known: it says the same when it is read again."""
    data = cluster.model_dump(mode="json", exclude_defaults=True)
    data = {"version": cluster.version, "name": cluster.name, **data}
    text = yaml.dump(
        _shaped(data), Dumper=_Dumper, sort_keys=False, width=_WIDTH, allow_unicode=True
    )
    return f"{HEAD}\n{text}"


def _is_ours(path: Path) -> bool:
    try:
        with path.open(encoding="utf-8", errors="replace") as handle:
            return handle.readline().strip() == HEAD
    except OSError:
        return False


class _Line(dict[str, Any]):
    """A mapping that is short enough for one line."""


class _Row(list[Any]):
    """A list of numbers: one line."""


class _Dumper(yaml.SafeDumper):
    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)  # lists are indented below their key


_Dumper.add_representer(
    _Line,
    lambda dumper, data: dumper.represent_mapping(
        "tag:yaml.org,2002:map", data, flow_style=True
    ),
)
_Dumper.add_representer(
    _Row,
    lambda dumper, data: dumper.represent_sequence(
        "tag:yaml.org,2002:seq", data, flow_style=True
    ),
)


def _shaped(data: Any) -> Any:
    """``data`` with its short leaves on lines of their own."""
    if isinstance(data, list):
        if data and all(isinstance(item, int) for item in data):
            return _Row(data)
        return [
            _row(item) if isinstance(item, dict) else _shaped(item) for item in data
        ]
    if isinstance(data, dict):
        return {key: _shaped(value) for key, value in data.items()}
    return data


def _row(data: dict[str, Any]) -> Any:
    """An item of a list: on one line if nothing is nested in it and it is short."""
    nested = any(isinstance(value, dict | list) for value in data.values())
    if nested or len(str(data)) > 2 * _WIDTH:
        return _shaped(data)
    return _Line(data)
