"""The store, on a real SQLite file."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from lemnos.errors import LemnosError, UsageError
from lemnos.records.store import SCHEMA_VERSION, Store, new_record_id
from lemnos.spec.record import BenchSpec, Record
from tests import samples


def record(id_: str, kind: str = "bench", **more: object) -> Record:
    data = {
        "id": id_,
        "kind": kind,
        "created": 1.0,
        "lemnos": "0",
        "outcome": "ok",
        "spec": BenchSpec(target="x") if kind == "bench" else samples.spec(),
        **more,
    }
    return Record.model_validate(data)


def test_records_come_back_as_they_were() -> None:
    store = Store()
    up = record("2", "up", plan=samples.plan(), measured={"ready_s": 1.5})
    store.add_record(up)
    store.add_record(record("1"))
    assert [r.id for r in Store().records()] == ["1", "2"]
    assert Store().record("2") == up
    assert [r.id for r in store.records("up")] == ["2"]


def test_a_record_is_found_by_its_beginning_or_as_the_last() -> None:
    store = Store()
    for id_ in ("20260101T1", "20260101T2", "20270101"):
        store.add_record(record(id_))
    assert store.record("2027").id == "20270101"
    assert store.record("last").id == "20270101"
    with pytest.raises(UsageError, match="2 records begin with '2026'"):
        store.record("2026")
    with pytest.raises(UsageError, match="no record '1999'"):
        store.record("1999")


def test_ids_sort_by_time_and_differ() -> None:
    assert new_record_id(1.0) != new_record_id(1.0)
    assert new_record_id(1.0) < new_record_id(2.0)


def test_each_up_is_a_revision_and_one_deployment() -> None:
    store = Store()
    assert store.add_revision(samples.plan("a"), "http://127.0.0.1:1") == 1
    store.update("a", phase="ready", stage="x")
    store.ask_restart("a")
    row = store.deployment("a")
    assert row and (row["phase"], row["restarts_wanted"]) == ("ready", 1)
    assert store.add_revision(samples.plan("a"), "http://127.0.0.1:2") == 2
    row = store.deployment("a")
    assert row and (row["phase"], row["revision"]) == ("ready", 2), "it goes on"
    assert len(store.deployments()) == 1
    store.forget("a")
    assert store.deployment("a") is None
    assert store.add_revision(samples.plan("a"), "http://127.0.0.1:2") == 3


def test_a_revision_that_failed_gives_way_to_the_one_before() -> None:
    store = Store()
    for _ in range(3):
        store.add_revision(samples.plan("a"), "http://127.0.0.1:1")
    store.revision_serves("a", 2)
    store.refuse_revision("a", 3, 2, "engine-1 ended")
    store.refuse_revision("a", 1, 2, "late news of another")
    row = store.deployment("a")
    assert row and row["revision"] == 2
    assert [bool(r["served_at"]) for r in store.revisions("a")] == [False, True, False]
    assert store.revision_failed("a", 3) == "engine-1 ended"
    store.add_failure("a", 3, "engine-1", "ended", ["one", "two"])
    (failure,) = store.failures("a")
    assert (failure.job, failure.lines) == ("engine-1", ("one", "two"))


def test_a_store_of_the_first_version_is_brought_up(tmp_path: Path) -> None:
    path = tmp_path / "lemnos.db"
    with sqlite3.connect(path) as old:
        old.executescript(
            """CREATE TABLE meta (schema_version INTEGER);
            INSERT INTO meta VALUES (1);
            CREATE TABLE deployments (name VARCHAR PRIMARY KEY, revision INTEGER NOT NULL, url VARCHAR NOT NULL,
              desired VARCHAR NOT NULL, restarts_wanted INTEGER NOT NULL, phase VARCHAR NOT NULL,
              stage VARCHAR NOT NULL, state TEXT NOT NULL, ports TEXT NOT NULL DEFAULT '{}', supervisor TEXT NOT NULL);
            CREATE TABLE revisions (name VARCHAR, revision INTEGER, created FLOAT NOT NULL, plan TEXT NOT NULL,
              PRIMARY KEY (name, revision));"""
        )
    store = Store(path)
    store.add_revision(samples.plan("a"), "http://127.0.0.1:1")
    assert Store(path).deployment("a")
    assert store.revisions("a")[0]["failed"] == ""


def test_events_are_kept_in_order() -> None:
    store = Store()
    store.add_event("a", "one")
    store.add_event("b", "other")
    store.add_event("a", "two")
    assert [e.text for e in store.events("a")] == ["one", "two"]
    assert store.events("a", since=4e9) == []


def test_a_process_killed_in_a_transaction_leaves_the_store_whole() -> None:
    store = Store()
    store.add_event("a", "before")
    code = (
        "import sqlite3, sys, os, signal\n"
        f"c = sqlite3.connect({str(store.path)!r}, isolation_level=None)\n"
        "c.execute('PRAGMA cache_size=1')\n"
        "c.execute('BEGIN IMMEDIATE')\n"
        "c.executemany('INSERT INTO events(name, at, text) VALUES (?, 0, ?)',"
        " [('a', 'x' * 1000)] * 2000)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False)
    assert done.returncode == -signal.SIGKILL
    journal = Path(f"{store.path}-journal")
    assert journal.exists(), "the crash left no journal to recover from"
    assert [e.text for e in Store().events("a")] == ["before"]


def test_a_file_that_is_no_database_is_a_sentence() -> None:
    path = Store().path
    path.write_bytes(b"not a database" * 100)
    with pytest.raises(LemnosError, match="state database cannot be used"):
        Store()


def test_a_newer_schema_is_refused() -> None:
    path = Store().path
    with sqlite3.connect(path) as connection:
        connection.execute(f"UPDATE meta SET schema_version = {SCHEMA_VERSION + 1}")
    connection.close()
    with pytest.raises(LemnosError, match="newer lemnos"):
        Store()


def test_a_record_of_another_version_is_a_sentence() -> None:
    store = Store()
    store.add_record(record("1"))
    with sqlite3.connect(store.path) as connection:
        connection.execute("""UPDATE records SET document = '{"strange": 1}'""")
    connection.close()
    with pytest.raises(LemnosError, match="a record cannot be read"):
        store.records()
