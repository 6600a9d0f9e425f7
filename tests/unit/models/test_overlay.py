"""Overlays: changed copies beside a model, whose own files stay as they are."""

from __future__ import annotations

import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lemnos.errors import LemnosError
from lemnos.models.overlay import (
    NOTE,
    describe_overlays,
    directory_name,
    make_overlay,
    overlay_of,
    planned_changes,
)
from lemnos.spec.quirks import Overlay

BOS = Overlay(
    name="bos-1",
    file="generation_config.json",
    missing={"bos_token_id": 151329},
    why="Dynamo does not register a model without one",
)
BEFORE = b'{"eos_token_id": [151329, 151336], "temperature": 1.0}\n'


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model's directory, with a directory inside."""
    home = tmp_path / "GLM-4.7-NVFP4"
    (home / "original").mkdir(parents=True)
    (home / "generation_config.json").write_bytes(BEFORE)
    (home / "config.json").write_text("{}")
    (home / "model-00001.safetensors").write_bytes(b"weights")
    (home / "original" / "params.json").write_text("{}")
    return home


def seen(directory: Path) -> dict[str, tuple[bytes | None, int]]:
    """Every file below, with its content and time of change."""
    return {
        str(path.relative_to(directory)): (
            path.read_bytes() if path.is_file() else None,
            path.stat().st_mtime_ns,
        )
        for path in sorted(directory.rglob("*"))
    }


def test_a_missing_key_is_set_and_the_others_stay() -> None:
    (change,) = overlay_of({BOS.file: BEFORE}, [BOS])
    assert json.loads(change.content) == {
        "eos_token_id": [151329, 151336],
        "temperature": 1.0,
        "bos_token_id": 151329,
    }
    assert change.set == {"bos_token_id": 151329}
    assert change.overlays == ("bos-1",)


@pytest.mark.parametrize("value", ["7", "null", '"<s>"'])
def test_nothing_is_made_where_the_key_exists(value: str) -> None:
    there = b'{"bos_token_id": ' + value.encode() + b"}"
    assert overlay_of({BOS.file: there}, [BOS]) == ()


def test_a_file_that_is_missing_is_made() -> None:
    (change,) = overlay_of({}, [BOS])
    assert json.loads(change.content) == {"bos_token_id": 151329}
    assert change.before == ""


def test_of_two_overlays_the_first_sets_a_key() -> None:
    other = BOS.model_copy(update={"name": "pad-1", "missing": {"pad_token_id": 1}})
    late = BOS.model_copy(update={"name": "late-1", "missing": {"bos_token_id": 2}})
    (change,) = overlay_of({BOS.file: BEFORE}, [BOS, other, late])
    assert change.set == {"bos_token_id": 151329, "pad_token_id": 1}
    assert change.overlays == ("bos-1", "pad-1")


@pytest.mark.parametrize("content", [b"[]", b"{", b"\xff", b"[" * 100_000])
def test_what_is_no_json_object_is_said(content: bytes) -> None:
    with pytest.raises(LemnosError, match="is no JSON object"):
        overlay_of({BOS.file: content}, [BOS])


def test_the_directory_is_named_by_overlay_and_original() -> None:
    here = Path("/models/m")
    name = directory_name(here, overlay_of({BOS.file: BEFORE}, [BOS]))
    assert name.startswith("m--bos-1--")
    again = directory_name(here, overlay_of({BOS.file: BEFORE}, [BOS]))
    assert again == name
    there = Path("/elsewhere/m")
    assert directory_name(there, overlay_of({BOS.file: BEFORE}, [BOS])) != name
    newer = BOS.model_copy(update={"name": "bos-2"})
    assert directory_name(here, overlay_of({BOS.file: BEFORE}, [newer])) != name
    assert directory_name(here, overlay_of({BOS.file: b"{}"}, [BOS])) != name


def test_dry_run_says_what_would_be_set_where_and_why() -> None:
    changes = overlay_of({BOS.file: BEFORE}, [BOS])
    assert describe_overlays(changes, "/data/overlays") == (
        "generation_config.json gets bos_token_id: 151329 in a copy below /data/overlays "
        "(bos-1): Dynamo does not register a model without one",
    )


def test_the_copy_has_links_and_the_changed_file(model: Path, tmp_path: Path) -> None:
    before = seen(model)
    made = make_overlay(model, [BOS], tmp_path / "overlays")
    assert made.parent == tmp_path / "overlays"
    data = json.loads((made / "generation_config.json").read_text())
    assert data["bos_token_id"] == 151329
    assert not (made / "generation_config.json").is_symlink()
    assert os.readlink(made / "config.json") == str(model / "config.json")
    assert (made / "model-00001.safetensors").read_bytes() == b"weights"
    assert (made / "original" / "params.json").read_text() == "{}"
    note = json.loads((made / NOTE).read_text())
    assert note["changes"][0]["set"] == {"bos_token_id": 151329}
    assert seen(model) == before


def test_it_is_made_once(model: Path, tmp_path: Path) -> None:
    first = make_overlay(model, [BOS], tmp_path / "overlays")
    when = (first / NOTE).stat().st_mtime_ns
    assert make_overlay(model, [BOS], tmp_path / "overlays") == first
    assert (first / NOTE).stat().st_mtime_ns == when


def test_several_at_once_get_one_whole_directory(model: Path, tmp_path: Path) -> None:
    into = tmp_path / "overlays"
    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(lambda _: make_overlay(model, [BOS], into), range(16)))
    (made,) = found
    assert (made / NOTE).is_file()
    assert [path.name for path in into.iterdir() if path.is_dir()] == [made.name]


@pytest.mark.parametrize(
    "damage", ["link", "file", "note", "extra", "dangling", "plain"]
)
def test_a_broken_one_is_made_again(damage: str, model: Path, tmp_path: Path) -> None:
    made = make_overlay(model, [BOS], tmp_path / "overlays")
    if damage == "link":
        (made / "config.json").unlink()
    elif damage == "file":
        (made / "generation_config.json").write_text("{}")
    elif damage == "note":
        (made / NOTE).unlink()
    elif damage == "extra":
        (made / "stranger").write_text("")
    elif damage == "dangling":
        (made / "config.json").unlink()
        (made / "config.json").symlink_to(tmp_path / "gone")
    else:
        for path in made.iterdir():
            path.unlink()
        made.rmdir()
        made.write_text("no directory")
    assert make_overlay(model, [BOS], tmp_path / "overlays") == made
    assert json.loads((made / "generation_config.json").read_text())["bos_token_id"]
    assert (made / "config.json").read_text() == "{}"
    assert not (made / "stranger").exists()


def test_a_link_to_the_users_model_in_its_place_is_only_unlinked(
    model: Path, tmp_path: Path
) -> None:
    before = seen(model)
    made = make_overlay(model, [BOS], tmp_path / "overlays")
    shutil.rmtree(made)
    made.symlink_to(model)
    assert make_overlay(model, [BOS], tmp_path / "overlays") == made
    assert not made.is_symlink()
    assert seen(model) == before


def test_a_changed_original_gets_another_directory(model: Path, tmp_path: Path) -> None:
    first = make_overlay(model, [BOS], tmp_path / "overlays")
    (model / "generation_config.json").write_text('{"eos_token_id": 1}')
    second = make_overlay(model, [BOS], tmp_path / "overlays")
    assert second != first
    assert first.is_dir()  # a deployment may still be served from it


def test_the_model_itself_is_given_where_nothing_is_missing(
    model: Path, tmp_path: Path
) -> None:
    (model / "generation_config.json").write_text('{"bos_token_id": 1}')
    assert make_overlay(model, [BOS], tmp_path / "overlays") == model
    assert make_overlay(model, [], tmp_path / "overlays") == model
    assert not (tmp_path / "overlays").exists()


def test_a_models_directory_of_links_is_linked_to(model: Path, tmp_path: Path) -> None:
    """As Hugging Face's cache keeps them."""
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    for path in model.iterdir():
        (snapshot / path.name).symlink_to(path)
    made = make_overlay(snapshot, [BOS], tmp_path / "overlays")
    assert (made / "model-00001.safetensors").read_bytes() == b"weights"
    assert (model / "generation_config.json").read_bytes() == BEFORE


def test_what_cannot_be_read_or_made_is_said(model: Path, tmp_path: Path) -> None:
    with pytest.raises(LemnosError, match="cannot be made"):
        make_overlay(tmp_path / "nothing", [BOS], tmp_path / "overlays")
    (tmp_path / "full").write_text("a file")
    with pytest.raises(LemnosError, match="cannot write here"):
        make_overlay(model, [BOS], tmp_path / "full")
    (model / "generation_config.json").unlink()
    (model / "generation_config.json").mkdir()
    with pytest.raises(LemnosError, match="cannot be read"):
        planned_changes(model, [BOS])


def test_a_file_that_is_no_config_is_not_read_whole(model: Path) -> None:
    with (model / "generation_config.json").open("wb") as file:
        file.truncate(17 * 1024**2)
    with pytest.raises(LemnosError, match="too large"):
        planned_changes(model, [BOS])
