"""The ledger in SQLite: what is written, what is summed, and a database that is away."""

from __future__ import annotations

import logging
import sqlite3
import threading
from pathlib import Path

import pytest

from lemnos.errors import LemnosError, UsageError
from lemnos.gateway import ledger as module
from lemnos.gateway.ledger import Ledger, Total, sqlite_url
from tests.entries import ENTRY, entry, refused, spent
from tests.waiting import until

DAY = 86_400


def rows(path: Path, columns: str = "request_id") -> list[tuple[object, ...]]:
    with sqlite3.connect(path) as connection:
        return connection.execute(
            f"select {columns} from lemnos_ledger order by number"
        ).fetchall()


def test_every_column_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    ledger = Ledger(sqlite_url(path))
    ledger.record(ENTRY)
    ledger.record(refused(request_id="r2"))
    ledger.close()
    assert rows(path, "*")[0][1:] == (
        0, int(ENTRY.at // DAY), ENTRY.at, "r1", "app", "qwen", "here", "replica",
        "Qwen/Qwen3", "chat", 1, 200, "ok", 1, 100, 20, 60, 0.03, 0.02, 0.4, None, 0.25,
    )  # fmt: skip
    nulls = rows(path, "key, target, input_tokens, ttft_s, tpot_s, compare_usd")[1]
    assert nulls == (None,) * 6


def test_it_is_written_without_being_closed(tmp_path: Path) -> None:
    ledger = Ledger(sqlite_url(tmp_path / "ledger.db"))
    for number in range(3):
        ledger.record(entry(request_id=str(number)))
    until(lambda: not ledger.waiting())
    assert rows(tmp_path / "ledger.db") == [("0",), ("1",), ("2",)]
    ledger.close()
    assert module.EVERY_S <= 0.5  # a SIGKILL may lose a second


def test_closing_writes_all_however_many_they_are(tmp_path: Path) -> None:
    ledger = Ledger(sqlite_url(tmp_path / "ledger.db"))
    wanted = [(str(number),) for number in range(3 * module.BATCH + 7)]
    for (number,) in wanted:
        ledger.record(entry(request_id=number))
    ledger.close()
    assert rows(tmp_path / "ledger.db") == wanted


def test_sums(tmp_path: Path) -> None:
    ledger = Ledger(sqlite_url(tmp_path / "ledger.db"))
    midnight = 20_000 * DAY
    ledger.record(entry(at=midnight - 1, cost_usd=0.5))
    ledger.record(entry(at=midnight, cost_usd=0.25, compare_usd=0.5))
    unreported = entry(at=midnight + 9, target="novita", input_tokens=None)
    ledger.record(unreported)
    ledger.record(refused(at=midnight + 10, model="other"))
    ledger.close()
    reader = Ledger(sqlite_url(tmp_path / "ledger.db"))
    assert spent(reader, "app", 0) == 0.75
    assert spent(reader, "app", midnight) == 0.25
    assert spent(reader, "nobody", 0) == 0.0
    assert reader.totals(0, "day") == [
        Total("2024-10-03", 1, 0, 100, 20, 60, 0.5, 0.25),
        Total("2024-10-04", 3, 1, 100, 40, 120, 0.25, 0.75),
    ]
    assert [(one.name, one.requests) for one in reader.totals(midnight, "key")] == [
        (None, 1),
        ("app", 2),
    ]
    names = [[one.name for one in reader.totals(0, by)] for by in ("model", "target")]
    assert names == [["other", "qwen"], [None, "here", "novita"]]
    assert reader.totals(midnight + DAY, "key") == []
    reader.close()


def test_two_gateways_write_to_one_file(tmp_path: Path) -> None:
    url = sqlite_url(tmp_path / "ledger.db")
    ledgers = [Ledger(url) for _ in range(2)]
    for ledger in ledgers:
        for _ in range(50):
            ledger.record(ENTRY)
    for ledger in ledgers:
        ledger.close()
    assert len(rows(tmp_path / "ledger.db")) == 100


def test_entries_wait_for_a_database_that_is_away(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BATCH", 2)
    folder, gone = tmp_path / "there", tmp_path / "gone"
    folder.mkdir()
    ledger = Ledger(sqlite_url(folder / "ledger.db"))
    folder.rename(gone)
    for number in range(5):
        ledger.record(entry(request_id=str(number)))
    until(lambda: "entries wait for it" in caplog.text)
    assert ledger.waiting() == 5
    folder.mkdir()  # another database comes back, without tables
    until(lambda: not ledger.waiting())
    assert len(rows(folder / "ledger.db")) == 5
    assert "is written again" in caplog.text
    ledger.close()


def test_a_locked_database_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    ledger = Ledger(sqlite_url(path))
    with sqlite3.connect(path, isolation_level=None, check_same_thread=False) as other:
        other.execute("begin exclusive")
        ledger.record(ENTRY)
        closing = threading.Thread(target=ledger.close)
        closing.start()
        until(lambda: ledger._batch)  # it tries
        other.execute("rollback")
        closing.join()
    assert len(rows(path)) == 1


def test_the_oldest_are_dropped_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "KEPT", 3)
    folder = tmp_path / "there"
    folder.mkdir()
    ledger = Ledger(sqlite_url(folder / "ledger.db"))
    folder.rename(tmp_path / "gone")
    ledger.record(entry(request_id="first"))
    until(lambda: "entries wait for it" in caplog.text)
    for number in range(10):
        ledger.record(entry(request_id=str(number)))
    (tmp_path / "gone").rename(folder)
    until(lambda: not ledger.waiting())
    # The first was under way already.
    assert rows(folder / "ledger.db") == [("first",), ("7",), ("8",), ("9",)]
    assert "7 entries of the ledger were dropped" in caplog.text
    ledger.close()


def test_what_cannot_be_written_at_the_end_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "there"
    folder.mkdir()
    ledger = Ledger(sqlite_url(folder / "ledger.db"))
    folder.rename(tmp_path / "gone")
    ledger.record(ENTRY)
    ledger.close(timeout_s=0.1)
    assert "1 entries of the ledger are lost" in caplog.text
    until(lambda: not ledger._thread.is_alive())


def test_an_entry_that_cannot_be_written_stops_no_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ledger = Ledger(sqlite_url(tmp_path / "ledger.db"))
    for name in ("a", "\ud800", "b"):
        ledger.record(entry(request_id=name))
    ledger.close()
    assert rows(tmp_path / "ledger.db") == [("a",), ("b",)]
    assert "an entry cannot be written: UnicodeEncodeError" in caplog.text


def test_a_newer_ledger_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    Ledger(sqlite_url(path)).close()
    with sqlite3.connect(path) as connection:
        connection.execute("update lemnos_ledger_meta set schema_version = 99")
    with pytest.raises(LemnosError, match="newer lemnos"):
        Ledger(sqlite_url(path))


def test_no_entry_is_written_twice(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    ledger = Ledger(sqlite_url(path))
    ledger.close()
    ledger.record(ENTRY)
    batch = ledger._take()
    for _ in range(
        2
    ):  # as after a transaction of which nobody knows whether it was done
        ledger._insert_rows(batch)
    assert len(rows(path)) == 1


# URLs


@pytest.mark.parametrize(
    "url",
    [
        "mysql://me:s3cret@host/db",
        "s3cret",
        "sqlite://",
        "postgresql://me:s3cret@host:port/db",
        "",
    ],
)
def test_urls_that_cannot_be_used_are_not_repeated(url: str) -> None:
    with pytest.raises(UsageError) as error:
        Ledger(url)
    assert "s3cret" not in str(error.value)
    assert "postgresql://USER:PASSWORD@HOST/DATABASE" in error.value.fix


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:s3cret@127.0.0.1:9/db",
        "postgres://127.0.0.1:9/db?user=me&password=s3cret",
        "postgresql+psycopg://me:s3cret@/db?host=/nowhere/s3cret",
    ],
)
def test_no_password_in_errors(url: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    pytest.importorskip("psycopg")
    with pytest.raises(LemnosError) as error:
        Ledger(url)
    said = str(error.value).replace("nowhere/s3cret", "")
    assert "s3cret" not in said + repr(error.value) + caplog.text
    assert "the ledger cannot be used" in error.value.what


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(LemnosError, match="unable to open") as error:
        Ledger(sqlite_url(tmp_path / "no" / "ledger.db"))
    assert error.value.where == str(tmp_path / "no" / "ledger.db")


def test_the_driver_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "psycopg", None)
    with pytest.raises(LemnosError, match="driver is not installed"):
        Ledger("postgresql://me@127.0.0.1:9/db")
