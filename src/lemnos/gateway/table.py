"""The targets table as the gateway sees it: read again whenever it is replaced."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from lemnos.errors import LemnosError
from lemnos.gateway.routing import routes_by_name
from lemnos.spec.targets import TARGETS_VERSION, ClientKey, Route, Target, TargetTable

POLL_S = 0.25
"""Between looks at the files; a stat works on network file systems, where inotify does not."""

log = logging.getLogger("lemnos.gateway")

Stamp = tuple[int, int, int]


@dataclass(frozen=True)
class View:
    """A table as requests use it; replaced as a whole."""

    table: TargetTable
    routes: dict[str, Route]
    """By every name that clients may ask for; registered replicas are among the targets."""
    keys: dict[str, ClientKey]
    """By their SHA-256."""


def view_of(
    table: TargetTable,
    registered: dict[str, TargetTable],
    placed: Mapping[str, str] | None = None,
) -> View:
    """Pure: the table with the replicas that deployments registered in tables of their own.

    ``placed`` has the base URLs of targets whose routers are ready; the other groups' are
    left out.
    """
    groups = {router.target: None for router in table.routers} | dict(placed or {})
    routes = tuple(
        _joined(_reachable(route, groups), registered) for route in table.routes
    )
    table = table.model_copy(update={"routes": routes})
    keys = {key.sha256: key for key in table.keys}
    return View(table, routes_by_name(table), keys)


def _reachable(route: Route, groups: Mapping[str, str | None]) -> Route:
    if not any(target.name in groups for target in route.targets):
        return route
    urls = [(each, groups.get(each.name, each.base_url)) for each in route.targets]
    targets = tuple(
        target.model_copy(update={"base_url": url}) for target, url in urls if url
    )
    return route.model_copy(update={"targets": targets})


def _joined(route: Route, registered: dict[str, TargetTable]) -> Route:
    joined: list[Target] = list(route.targets)
    context = route.context
    for path in route.registered:
        for other in registered[path].routes if path in registered else ():
            context = context or other.context
            joined += [_as_member(t, other.model, path) for t in other.targets]
    return route.model_copy(update={"targets": tuple(joined), "context": context})


def _as_member(target: Target, model: str, path: str) -> Target:
    """Replicas of every deployment are called engine-0: the deployment's name sets them apart."""
    name = f"{Path(path).parent.name}/{target.name}"
    return target.model_copy(update={"name": name, "model": target.model or model})


def read_table(path: Path) -> TargetTable:
    """The table at ``path``. Raises LemnosError when it cannot be used."""
    try:
        table = TargetTable.model_validate_json(path.read_bytes())
    except OSError as error:
        raise LemnosError(
            f"the targets cannot be read ({error.strerror})", where=str(path)
        ) from None
    except ValidationError as error:
        problem = error.errors()[0]
        raise LemnosError(
            f"the targets are not valid: {problem['msg']}", where=str(path)
        ) from None
    if table.version > TARGETS_VERSION:
        raise LemnosError("the targets are of a newer lemnos", where=str(path))
    return table


class WatchedTable:
    """The newest valid table of a file. A broken file leaves the old one in force."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._table = read_table(path)
        self._registered: dict[str, TargetTable] = {}
        self._stamps: dict[str, Stamp] = {str(path): _stamp(path)}
        self._placed: dict[str, str] = {}
        self._placed_anew = False
        self._read_registered()
        self.now = view_of(self._table, self._registered)

    @property
    def written(self) -> TargetTable:
        """The file's own table: without registered replicas, and with groups that are not ready."""
        return self._table

    def place(self, target: str, base_url: str | None) -> None:
        """From now on a group's target is there, or nowhere (None): its router is not ready."""
        if self._placed.get(target) == base_url:
            return
        self._placed.pop(target, None)
        if base_url:
            self._placed[target] = base_url
        self._placed_anew = True  # the next refresh tells of it
        self.now = view_of(self._table, self._registered, self._placed)

    async def watch(self, changed: Callable[[], None]) -> None:
        """Look for changes for ever; ``changed`` is called after each."""
        while True:
            await asyncio.sleep(POLL_S)
            try:
                if self.refresh():
                    changed()
            except Exception:  # the next change must still be seen
                log.exception("a change of the targets could not be taken up whole")

    def refresh(self) -> bool:
        """Read what was replaced; whether anything was."""
        table_changed = self._is_new(self._path)
        if table_changed:
            try:
                self._table = read_table(self._path)
            except LemnosError as error:
                log.warning("%s; revision %d stays", error.what, self._table.revision)
        registered_changed = self._read_registered()
        if not (table_changed or registered_changed or self._placed_anew):
            return False
        self._placed_anew = False
        self.now = view_of(self._table, self._registered, self._placed)
        return True

    def _read_registered(self) -> bool:
        """Read the tables that deployments replaced; one that went takes its replicas along."""
        wanted = {name for route in self._table.routes for name in route.registered}
        changed = False
        for name in wanted:
            if not self._is_new(Path(name)):
                continue
            changed = True
            try:
                self._registered[name] = read_table(Path(name))
            except LemnosError as error:
                gone = self._registered.pop(name, None)
                if gone:
                    log.warning("%s: %s", name, error.what)
        for name in set(self._registered) - wanted:
            del self._registered[name]
            self._stamps.pop(name, None)
        return changed

    def _is_new(self, path: Path) -> bool:
        stamp = _stamp(path)
        known = self._stamps.get(str(path))
        self._stamps[str(path)] = stamp
        return stamp != known


def _stamp(path: Path) -> Stamp:
    try:
        stat = path.stat()
    except OSError:
        return (0, 0, 0)
    return (stat.st_ino, stat.st_mtime_ns, stat.st_size)


class TargetKeys:
    """The keys of targets, from the files and variables that the table names."""

    def __init__(self) -> None:
        self._keys: dict[str, tuple[int, str]] = {}

    def of(self, target: Target) -> str | None:
        """The target's key, read again when its file was replaced. OSError if it is not there."""
        if target.key_env:
            key = os.environ.get(target.key_env, "").strip()
            if not key:
                raise FileNotFoundError(2, f"{target.key_env} is not set")
            return key
        if target.key_file is None:
            return None
        path = Path(target.key_file).expanduser()
        written = path.stat().st_mtime_ns
        known = self._keys.get(target.key_file)
        if known is None or known[0] != written:
            known = (written, path.read_text().strip())
            self._keys[target.key_file] = known
        return known[1]
