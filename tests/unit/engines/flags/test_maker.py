"""The maker of the tables (scripts/flag_schemas.py), on a small release made here."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[4]
TABLES = ROOT / "src/lemnos/engines/flags"

CONFIG = '''
import enum
from dataclasses import field
from typing import TYPE_CHECKING, Any, Literal
from pydantic import Field, field_validator
import torch
from tiny.deco import config
if TYPE_CHECKING:
    from tiny.heavy import Device
else:
    Device = Any
Kind = Literal["b", "a"]
class Mode(enum.IntEnum):
    NONE = 0
    FULL = 3
@config
class Inner:
    ratio: float = Field(default=0.5, gt=0, le=1)
@config
class Base:
    size: int = 4
    """A docstring."""
    names: list[str] = field(default_factory=list)
@config
class Whole(Base):
    kind: Kind | None = None
    quick: bool = True
    inner: Inner = field(default_factory=Inner)
    mode: Mode = None
    dtype: torch.dtype | None = None
    path: "str | None" = None
    lazy: bool = None
    hidden: int = field(init=False)
    @field_validator("mode", "lazy", mode="wrap")
    @classmethod
    def _skip_none(cls, value, handler):
        return value
'''
PARSER = """
import argparse
import json
import sys
from dataclasses import MISSING, fields, is_dataclass
from typing import Literal, Union, get_args, get_origin
from .config import Whole
CHOICES = ["x"]
CHOICES.append("y")
def optional_type(read):
    def _optional_type(value):
        return None if value == "None" else read(value)
    return _optional_type
def human_readable_int(value):
    return int(value)
class DeprecatedAction(argparse.Action):
    def __call__(self, parser, namespace, values, option_string=None):
        raise ValueError(self.help)
class ZeroAction(argparse.Action):
    def __init__(self, option_strings, dest, nargs=0, **more):
        super().__init__(option_strings, dest, nargs=nargs, **more)
def kwargs_of(cls):
    found = {}
    for one in fields(cls):
        kinds = set(get_args(one.type)) or {one.type}
        default = one.default_factory() if one.default_factory is not MISSING else one.default
        made = found[one.name] = {"default": default}
        inner = next((k for k in kinds if is_dataclass(k)), None)
        if inner is not None:
            def parse_dataclass(value, cls=inner):
                return cls(**json.loads(value))
            made["type"] = parse_dataclass
        elif bool in kinds:
            made["action"] = argparse.BooleanOptionalAction
        elif any(get_origin(k) is Literal for k in kinds):
            made["choices"] = sorted(get_args(next(k for k in kinds if get_origin(k) is Literal)))
        elif get_origin(one.type) is list:
            made["nargs"] = "+"
        else:
            made["type"] = optional_type(int) if type(None) in kinds else int
    return found
def make(parser):
    group = parser.add_argument_group("all")
    for name, more in kwargs_of(Whole).items():
        if name == "hidden":
            continue
        group.add_argument("--" + name.replace("_", "-"), **more)
    for name, kind in [("--one", str), ("--two", float)]:
        parser.add_argument(name, "-" + name[2], type=kind, help="[DEPRECATED] Gone. Use --three.")
    if "serve" in sys.argv:
        parser.add_argument("--three", choices=CHOICES + ["z"], required=True)
    if torch_is_there():
        parser.add_argument("--four", type=human_readable_int)
    parser.add_argument("--five", action=DeprecatedAction, help="use --six instead")
    parser.add_argument("--six", action=ZeroAction)
    parser.add_argument("--seven", type=lambda s: s.lower())
    parser.add_argument("--eight", type=json.loads)
    parser.add_argument("--nine", type=strange)
    this_fails[0]()
    raise_here(1 / 0)
    parser.add_argument("model", nargs="?")
    parser.set_defaults(one="uno")
    try:
        json.loads("{")
    except ValueError:
        parser.add_argument("--ten", action="store_true")
    return parser
"""


class Files:
    """A release of two modules."""

    def read(self, path: str) -> str | None:
        """The text of a file."""
        return {"tiny/config.py": CONFIG, "tiny/parser.py": PARSER}.get(path)


@pytest.fixture
def maker(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The maker's modules by name."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    names = ("world", "natives", "collect", "rows")
    found = {name: importlib.import_module(f"flags.{name}") for name in names}
    return found | {"table": importlib.import_module("flag_schemas")}


def test_options_that_code_makes_are_found(maker: dict[str, Any]) -> None:
    world = maker["world"].World(Files(), maker["natives"].NATIVES)
    collector = maker["collect"].Collector()
    world.imported("tiny.parser", "make")(collector)
    notes: list[str] = []
    made = [maker["rows"].row(one, notes) for one in collector.added]
    rows = {row["names"][0]: row for row in made if row}
    assert rows["--size"] == {"names": ["--size"], "kind": "int", "default": 4}
    assert rows["--names"] == {"names": ["--names"], "kind": "text", "many": "+"}
    assert rows["--kind"]["choices"] == ["a", "b"]
    assert rows["--quick"] == {
        "names": ["--quick"],
        "kind": "flag",
        "twin": True,
        "default": True,
    }
    assert rows["--inner"]["reads"] == "config:Inner"
    assert rows["--one"]["names"] == ["--one", "-o"]
    assert rows["--one"]["default"] == "uno"
    assert rows["--two"]["deprecated"] == "Use --three"
    assert rows["--three"]["choices"] == ["x", "y", "z"]
    assert rows["--three"]["required"] is True
    assert rows["--four"]["reads"] == "human"
    assert (rows["--five"]["reads"], rows["--five"]["kind"]) == ("refused", "text")
    assert rows["--six"]["kind"] == "flag"
    assert rows["--seven"]["reads"] == "lowered"
    assert rows["--eight"]["open_keys"] is True
    assert rows["--ten"]["kind"] == "flag"
    assert len(rows) == 19
    configs = maker["rows"].configs(collector.added)
    assert configs == {"Inner": {"ratio": "float>0<=1"}}
    whole = world.imported("tiny.config", "Whole")
    types = {f.name: f.type for f in maker["natives"].fields(whole)}
    assert maker["rows"].word(types["mode"], {"null": True}) == "~NONE,0,FULL,3|null"
    assert whole.__nullable__ == {"mode", "lazy"}


def test_a_table_taken_apart_and_written_is_the_same(maker: dict[str, Any]) -> None:
    for path in TABLES.glob("*.json"):
        table = json.loads(path.read_text())
        if "versions" in table:
            parts = maker["table"].apart(table)
            assert maker["table"].written(path.stem, parts) == path.read_text()


def test_a_release_becomes_ranges(maker: dict[str, Any]) -> None:
    same, other = ["a"], ["b"]
    rows = maker["table"].ranges([[same], [same, other], [other], [same]])
    assert rows == [[0, 1, "a"], [1, 2, "b"], [3, 3, "a"]]
    versions = ["0.10.0", "0.9.2", "0.9.2.post1", "1.0"]
    ordered = sorted(versions, key=maker["table"].place)
    assert ordered == ["0.9.2", "0.9.2.post1", "0.10.0", "1.0"]
    assert sys.path  # the scripts' folder is taken off again by the fixture
