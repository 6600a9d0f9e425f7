"""The targets table and the targets' keys, as files change under the gateway."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lemnos.errors import LemnosError
from lemnos.gateway.table import TargetKeys, WatchedTable, read_table
from lemnos.spec.targets import (
    TARGETS_VERSION,
    PrefillWorker,
    Route,
    Router,
    Target,
    TargetTable,
)


def replace(path: Path, text: str) -> None:
    """As a writer does it: a new file under the old name."""
    new = path.with_suffix(".new")
    new.write_text(text)
    new.replace(path)


def table(revision: int) -> str:
    return TargetTable(revision=revision).model_dump_json()


def test_the_newest_valid_table_is_in_force(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "targets.json"
    path.write_text(table(1))
    watched = WatchedTable(path)
    replace(path, table(2))
    assert watched.now.table.revision == 1
    watched.refresh()
    assert watched.now.table.revision == 2
    replace(path, '{"revision": 3, "typo": 1}')
    for _ in range(3):
        watched.refresh()
    assert watched.now.table.revision == 2
    assert len(caplog.records) == 1, "a broken table is said once"
    assert "revision 2 stays" in caplog.text
    path.unlink()
    watched.refresh()
    assert watched.now.table.revision == 2
    replace(path, table(4))
    watched.refresh()
    assert watched.now.table.revision == 4


def test_tables_that_cannot_be_used(tmp_path: Path) -> None:
    path = tmp_path / "targets.json"
    for text, says in (
        (b"\xff", "not valid"),
        (b"{}", "not valid: Field required"),
        (f'{{"revision": 1, "version": {TARGETS_VERSION + 1}}}'.encode(), "newer"),
    ):
        path.write_bytes(text)
        with pytest.raises(LemnosError, match=says):
            read_table(path)
    with pytest.raises(LemnosError, match="cannot be read"):
        read_table(tmp_path / "none")


def test_a_group_is_in_force_while_its_router_is_ready(tmp_path: Path) -> None:
    router = Router(
        target="pd",
        program="/python",
        prefill=(PrefillWorker(url="http://p", bootstrap_port=1),),
        decode=("http://d",),
        policy="random",
    )
    plain = Target(name="e", base_url="http://e")
    pd = Target(name="pd", base_url="http://127.0.0.1:0")
    path = tmp_path / "targets.json"
    routes = (Route(model="m", targets=(pd, plain)),)
    whole = TargetTable(revision=1, routes=routes, routers=(router,))
    replace(path, whole.model_dump_json())
    watched = WatchedTable(path)

    def urls() -> list[str]:
        return [target.base_url for target in watched.now.routes["m"].targets]

    assert urls() == ["http://e"] and not watched.refresh()
    watched.place("pd", "http://127.0.0.1:4711")
    assert urls() == ["http://127.0.0.1:4711", "http://e"]
    assert watched.refresh() and not watched.refresh()
    replace(path, whole.model_copy(update={"revision": 2}).model_dump_json())
    assert watched.refresh() and urls() == ["http://127.0.0.1:4711", "http://e"]
    watched.place("pd", None)
    assert urls() == ["http://e"] and watched.written.routes == routes


def test_keys_are_read_again_when_their_file_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys, path = TargetKeys(), tmp_path / "key"
    plain = Target(name="e", base_url="http://127.0.0.1:1")
    kept = plain.model_copy(update={"key_file": str(path)})
    assert keys.of(plain) is None
    with pytest.raises(FileNotFoundError):
        keys.of(kept)
    path.write_text("one\n")
    assert keys.of(kept) == "one"
    path.write_text("two\n")
    os.utime(path, ns=(1, 1))
    assert keys.of(kept) == "two"
    told = plain.model_copy(update={"key_env": "A_PROVIDERS_KEY"})
    with pytest.raises(FileNotFoundError, match="A_PROVIDERS_KEY is not set"):
        keys.of(told)
    monkeypatch.setenv("A_PROVIDERS_KEY", " three ")
    assert keys.of(told) == "three"


def test_replicas_that_deployments_register_come_and_go(tmp_path: Path) -> None:
    path, theirs = tmp_path / "targets.json", tmp_path / "glm" / "targets.json"
    theirs.parent.mkdir()
    cloud = Target(name="cloud", kind="cloud", base_url="https://c.example")
    route = Route(
        model="big", aliases=("sonnet",), registered=(str(theirs),), cloud=(cloud,)
    )
    path.write_text(TargetTable(revision=1, routes=(route,)).model_dump_json())
    watched = WatchedTable(path)
    assert watched.now.routes["sonnet"].targets == ()
    engine = Target(name="engine-0", base_url="http://127.0.0.1:7")
    served = Route(model="glm-4.6", targets=(engine,), context=4096)
    replace(theirs, TargetTable(revision=1, routes=(served,)).model_dump_json())
    assert watched.refresh() and not watched.refresh()
    found = watched.now.routes["big"]
    assert found is watched.now.routes["sonnet"]
    assert found.context == 4096 and found.cloud == (cloud,)
    (member,) = found.targets
    assert (member.name, member.model) == ("glm/engine-0", "glm-4.6")
    replace(theirs, "{")
    assert watched.refresh() and watched.now.routes["big"].targets == ()
    replace(theirs, TargetTable(revision=2, routes=(served,)).model_dump_json())
    assert watched.refresh() and watched.now.routes["big"].targets
    theirs.unlink()
    assert watched.refresh() and watched.now.routes["big"].targets == ()
