"""Applying, going back, draining: what is in force, and what is kept."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest

from lemnos.errors import LemnosError, UsageError
from lemnos.gateway import revisions
from lemnos.gateway.keys import add_key, read_keys, remove_key
from lemnos.gateway.revisions import GatewayFiles, Revision
from lemnos.spec.gateway import ListenSpec
from lemnos.spec.targets import Price, Route, Target, TargetTable


def revision(*names: str, created: int = 1, keys_file: Path | None = None) -> Revision:
    targets = tuple(Target(name=name, base_url="http://127.0.0.1:1") for name in names)
    cloud = Target(
        name="cloud",
        kind="cloud",
        base_url="https://c",
        price=Price(input=1, output=1, as_of="2026-11-21"),
    )
    route = Route(model="m", targets=targets, cloud=(cloud,), created=created)
    keys = read_keys(keys_file) if keys_file else ()
    return Revision(
        at=1.0,
        why="apply g.yaml",
        source="/g.yaml",
        listen=ListenSpec(),
        keys_file=str(keys_file) if keys_file else None,
        table=TargetTable(revision=0, routes=(route,), keys=keys),
    )


def in_force(files: GatewayFiles) -> TargetTable:
    return TargetTable.model_validate_json(files.targets.read_bytes())


def names(table: TargetTable) -> list[str]:
    return [target.name for target in table.routes[0].targets]


@pytest.fixture
def files() -> GatewayFiles:
    return GatewayFiles.named("default")


def test_each_change_is_a_revision_and_no_change_is_none(files: GatewayFiles) -> None:
    assert revisions.current(files) is None and revisions.gateways() == []
    for expected, wanted in ((1, "a"), (1, "a"), (2, "b")):
        made, _ = revisions.apply(files, revision(wanted, created=expected * 10))
        assert made.number == expected
        assert in_force(files) == made.table
    assert [r.number for r in revisions.history(files)] == [1, 2]
    assert in_force(files).routes[0].created == 10, "the day on which the model came"
    assert revisions.gateways() == [files]
    assert files.targets.stat().st_mode & 0o777 == 0o600


def test_rollback_is_a_new_revision_with_the_old_content(files: GatewayFiles) -> None:
    for wanted in ("a", "b", "c"):
        revisions.apply(files, revision(wanted))
    assert revisions.rollback(files).number == 4
    assert names(in_force(files)) == ["b"]
    made = revisions.rollback(files, 1)
    assert (made.number, made.why) == (5, "rollback to 1")
    assert names(in_force(files)) == ["a"]
    for nowhere in (5, 6, 0, -1):
        with pytest.raises(UsageError, match="there are: 1, 2, 3, 4$"):
            revisions.rollback(files, nowhere)


def test_there_is_nothing_before_the_first(files: GatewayFiles) -> None:
    with pytest.raises(UsageError, match="nothing was applied yet"):
        revisions.rollback(files)
    revisions.apply(files, revision("a"))
    with pytest.raises(UsageError, match="there are: none"):
        revisions.rollback(files)


def test_a_removed_key_does_not_come_back(files: GatewayFiles, tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    for name in ("ann", "bob"):
        add_key(path, name)
    revisions.apply(files, revision("a", keys_file=path))
    remove_key(path, "bob")
    done = revisions.rekey(path, read_keys(path), "key bob removed")
    assert [r.number for r in done] == [2]
    assert [key.name for key in in_force(files).keys] == ["ann"]
    revisions.rollback(files, 1)
    assert [key.name for key in in_force(files).keys] == ["ann"]
    assert revisions.rekey(tmp_path / "other.yaml", (), "x") == []
    link = tmp_path / "link.yaml"
    link.symlink_to(path)
    assert [r.number for r in revisions.users_of(link)] == [3]


def test_drained_targets_stay_so_when_the_file_is_applied_again(
    files: GatewayFiles,
) -> None:
    revisions.apply(files, revision("a", "b"))
    made, new = revisions.drain(files, "b", drained=True)
    assert (made.number, made.why, new) == (2, "drain b", True)
    assert revisions.drain(files, "b", drained=True)[1] is False
    revisions.apply(files, revision("b", "c"))
    assert in_force(files).drained == ("b",)
    revisions.drain(files, "cloud", drained=True)
    assert in_force(files).drained == ("b", "cloud")
    revisions.drain(files, "b", drained=False)
    assert in_force(files).drained == ("cloud",)
    with pytest.raises(UsageError, match="no target 'clod'(.|\n)*'cloud'"):
        revisions.drain(files, "clod", drained=True)


def test_killed_before_the_table_was_replaced(files: GatewayFiles) -> None:
    """The revision is there, the table is the old one, and the next number is free."""
    revisions.apply(files, revision("a"))
    lost = revision("b").model_copy(
        update={"table": revision("b").table.model_copy(update={"revision": 2})}
    )
    files.revision(2).write_text(lost.model_dump_json())
    now = revisions.current(files)
    assert now and now.number == 1
    made, new = revisions.apply(files, revision("b"))
    assert (made.number, new) == (3, True)


def test_a_reader_never_sees_half_a_table(files: GatewayFiles) -> None:
    revisions.apply(files, revision("a"))
    done = threading.Event()
    seen: set[str] = set()

    def read() -> None:
        while not done.is_set():
            seen.add(",".join(names(in_force(files))))

    reader = threading.Thread(target=read)
    reader.start()
    try:
        revisions.apply(files, revision(*[f"t{n}" for n in range(300)]))
        for _ in range(5):
            revisions.rollback(files)
    finally:
        done.set()
        reader.join()
    assert seen <= {"a", ",".join(f"t{n}" for n in range(300))}


def test_two_that_apply_at_once_get_numbers_of_their_own(files: GatewayFiles) -> None:
    wanted = [revision(name) for name in "abcd"]
    threads = [
        threading.Thread(target=revisions.apply, args=(files, each)) for each in wanted
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [r.number for r in revisions.history(files)] == [1, 2, 3, 4]


def test_files_that_cannot_be_read(files: GatewayFiles) -> None:
    revisions.apply(files, revision("a"))
    files.revision(1).write_text("{")
    with pytest.raises(LemnosError, match="no revision that this lemnos can read"):
        revisions.history(files)
    files.targets.write_text(json.dumps({"version": 1}))
    with pytest.raises(LemnosError, match="is not a table of this lemnos"):
        revisions.current(files)
    with pytest.raises(UsageError, match="Did you mean 'default'"):
        revisions.existing("defalt")
    os.unlink(files.targets)
    with pytest.raises(UsageError, match="lemnos gateway run FILE"):
        revisions.existing("default")
