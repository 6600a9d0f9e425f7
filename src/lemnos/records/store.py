"""The only database: records of runs, deployments, their revisions and events.

SQLite in the state directory, through SQLAlchemy. The journal is the default rollback
journal, not WAL, which does not work on network file systems. Every write is one short
transaction, so a process that is killed leaves the database whole.
"""

from __future__ import annotations

import contextlib
import json
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from pydantic import ValidationError

from lemnos import paths
from lemnos.errors import LemnosError, UsageError, near
from lemnos.spec.base import Value
from lemnos.spec.plan import Plan
from lemnos.spec.record import Record
from lemnos.spec.status import Event, FailureSeen, Phase

SCHEMA_VERSION = 2

V = TypeVar("V", bound=Value)

_tables = sa.MetaData()

_meta = sa.Table("meta", _tables, sa.Column("schema_version", sa.Integer))
_records = sa.Table(
    "records",
    _tables,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("document", sa.Text, nullable=False),
)
_deployments = sa.Table(
    "deployments",
    _tables,
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("revision", sa.Integer, nullable=False),
    sa.Column("url", sa.String, nullable=False),
    sa.Column("desired", sa.String, nullable=False),
    sa.Column("restarts_wanted", sa.Integer, nullable=False, default=0),
    sa.Column("phase", sa.String, nullable=False),
    sa.Column("stage", sa.String, nullable=False, default=""),
    sa.Column("state", sa.Text, nullable=False, default=""),
    sa.Column("replicas", sa.Integer),  # what people asked for; NULL: as planned
    sa.Column("supervisor", sa.Text, nullable=False, default=""),
)
_revisions = sa.Table(
    "revisions",
    _tables,
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("revision", sa.Integer, primary_key=True),
    sa.Column("created", sa.Float, nullable=False),
    sa.Column("plan", sa.Text, nullable=False),
    sa.Column("served_at", sa.Float),  # NULL: it has not served
    sa.Column("failed", sa.Text, nullable=False, server_default=""),  # why
    sa.Column("copy_of", sa.Integer),  # the revision that it brought back
)
_failures = sa.Table(
    "failures",
    _tables,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("name", sa.String, nullable=False, index=True),
    sa.Column("revision", sa.Integer, nullable=False),
    sa.Column("job", sa.String, nullable=False),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("why", sa.Text, nullable=False),
    sa.Column("lines", sa.Text, nullable=False),  # JSON
)
_events = sa.Table(
    "events",
    _tables,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("name", sa.String, nullable=False, index=True),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("text", sa.Text, nullable=False),
)


class Store:
    """The database of one state directory. Methods raise LemnosError, never SQL errors."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or paths.state_dir() / "lemnos.db"
        self._engine = sa.create_engine(
            f"sqlite:///{self.path}",
            connect_args={"timeout": 30},
            poolclass=sa.pool.NullPool,
        )
        with self._transaction() as connection:
            _tables.create_all(connection)
            version = connection.scalar(sa.select(_meta.c.schema_version))
            if version is None:
                connection.execute(_meta.insert().values(schema_version=SCHEMA_VERSION))
            elif version == 1:
                _from_version_1(connection)
        if version and version > SCHEMA_VERSION:
            raise LemnosError(
                f"was written by a newer lemnos (schema {version}; this one knows {SCHEMA_VERSION})",
                where=str(self.path),
                fix="upgrade lemnos, or set LEMNOS_HOME to another directory",
            )

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sa.Connection]:
        """A transaction that holds the write lock from its start, so that reads in it stay true."""
        try:
            with self._engine.connect() as connection:
                connection.exec_driver_sql("BEGIN IMMEDIATE")
                yield connection
                connection.commit()
        except sa.exc.DatabaseError as error:
            raise LemnosError(
                f"the state database cannot be used: {error.orig}",
                where=str(self.path),
                fix="check the disk's space and permissions; if the file is damaged, move it away "
                "(`lemnos up` starts a new one; models are kept elsewhere)",
            ) from None

    # Records

    def add_record(self, record: Record) -> None:
        """Keep ``record`` for good."""
        row = {"id": record.id, "document": record.model_dump_json()}
        with self._transaction() as connection:
            connection.execute(_records.insert().values(row))

    def records(self, kind: str | None = None) -> list[Record]:
        """All records, oldest first; of one ``kind`` if given."""
        query = sa.select(_records.c.document).order_by(_records.c.id)
        with self._transaction() as connection:
            rows = [_record(text) for text in connection.scalars(query)]
        return [record for record in rows if kind in (None, record.kind)]

    def record(self, id_: str) -> Record:
        """One record by its id, or the only one whose id begins so, or ``last``."""
        records = self.records()
        if id_ == "last" and records:
            return records[-1]
        found = [r for r in records if r.id.startswith(id_)]
        exact = [r for r in found if r.id == id_]
        if len(exact or found) == 1:
            return (exact or found)[0]
        ids = [r.id for r in records]
        if found:
            raise UsageError(
                f"{len(found)} records begin with '{id_}'",
                fix=", ".join(r.id for r in found),
            )
        raise UsageError(
            f"no record '{id_}'",
            fix=near(id_, ids) or "`lemnos records ls` lists them",
        )

    # Deployments

    def add_revision(self, plan: Plan, url: str, copy_of: int | None = None) -> int:
        """A new revision of ``plan.name``, wanted running; gives its number.

        The deployment that there is already goes on with it; else there is one from now on.
        """
        with self._transaction() as connection:
            own = _revisions.c.name == plan.name
            last = connection.scalar(
                sa.select(sa.func.max(_revisions.c.revision)).where(own)
            )
            revision = (last or 0) + 1
            connection.execute(
                _revisions.insert().values(
                    name=plan.name,
                    revision=revision,
                    created=time.time(),
                    plan=plan.model_dump_json(),
                    copy_of=copy_of,
                )
            )
            values = {"revision": revision, "url": url, "desired": "running"}
            there = _deployments.c.name == plan.name
            done = connection.execute(_deployments.update().where(there).values(values))
            if not done.rowcount:
                values |= {"name": plan.name, "phase": Phase.launching}
                connection.execute(_deployments.insert().values(values))
        return int(revision)

    def want_revision(self, name: str, revision: int) -> None:
        """Want a revision that there is already."""
        self.update(name, revision=revision, desired="running")

    def refuse_revision(self, name: str, revision: int, back: int, why: str) -> None:
        """Note that a revision failed, and want ``back`` again, unless another is wanted already."""
        with self._transaction() as connection:
            connection.execute(
                _revisions.update()
                .where(_revisions.c.name == name, _revisions.c.revision == revision)
                .values(failed=why)
            )
            connection.execute(
                _deployments.update()
                .where(_deployments.c.name == name, _deployments.c.revision == revision)
                .values(revision=back)
            )

    def revision_failed(self, name: str, revision: int) -> str:
        """Why a revision failed; empty: it has not."""
        rows = self.revisions(name)
        return next((str(r["failed"]) for r in rows if r["revision"] == revision), "")

    def revision_serves(self, name: str, revision: int) -> None:
        """Note that a revision serves from now on."""
        with self._transaction() as connection:
            connection.execute(
                _revisions.update()
                .where(_revisions.c.name == name, _revisions.c.revision == revision)
                .values(served_at=time.time(), failed="")
            )

    def revision_plan(self, name: str, revision: int) -> tuple[Plan, float]:
        """A revision's plan and when it was made. Raises UsageError where there is none."""
        query = sa.select(_revisions.c.plan, _revisions.c.created).where(
            _revisions.c.name == name, _revisions.c.revision == revision
        )
        with self._transaction() as connection:
            row = connection.execute(query).first()
        if row is None:
            raise UsageError(
                f"'{name}' has no revision {revision}", fix=f"lemnos history {name}"
            )
        return _plan(row.plan), float(row.created)

    def revisions(self, name: str) -> list[dict[str, Any]]:
        """Every revision of ``name``, oldest first: its columns."""
        query = sa.select(_revisions).where(_revisions.c.name == name)
        with self._transaction() as connection:
            rows = connection.execute(query.order_by(_revisions.c.revision)).mappings()
            return [dict(row) for row in rows]

    def add_failure(
        self, name: str, revision: int, job: str, why: str, lines: list[str]
    ) -> None:
        """Keep that ``job`` failed, with what its log said."""
        with self._transaction() as connection:
            connection.execute(
                _failures.insert().values(
                    name=name,
                    revision=revision,
                    job=job,
                    at=time.time(),
                    why=why,
                    lines=json.dumps(lines),
                )
            )

    def failures(self, name: str) -> list[FailureSeen]:
        """What failed of ``name``, oldest first."""
        query = sa.select(_failures).where(_failures.c.name == name)
        with self._transaction() as connection:
            rows = connection.execute(query.order_by(_failures.c.id)).mappings()
            return [
                FailureSeen(
                    revision=row["revision"],
                    job=row["job"],
                    at=row["at"],
                    why=row["why"],
                    lines=tuple(json.loads(row["lines"])),
                )
                for row in rows
            ]

    def deployments(self) -> list[dict[str, Any]]:
        """Every deployment's row with its revision's ``plan`` and ``created``, by name."""
        query = (
            sa.select(_deployments, _revisions.c.plan, _revisions.c.created)
            .join(
                _revisions,
                (_revisions.c.name == _deployments.c.name)
                & (_revisions.c.revision == _deployments.c.revision),
            )
            .order_by(_deployments.c.name)
        )
        with self._transaction() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    def deployment(self, name: str) -> dict[str, Any] | None:
        """One deployment's row, or None."""
        return next((row for row in self.deployments() if row["name"] == name), None)

    def update(self, name: str, **columns: Any) -> None:
        """Change columns of a deployment (``desired``, ``phase``, ``state``, ...)."""
        with self._transaction() as connection:
            connection.execute(
                _deployments.update()
                .where(_deployments.c.name == name)
                .values(**columns)
            )

    def ask_restart(self, name: str) -> None:
        """Count one more restart that somebody asked for."""
        column = _deployments.c.restarts_wanted
        with self._transaction() as connection:
            connection.execute(
                _deployments.update()
                .where(_deployments.c.name == name)
                .values(restarts_wanted=column + 1)
            )

    def forget(self, name: str) -> None:
        """Remove a deployment; its revisions and events stay as history."""
        with self._transaction() as connection:
            connection.execute(_deployments.delete().where(_deployments.c.name == name))

    def add_event(self, name: str, text: str) -> None:
        """Note that ``text`` happened to ``name`` now."""
        with self._transaction() as connection:
            connection.execute(
                _events.insert().values(name=name, at=time.time(), text=text)
            )

    def events(self, name: str, *, since: float = 0.0) -> list[Event]:
        """What happened to ``name`` since an epoch second, oldest first."""
        query = (
            sa.select(_events.c.at, _events.c.text)
            .where(_events.c.name == name, _events.c.at >= since)
            .order_by(_events.c.id)
        )
        with self._transaction() as connection:
            return [Event(at=at, text=text) for at, text in connection.execute(query)]


def _from_version_1(connection: sa.Connection) -> None:
    """Columns that came later. What ran under version 1 is adopted as it is."""
    for table, column in (
        ("deployments", "replicas INTEGER"),
        ("revisions", "served_at FLOAT"),
        ("revisions", "failed TEXT NOT NULL DEFAULT ''"),
        ("revisions", "copy_of INTEGER"),
    ):
        connection.exec_driver_sql(f"ALTER TABLE {table} ADD COLUMN {column}")
    connection.execute(_meta.update().values(schema_version=SCHEMA_VERSION))


def _plan(text: str) -> Plan:
    fix = "it was written by another version of lemnos: `lemnos up` with the spec makes a new one"
    return _read(Plan, text, "a revision's plan", fix)


def new_record_id(now: float) -> str:
    """``20261121T043657-3f2a9c``: sorts by time, and is unique without a counter."""
    return time.strftime("%Y%m%dT%H%M%S", time.gmtime(now)) + "-" + uuid.uuid4().hex[:6]


def _record(text: str) -> Record:
    fix = "it was written by another version of lemnos; use that version to read it"
    return _read(Record, text, "a record", fix)


def _read(kind: type[V], text: str, what: str, fix: str) -> V:
    """A stored document. Raises LemnosError for one that this version cannot read."""
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        why = error.errors()[0]["msg"]
        raise LemnosError(f"{what} cannot be read: {why}", fix=fix) from None
