"""The ledger: a row of each request, in SQLite or, by URL, in PostgreSQL.

The hot path only appends to a queue. A thread writes what waits twice a second, in transactions
of at most BATCH rows. While the database is away, entries wait; each has a number of its own,
so that none is written twice when it is unclear whether a transaction was. Several gateways
may write to one database. SQLite has the rollback journal, as ``records/store.py`` says why.
"""

from __future__ import annotations

import contextlib
import datetime
import logging
import operator
import secrets
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import sqlalchemy as sa

from lemnos import paths
from lemnos.errors import LemnosError, UsageError
from lemnos.gateway.entry import Entry

SCHEMA_VERSION = 1
EVERY_S = 0.5
"""Between writes. What a SIGKILL loses is this and the time of one transaction."""
RETRY_S = 1.0
CLOSE_S = 10.0
BATCH = 1000
KEPT = 100_000
"""Entries that wait for a database that is away, some 60 MB; then the oldest are dropped."""
DAY_S = 86_400

log = logging.getLogger("lemnos.ledger")

Row = tuple[Any, ...]
By = Literal["key", "model", "target", "day"]

_tables = sa.MetaData()
_meta = sa.Table("lemnos_ledger_meta", _tables, sa.Column("schema_version", sa.Integer))
# An entry's fields in their order, after three columns more.
_ledger = sa.Table(
    "lemnos_ledger",
    _tables,
    sa.Column("writer", sa.String, primary_key=True),
    sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("day", sa.Integer, nullable=False),  # days since 1970, UTC
    sa.Column("at", sa.Double, nullable=False, index=True),
    sa.Column("request_id", sa.String, nullable=False),
    sa.Column("key", sa.String),
    sa.Column("model", sa.String, nullable=False),
    sa.Column("target", sa.String),
    sa.Column("target_kind", sa.String),
    sa.Column("target_model", sa.String),
    sa.Column("api", sa.String, nullable=False),
    sa.Column("streamed", sa.Boolean, nullable=False),
    sa.Column("status", sa.Integer, nullable=False),
    sa.Column("outcome", sa.String, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("input_tokens", sa.BigInteger),
    sa.Column("output_tokens", sa.BigInteger),
    sa.Column("cached_tokens", sa.BigInteger),
    sa.Column("ttft_s", sa.Double),
    sa.Column("tpot_s", sa.Double),
    sa.Column("duration_s", sa.Double, nullable=False),
    sa.Column("cost_usd", sa.Double),
    sa.Column("compare_usd", sa.Double),
)

_values = operator.attrgetter(*(field.name for field in fields(Entry)))
_PREPARING = 5366_0001
"""PostgreSQL's advisory lock under which tables are made; any number will do."""


@dataclass(frozen=True)
class Total:
    """What requests took together; ``name`` is a key's, a model's, a target's, or a day."""

    name: str | None
    requests: int
    unreported: int
    """Answers whose target reported no usage: their tokens and cost are in no sum."""
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    cost_usd: float
    compare_usd: float


def default_path() -> Path:
    """The ledger of all gateways of this user that name no other."""
    return paths.state_dir() / "ledger.db"


def sqlite_url(path: Path) -> str:
    """The URL of a ledger in a file."""
    return f"sqlite:///{path}"


class Ledger:
    """The ledger at ``url``: ``sqlite:///PATH`` or ``postgresql://USER:PASSWORD@HOST/DATABASE``.

    Raises LemnosError when it cannot be used at the start. Later, a database that is away is
    waited for, and said in the log. A password is in no message.
    """

    def __init__(self, url: str) -> None:
        self._url = _parsed(url)
        self.where = _shown(self._url)
        """The database, as it may be shown."""
        self._engine = _engine(self._url)
        insert = _insert_new(self._url)
        # As text, once, for tuples: by name, each row would cost twice as much.
        self._insert = str(insert.compile(dialect=self._engine.dialect))
        self._writer = secrets.token_hex(8)
        self._waiting: deque[Entry] = deque(maxlen=KEPT)
        self._recorded = self._taken = self._dropped = 0
        self._batch: list[Row] = []
        self._ready = self._away = False
        self._closing, self._abandoned = threading.Event(), threading.Event()
        try:
            self._prepare()
        except BaseException:
            self._engine.dispose()
            raise
        self._thread = threading.Thread(target=self._work, name="ledger", daemon=True)
        self._thread.start()

    def record(self, entry: Entry) -> None:
        """Have ``entry`` written soon. From one thread, and never blocks."""
        self._waiting.append(entry)
        self._recorded += 1

    def waiting(self) -> int:
        """Entries that are not written yet."""
        return len(self._waiting) + len(self._batch)

    def close(self, timeout_s: float = CLOSE_S) -> None:
        """Write the rest. What cannot be written in time is lost, and said in the log."""
        self._closing.set()
        self._thread.join(timeout_s)
        self._abandoned.set()
        if self._thread.is_alive() and (lost := self.waiting()):
            log.error("%d entries of the ledger are lost: %s", lost, self.where)
        self._engine.dispose()

    def spending(self, key: str, since: float) -> list[tuple[float, float]]:
        """What ``key`` cost since an epoch second, as pairs of (epoch second, US dollars): one
        for each of UTC's days, at its last request."""
        row = _ledger.c
        query = sa.select(sa.func.max(row.at), sa.func.sum(row.cost_usd))
        query = query.where(row.key == key, row.at >= since, row.cost_usd > 0)
        with self._transaction() as connection:
            sums = connection.execute(query.group_by(row.day)).all()
        return [(float(at), float(dollars)) for at, dollars in sums]

    def traffic(self) -> list[tuple[float, int, int]]:
        """Answered requests, as (epoch second, input tokens, output tokens), in their order."""
        row = _ledger.c
        query = sa.select(row.at, row.input_tokens, row.output_tokens)
        query = query.where(row.input_tokens > 0, row.output_tokens > 0)
        with self._transaction() as connection:
            rows = connection.execute(query.order_by(row.at)).all()
        return [(float(at), int(read), int(written)) for at, read, written in rows]

    def totals(self, since: float, by: By) -> list[Total]:
        """Sums since an epoch second, by name; days are UTC's, as ``2026-11-21``."""
        row = _ledger.c
        tells = (row.outcome == "ok") & (row.api != "tokenize")
        unreported = tells & row.input_tokens.is_(None)
        query = sa.select(
            row[by],
            sa.func.count(),
            sa.func.sum(sa.case((unreported, 1), else_=0)),
            *(
                sa.func.coalesce(sa.func.sum(column), 0)
                for column in (row.input_tokens, row.output_tokens, row.cached_tokens)
            ),
            sa.func.coalesce(sa.func.sum(row.cost_usd), 0.0),
            sa.func.coalesce(sa.func.sum(row.compare_usd), 0.0),
        )
        query = query.where(row.at >= since).group_by(row[by])
        with self._transaction() as connection:
            rows = connection.execute(query).all()
        found = [_total(by, *values) for values in rows]
        return sorted(found, key=lambda total: total.name or "")

    # The writer's thread

    def _work(self) -> None:
        while True:
            closing = self._closing.wait(EVERY_S)
            while self._write():
                pass
            if closing and (not self.waiting() or self._abandoned.wait(RETRY_S)):
                return

    def _write(self) -> bool:
        """Write one batch; whether there may be more that can be written now."""
        self._batch = self._batch or self._take()
        if not self._batch:
            return False
        try:
            self._insert_rows(self._batch)
        except LemnosError as error:
            self._say_away(error)
            return False
        except Exception:
            # Something that this database cannot hold (a surrogate, a NUL): the others can.
            self._insert_singly(self._batch)
        self._batch = []
        self._say_back()
        return True

    def _take(self) -> list[Row]:
        """The oldest entries that wait, as rows."""
        rows = []
        for number in range(self._taken, self._taken + min(len(self._waiting), BATCH)):
            entry = self._waiting.popleft()
            day = int(entry.at // DAY_S)
            rows.append((self._writer, number, day, *_values(entry)))
        self._taken += len(rows)
        return rows

    def _insert_rows(self, rows: list[Row]) -> None:
        if not self._ready:
            self._prepare()
        with self._transaction(write=True) as connection:
            connection.exec_driver_sql(self._insert, rows)

    def _insert_singly(self, rows: list[Row]) -> None:
        for row in rows:
            try:
                self._insert_rows([row])
            except Exception as error:
                log.error("an entry cannot be written: %s", type(error).__name__)

    def _say_away(self, error: LemnosError) -> None:
        # It may be another database that comes back: without tables, restored, empty.
        self._ready = False
        if not self._away:
            log.error("%s: %s; entries wait for it", error.where, error.what)
        self._away = True

    def _say_back(self) -> None:
        if self._away:
            log.warning("%s: is written again", self.where)
        self._away = False
        dropped = self._recorded - self._taken - len(self._waiting)
        if dropped > self._dropped:
            log.error("%d entries of the ledger were dropped", dropped - self._dropped)
            self._dropped = dropped

    # The database

    def _prepare(self) -> None:
        """Make the tables where there are none. Raises LemnosError if a newer lemnos made them."""
        with self._transaction(write=True) as connection:
            if connection.dialect.name == "postgresql":
                # Two that make one table at the same time fail there.
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_PREPARING)))
            _tables.create_all(connection)
            version = connection.scalar(sa.select(_meta.c.schema_version))
            if version is None:
                connection.execute(_meta.insert().values(schema_version=SCHEMA_VERSION))
        if version and version > SCHEMA_VERSION:
            raise LemnosError(
                f"was written by a newer lemnos (schema {version}; this one knows {SCHEMA_VERSION})",
                where=self.where,
                fix="upgrade lemnos, or name another database",
            )
        self._ready = True

    @contextlib.contextmanager
    def _transaction(self, *, write: bool = False) -> Iterator[sa.Connection]:
        try:
            with self._engine.connect() as connection:
                if write and connection.dialect.name == "sqlite":
                    connection.exec_driver_sql("BEGIN IMMEDIATE")
                yield connection
                connection.commit()
        except sa.exc.DataError:
            raise
        except sa.exc.SQLAlchemyError as error:
            raise LemnosError(
                f"the ledger cannot be used: {self._reason(error)}",
                where=self.where,
                fix="check that the database runs, and that its user may create tables and write",
            ) from None

    def _reason(self, error: sa.exc.SQLAlchemyError) -> str:
        """The driver's first line, without anything secret that it may repeat."""
        text = str(getattr(error, "orig", None) or type(error).__name__)
        for secret in _secrets(self._url):
            text = text.replace(secret, "***")
        return text.splitlines()[0]


def _parsed(url: str) -> sa.URL:
    """``url`` with its driver. A URL that cannot be read is not repeated: it may have a password."""
    try:
        parsed = sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError):
        raise UsageError(
            "the ledger's URL cannot be read",
            fix="write sqlite:///PATH or postgresql://USER:PASSWORD@HOST/DATABASE "
            "(with special characters of the password percent-encoded)",
        ) from None
    scheme = parsed.drivername
    if scheme == "sqlite" and parsed.database:
        return parsed
    if scheme in ("postgresql", "postgres", "postgresql+psycopg"):
        return parsed.set(drivername="postgresql+psycopg")
    raise UsageError(
        f"the ledger cannot be kept in '{scheme[:40]}'",
        fix="write sqlite:///PATH or postgresql://USER:PASSWORD@HOST/DATABASE",
    )


def _insert_new(url: sa.URL) -> Any:
    """The statement; each dialect takes a while to load."""
    if url.get_backend_name() == "sqlite":
        from sqlalchemy.dialects import sqlite

        return sqlite.insert(_ledger).on_conflict_do_nothing()
    from sqlalchemy.dialects import postgresql

    return postgresql.insert(_ledger).on_conflict_do_nothing()


def _secrets(url: sa.URL) -> list[str]:
    asked = url.query.get("password", ())
    listed = [asked] if isinstance(asked, str) else [*asked]
    return [text for text in (str(url.password or ""), *listed) if text]


def _shown(url: sa.URL) -> str:
    if url.get_backend_name() == "sqlite":
        return str(url.database)
    host = url.host or url.query.get("host", "localhost")
    return (
        f"postgresql://{host}{f':{url.port}' if url.port else ''}/{url.database or ''}"
    )


def _engine(url: sa.URL) -> sa.Engine:
    if url.get_backend_name() == "sqlite":
        # A connection for each transaction: a file that was replaced is noticed.
        return sa.create_engine(
            url,
            connect_args={"timeout": 30},
            poolclass=sa.pool.NullPool,
            paramstyle="qmark",
        )
    try:
        import psycopg  # noqa: F401
    except ImportError:
        raise LemnosError(
            "PostgreSQL's driver is not installed",
            fix="install lemnos[postgres], or psycopg[binary] beside lemnos",
        ) from None
    return sa.create_engine(
        url,
        connect_args=_connecting(url.query),
        paramstyle="format",
        pool_size=1,
        max_overflow=1,
        pool_pre_ping=True,
    )


def _connecting(query: Mapping[str, Any]) -> dict[str, Any]:
    """libpq's options, where the URL does not say otherwise: a dead server is noticed in 15 s."""
    options = {
        "application_name": "lemnos",
        "connect_timeout": 5,
        "keepalives_idle": 5,
        "keepalives_interval": 3,
        "keepalives_count": 3,
        "tcp_user_timeout": 10_000,
    }
    asked = {name: value for name, value in options.items() if name not in query}
    return {**asked, "prepare_threshold": None}  # poolers between lose what is prepared


def _total(by: By, name: Any, requests: int, *sums: Any) -> Total:
    if by == "day":
        name = _day(name)
    counts, dollars = sums[:4], sums[4:]
    return Total(name, requests, *map(int, counts), *map(float, dollars))


def _day(number: int) -> str:
    return (datetime.date(1970, 1, 1) + datetime.timedelta(number)).isoformat()
