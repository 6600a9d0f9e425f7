"""The ledger in a real PostgreSQL, and what is left of it when its process is killed."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from lemnos.errors import LemnosError
from lemnos.gateway.ledger import Ledger, Total, sqlite_url
from tests import postgres
from tests.entries import ENTRY, entry, refused, spent
from tests.waiting import until

ROOT = Path(__file__).parents[3]
DAY = 86_400


@pytest.fixture(scope="module")
def server() -> Iterator[postgres.Server]:
    if postgres.PROGRAMS is None:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    pytest.importorskip("psycopg", reason="install lemnos[postgres]")
    with postgres.serving() as server:
        yield server


@pytest.fixture
def url(server: postgres.Server) -> str:
    """A database without a ledger."""
    asked(server.url, "drop table if exists lemnos_ledger, lemnos_ledger_meta")
    return server.url


def asked(url: str, *statements: str) -> list[tuple[object, ...]]:
    """The rows that the last statement gives."""
    scheme = "postgresql+psycopg" if url.startswith("postgresql") else "sqlite"
    engine = sa.create_engine(sa.make_url(url).set(drivername=scheme))
    rows: list[tuple[object, ...]] = []
    with engine.begin() as connection:
        for statement in statements:
            result = connection.exec_driver_sql(statement)
            rows = [tuple(row) for row in result] if result.returns_rows else []
    engine.dispose()
    return rows


def count(url: str) -> int:
    return int(str(asked(url, "select count(*) from lemnos_ledger")[0][0]))


@pytest.mark.bed
def test_rows_and_sums(url: str, server: postgres.Server) -> None:
    ledger = Ledger(url)
    midnight = 20_000 * DAY
    ledger.record(ENTRY)
    ledger.record(entry(at=midnight - 1, cost_usd=0.5, input_tokens=2**40))
    ledger.record(entry(at=midnight, cost_usd=0.25, input_tokens=None))
    ledger.record(refused(at=midnight))
    ledger.close()
    row = asked(url, "select * from lemnos_ledger where number = 0")[0][2:]
    assert row == (
        int(ENTRY.at // DAY), ENTRY.at, "r1", "app", "qwen", "here", "replica",
        "Qwen/Qwen3", "chat", True, 200, "ok", 1, 100, 20, 60, 0.03, 0.02, 0.4, None, 0.25,
    )  # fmt: skip
    reader = Ledger(server.socket_url)
    assert spent(reader, "app", 0) == 0.75
    assert spent(reader, "app", midnight) == 0.25
    assert spent(reader, "nobody", 0) == 0.0
    assert reader.totals(0, "day")[:2] == [
        Total("2024-10-03", 1, 0, 2**40, 20, 60, 0.5, 0.25),
        Total("2024-10-04", 2, 1, 0, 20, 60, 0.25, 0.25),
    ]
    assert [(one.name, one.requests) for one in reader.totals(0, "key")] == [
        (None, 1),
        ("app", 3),
    ]
    reader.close()


@pytest.mark.bed
def test_gateways_that_start_together_share_a_database(url: str) -> None:
    ready = threading.Barrier(4)

    def gateway() -> None:
        ready.wait()
        ledger = Ledger(url)
        for _ in range(25):
            ledger.record(ENTRY)
        ledger.close()

    threads = [threading.Thread(target=gateway) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert count(url) == 100
    assert asked(url, "select * from lemnos_ledger_meta") == [(1,)]


@pytest.mark.bed
def test_a_server_that_ends_and_comes_back(
    url: str, server: postgres.Server, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    ledger = Ledger(url)
    ledger.record(entry(request_id="before"))
    until(lambda: not ledger.waiting())
    server.stop()
    for number in range(5):
        ledger.record(entry(request_id=str(number)))
    until(lambda: "entries wait for it" in caplog.text)
    assert ledger.waiting() == 5
    server.start()
    until(lambda: not ledger.waiting())
    assert count(url) == 6
    assert caplog.text.count("entries wait for it") == 1
    assert "is written again" in caplog.text
    assert server.password not in caplog.text
    ledger.close()


@pytest.mark.bed
def test_text_that_postgresql_cannot_hold_stops_no_other_entry(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    ledger = Ledger(url)
    for name in ("a", "\0", "\ud800", "b"):
        ledger.record(entry(request_id=name))
    ledger.close()
    names = asked(url, "select request_id from lemnos_ledger order by number")
    assert names == [("a",), ("b",)]
    assert caplog.text.count("an entry cannot be written") == 2


@pytest.mark.bed
def test_a_wrong_password_is_not_told(
    server: postgres.Server, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    wrong = server.url.replace(server.password, "wr0ng-secret")
    with pytest.raises(LemnosError, match="password authentication failed") as error:
        Ledger(wrong)
    assert error.value.where == f"postgresql://127.0.0.1:{server.port}/postgres"
    assert "wr0ng-secret" not in str(error.value) + caplog.text


@pytest.mark.bed
def test_a_user_who_may_not_write_is_told(url: str) -> None:
    role = "create role reader login password 'reads-only'"
    asked(url, "drop role if exists reader", role)
    reader = sa.make_url(url).set(username="reader", password="reads-only")
    with pytest.raises(LemnosError, match="permission denied"):
        Ledger(reader.render_as_string(hide_password=False))


# Processes that are ended

CHILD = """
import os, signal, sys, threading
from lemnos.gateway.ledger import Ledger
from tests.entries import entry

ledger, stop, number = Ledger(os.environ["LEDGER_URL"]), threading.Event(), 0
signal.signal(signal.SIGTERM, lambda *_: stop.set())
while not stop.wait(0.0005):
    for _ in range(20):
        ledger.record(entry(request_id=str(number)))
        number += 1
ledger.close()
print(number)
"""


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.bed)])
def any_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return sqlite_url(tmp_path / "ledger.db")
    return str(request.getfixturevalue("url"))


@pytest.fixture
def child(any_url: str) -> Iterator[subprocess.Popen[str]]:
    """A process that records without an end, and whose first rows are there."""
    Ledger(any_url).close()
    with subprocess.Popen(
        [sys.executable, "-c", CHILD],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"LEDGER_URL": any_url, "PYTHONPATH": str(ROOT)},
    ) as process:
        try:
            until(lambda: count(any_url))
            yield process
        finally:
            process.kill()


def test_nothing_is_lost_on_sigterm(child: subprocess.Popen[str], any_url: str) -> None:
    child.terminate()
    said, _ = child.communicate()
    assert child.returncode == 0
    assert count(any_url) == int(said) > 0


def test_the_ledger_is_whole_after_sigkill(
    child: subprocess.Popen[str], any_url: str
) -> None:
    child.kill()
    child.wait()
    ledger = Ledger(any_url)
    ledger.record(ENTRY)
    ledger.close()
    rows = asked(any_url, "select request_id from lemnos_ledger order by writer, at")
    numbers = sorted(int(str(name)) for (name,) in rows if name != ENTRY.request_id)
    assert numbers == list(range(len(numbers)))
    assert len(rows) == len(numbers) + 1
