"""What ``deploy/kubernetes-rights.yaml`` allows, and which requests of a kubectl it would have refused."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import yaml

FILE = Path(__file__).parents[1] / "deploy/kubernetes-rights.yaml"
_PATH = re.compile(
    r"/api(?:s/(?P<group>[^/]+))?/v[^/]+(?:/namespaces/(?P<namespace>[^/]+))?"
    r"/(?P<plural>[^/]+)(?:/(?P<name>[^/]+)(?:/(?P<sub>[^/]+))?)?"
)
_ASKED_IN_VAIN = ("customresourcedefinitions", "namespaces")
"""kubectl goes on where it may not see them."""
Right = tuple[bool, str, str, str]
"""(in one namespace, verb, API group, resource with its subresource)."""


def allowed() -> set[Right]:
    """All rights of the file; those of its ClusterRole hold in namespaces, too."""
    found: set[Right] = set()
    for role in yaml.safe_load_all(FILE.read_text()):
        wheres = [True] if role["kind"] == "Role" else [True, False]
        found |= {
            (where, verb, group, resource)
            for rule in role["rules"]
            for where in wheres
            for verb in rule["verbs"]
            for group in rule["apiGroups"]
            for resource in rule["resources"]
        }
    return found


def rights_of(request: str) -> set[Right]:
    """Those that a request takes, ``PATCH /apis/apps/v1/namespaces/llm/deployments/x?...``: none of discovery.
    Server-side apply may create, which takes that right as well."""
    method, _, url = request.partition(" ")
    parts = urlsplit(url)
    found = _PATH.fullmatch(parts.path)
    if not found or found["plural"] in _ASKED_IN_VAIN:
        return set()
    query = parse_qs(parts.query)
    verbs = [_verb(method, bool(found["name"]), query)]
    if verbs == ["patch"] and "force" in query:
        verbs.append("create")
    resource = "/".join(filter(None, (found["plural"], found["sub"])))
    return {(bool(found["namespace"]), v, found["group"] or "", resource) for v in verbs}  # fmt: skip


def refused(requests: Iterable[str]) -> set[Right]:
    """What the file lacks for ``requests``."""
    taken = {right for each in requests for right in rights_of(each)}
    return taken - allowed()


def _verb(method: str, named: bool, query: dict[str, list[str]]) -> str:
    if method == "GET":
        watches = query.get("watch", [""])[0] in ("1", "true")
        return "watch" if watches else "get" if named else "list"
    verbs = {"POST": "create", "PUT": "update", "DELETE": "delete" if named else "deletecollection"}  # fmt: skip
    return verbs.get(method, method.lower())
