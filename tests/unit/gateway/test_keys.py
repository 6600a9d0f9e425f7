"""Clients' keys on disk."""

from __future__ import annotations

import base64
import threading
from pathlib import Path

import pytest

from lemnos.errors import LemnosError, UsageError
from lemnos.gateway.keys import add_key, digest, read_keys, remove_key


def test_a_key_is_shown_once_and_kept_as_a_digest(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    assert read_keys(path) == ()
    secret, made = add_key(path, "ann", models=["m"], budget_usd=0.5, concurrency=None)
    body = secret.removeprefix("lemnos-")
    assert len(base64.urlsafe_b64decode(body + "=")) == 32
    assert read_keys(path) == (made,)
    assert made.sha256 == digest(secret)
    assert (made.models, made.budget_usd, made.concurrency) == (("m",), 0.5, None)
    assert secret not in path.read_text() and body not in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600


def test_names_are_given_once_and_can_be_freed(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    first, _ = add_key(path, "ann")
    with pytest.raises(UsageError, match="there is a key 'ann' already"):
        add_key(path, "ann")
    with pytest.raises(UsageError, match="Did you mean 'ann'"):
        remove_key(path, "anne")
    assert remove_key(path, "ann") == ()
    second, made = add_key(path, "ann")
    assert second != first and read_keys(path) == (made,)


@pytest.mark.parametrize(
    ("limits", "says"),
    [({"requests_per_minute": 0}, "requests_per_minute"), ({"budget_usd": -1}, "budget_usd"), ({"speed": 1}, "unknown key 'speed'")],
)  # fmt: skip
def test_limits_are_checked_before_anything_is_written(
    tmp_path: Path, limits: dict[str, float], says: str
) -> None:
    with pytest.raises(UsageError, match=says):
        add_key(tmp_path / "keys.yaml", "ann", **limits)
    assert not (tmp_path / "keys.yaml").exists()


def test_two_at_once_do_not_undo_each_other(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    names = [f"k{n}" for n in range(8)]
    threads = [threading.Thread(target=add_key, args=(path, name)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(key.name for key in read_keys(path)) == names


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    path.write_text("keys:\n- {name: a}\n")
    with pytest.raises(
        LemnosError, match=r"keys.yaml:2: keys.0.sha256: Field required"
    ):
        read_keys(path)
    with pytest.raises(LemnosError, match="is no directory"):
        add_key(tmp_path / "none" / "keys.yaml", "a")
