"""Every configuration that was applied, and the way back.

```
 gateways/NAME/targets.json          the table in force, which the running gateway watches
               revisions/0007.json   what was applied, when, and why
```

A revision is written before the table is replaced, and the table is replaced as a whole: whoever
is killed in between leaves the old table in force.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from lemnos import leases, paths
from lemnos.errors import LemnosError, UsageError, near
from lemnos.gateway import compile as compiling
from lemnos.gateway.keys import read_keys
from lemnos.spec.base import Value
from lemnos.spec.gateway import ListenSpec
from lemnos.spec.targets import ClientKey, TargetTable


class Revision(Value):
    """A table that was applied, and how its gateway is started."""

    at: float
    """Epoch seconds."""
    why: str
    """``apply gateway.yaml``, ``rollback to 3``."""
    source: str
    """The file that it came from."""
    listen: ListenSpec
    ledger: str | None = None
    keys_file: str | None = None
    table: TargetTable

    @property
    def number(self) -> int:
        return self.table.revision


@dataclass(frozen=True)
class GatewayFiles:
    """Where a gateway keeps what; private to its owner."""

    directory: Path

    @classmethod
    def named(cls, name: str) -> GatewayFiles:
        """Of the gateway ``name``; nothing is made."""
        return cls(paths.state_dir() / "gateways" / name)

    @property
    def name(self) -> str:
        return self.directory.name

    @property
    def targets(self) -> Path:
        return self.directory / "targets.json"

    @property
    def log(self) -> Path:
        return self.directory / "gateway.log"

    def revision(self, number: int) -> Path:
        """Where a revision is kept."""
        return self.directory / "revisions" / f"{number:04}.json"


def gateways() -> list[GatewayFiles]:
    """Every gateway that was ever applied, by name."""
    found = (paths.state_dir() / "gateways").glob("*/targets.json")
    return [GatewayFiles(path.parent) for path in sorted(found)]


def existing(name: str) -> GatewayFiles:
    """The gateway ``name``; UsageError where nothing was applied under that name."""
    files = GatewayFiles.named(name)
    if files.targets.exists():
        return files
    names = [each.name for each in gateways()]
    raise UsageError(
        f"no gateway '{name}'",
        fix=near(name, names)
        or (f"there are: {', '.join(names)}" if names else "`lemnos gateway run FILE`"),
    )


def history(files: GatewayFiles) -> list[Revision]:
    """Every revision, oldest first."""
    paths_ = sorted(files.revision(0).parent.glob("[0-9]*.json"), key=_number)
    return [_read(path) for path in paths_]


def current(files: GatewayFiles) -> Revision | None:
    """The revision in force, or None before the first."""
    try:
        table = TargetTable.model_validate_json(files.targets.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError:
        raise LemnosError(
            "is not a table of this lemnos",
            where=str(files.targets),
            fix="apply the gateway's file again after removing it",
        ) from None
    return _read(files.revision(table.revision))


def apply(files: GatewayFiles, wanted: Revision) -> tuple[Revision, bool]:
    """Put ``wanted`` in force under the next number: (what is in force, whether that is new).

    What was drained stays drained, and models keep the day on which they came.
    """
    with _alone(files):
        before = current(files)
        if before:
            table = carry_over(wanted.table, before.table)
            wanted = wanted.model_copy(update={"table": table})
        if before and _same(before, wanted):
            return before, False
        return _put(files, wanted), True


def rollback(files: GatewayFiles, to: int | None = None) -> Revision:
    """Put an earlier revision's content in force, under a new number; by default the one
    before. The keys are those of now: a key that was removed does not come back."""
    with _alone(files):
        before = current(files)
        if before is None:
            raise UsageError("nothing was applied yet", where=f"gateway {files.name}")
        number = before.number - 1 if to is None else to
        if number == before.number or not files.revision(number).exists():
            known = ", ".join(
                str(r.number) for r in history(files) if r.number != before.number
            )
            raise UsageError(
                f"there is no revision {number} to go back to",
                where=f"gateway {files.name}",
                fix=f"there are: {known or 'none'}",
            )
        old = _read(files.revision(number))
        keys = read_keys(Path(old.keys_file)) if old.keys_file else old.table.keys
        table = old.table.model_copy(update={"keys": keys})
        compiling.check(table, old.listen)
        new = {"table": table, "at": time.time(), "why": f"rollback to {number}"}
        return _put(files, old.model_copy(update=new))


def drain(files: GatewayFiles, target: str, *, drained: bool) -> tuple[Revision, bool]:
    """Give ``target`` nothing new, or again; UsageError where the table has none of that name."""
    with _alone(files):
        before = current(files)
        assert before is not None
        names = [each.name for each in compiling.all_targets(before.table)]
        if target not in names and not _registers(before.table, target):
            raise UsageError(
                f"no target '{target}'",
                where=f"gateway {files.name}",
                fix=near(target, names)
                or f"there are: {', '.join(names) or 'only those of deployments'}",
            )
        if (target in before.table.drained) == drained:
            return before, False
        others = tuple(name for name in before.table.drained if name != target)
        now = (*others, target) if drained else others
        table = before.table.model_copy(update={"drained": now})
        why = f"{'drain' if drained else 'undrain'} {target}"
        new = {"table": table, "at": time.time(), "why": why}
        return _put(files, before.model_copy(update=new)), True


def rekey(keys_file: Path, keys: tuple[ClientKey, ...], why: str) -> list[Revision]:
    """Put ``keys`` in force wherever a gateway names ``keys_file``: the new revisions."""
    done = []
    for files in gateways():
        with _alone(files):
            before = current(files)
            if before is None or not _names(before, keys_file):
                continue
            table = before.table.model_copy(update={"keys": keys})
            new = {"table": table, "at": time.time(), "why": why}
            done.append(_put(files, before.model_copy(update=new)))
    return done


def users_of(keys_file: Path) -> list[Revision]:
    """What is in force at the gateways that name ``keys_file``."""
    found = [current(files) for files in gateways()]
    return [each for each in found if each and _names(each, keys_file)]


def carry_over(table: TargetTable, before: TargetTable) -> TargetTable:
    """Pure: ``table`` with what ``before`` knows of the same targets and models."""
    names = {target.name for target in compiling.all_targets(table)}
    drained = tuple(
        name for name in before.drained if name in names or _registers(table, name)
    )
    created = {route.model: route.created for route in before.routes}
    routes = tuple(
        route.model_copy(update={"created": created.get(route.model, route.created)})
        for route in table.routes
    )
    return table.model_copy(update={"routes": routes, "drained": drained})


def _registers(table: TargetTable, target: str) -> bool:
    """Whether ``target`` would be a replica of a deployment that the table names."""
    deployment, slash, _ = target.partition("/")
    paths = (path for route in table.routes for path in route.registered)
    return bool(slash) and any(Path(path).parent.name == deployment for path in paths)


def _names(revision: Revision, keys_file: Path) -> bool:
    name = revision.keys_file
    return name is not None and Path(name).resolve() == keys_file.resolve()


def _same(one: Revision, other: Revision) -> bool:
    """Whether two revisions say the same, whenever and why they were applied."""
    apart = {"at": 0.0, "why": "", "table": None}
    tables = [r.table.model_copy(update={"revision": 0}) for r in (one, other)]
    copies = [r.model_copy(update=apart) for r in (one, other)]
    return tables[0] == tables[1] and copies[0] == copies[1]


def _put(files: GatewayFiles, wanted: Revision) -> Revision:
    numbers = [_number(path) for path in files.revision(0).parent.glob("[0-9]*.json")]
    table = wanted.table.model_copy(update={"revision": max(numbers, default=0) + 1})
    made = wanted.model_copy(update={"table": table})
    kept = files.revision(made.number)
    paths.replace_file(kept, made.model_dump_json(indent=1).encode(), mode=0o600)
    text = table.model_dump_json(indent=1).encode()
    paths.replace_file(files.targets, text, mode=0o600)
    return made


def _read(path: Path) -> Revision:
    try:
        return Revision.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        raise LemnosError(
            "is no revision that this lemnos can read",
            where=str(path),
            fix="apply the gateway's file again",
        ) from None


def _number(path: Path) -> int:
    return int(path.stem) if path.stem.isdigit() else 0


@contextlib.contextmanager
def _alone(files: GatewayFiles) -> Iterator[None]:
    paths.writable(files.revision(0).parent, mode=0o700)
    with leases.lease(files.directory / "apply.lease", wait_s=30):
        yield
