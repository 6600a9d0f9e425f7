"""Launchers by their words: lemnos' own, and those of other packages."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path

import pytest

from lemnos.errors import LemnosError, UsageError
from lemnos.launchers import registry
from lemnos.launchers.base import Launcher

OWN = ("local", "systemd", "slurm", "pbs", "kubernetes", "ray")
MEMBERS = [name for name in vars(Launcher) if not name.startswith("_")]


def add(directory: Path, monkeypatch: pytest.MonkeyPatch, points: str, code: str = "") -> None:  # fmt: skip
    """A package with these entry points, and a module ``others`` of this code."""
    about = directory / "others-1.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: others\nVersion: 1\n")
    (about / "entry_points.txt").write_text(f"[lemnos.launchers]\n{points}\n")
    (directory / "others_launchers.py").write_text(code)
    monkeypatch.syspath_prepend(str(directory))
    monkeypatch.delitem(sys.modules, "others_launchers", raising=False)


@pytest.mark.parametrize("name", OWN)
def test_each_of_our_own_is_what_a_launcher_is(name: str) -> None:
    made = registry.maker(name)
    assert getattr(made, "name", "") == name
    for member in MEMBERS:
        asked = inspect.signature(getattr(Launcher, member))
        assert inspect.signature(getattr(made, member)) == asked, member
    for told in Launcher.__annotations__:
        assert hasattr(made, told), told


def test_every_word_is_known() -> None:
    assert registry.names()[: len(OWN)] == list(OWN)


def test_a_word_that_nobody_knows_is_one_sentence() -> None:
    with pytest.raises(UsageError) as refused:
        registry.maker("slrum")
    assert (refused.value.what, refused.value.where) == (
        "unknown launcher 'slrum'",
        "on",
    )
    assert "slurm" in refused.value.fix
    with pytest.raises(UsageError, match="known: local, systemd, slurm, pbs"):
        registry.maker("moon")


def test_another_package_adds_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(
        tmp_path,
        monkeypatch,
        "moon = others_launchers:Moon",
        "class Moon:\n    name = 'moon'\n",
    )
    assert getattr(registry.maker("moon"), "name", "") == "moon"
    assert registry.names() == [*OWN, "moon"]
    with pytest.raises(UsageError, match="moon"):
        registry.maker("moo")


def test_another_package_does_not_take_our_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(
        tmp_path,
        monkeypatch,
        "slurm = others_launchers:Moon",
        "class Moon:\n    name = 'moon'\n",
    )
    assert getattr(registry.maker("slurm"), "name", "") == "slurm"
    assert registry.names() == list(OWN)


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("raise RuntimeError('no moon')", "RuntimeError: no moon"),
        ("import nothing_of_that_name", "ModuleNotFoundError"),
        ("", "AttributeError"),
    ],
)
def test_one_that_cannot_be_loaded_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, why: str
) -> None:
    add(tmp_path, monkeypatch, "moon = others_launchers:Moon", code)
    with pytest.raises(LemnosError) as refused:
        registry.maker("moon")
    assert why in refused.value.what and "\n" not in refused.value.what
    assert refused.value.where == "others_launchers:Moon"
