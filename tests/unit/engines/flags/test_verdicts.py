"""The tables and the parser against the engines' own parsers (see oracles/*_options.py)."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from lemnos.engines.flags import parse, schema_for

DATA = Path(__file__).parents[3] / "data"
ENGINES = ("vllm", "sglang")


def truth(engine: str) -> dict[str, Any]:
    """What the oracle wrote down."""
    packed = (DATA / f"{engine}_options.json.gz").read_bytes()
    found: dict[str, Any] = json.loads(gzip.decompress(packed))
    return found


@pytest.mark.parametrize("engine", ENGINES)
def test_the_options_are_the_real_parsers(engine: str) -> None:
    real = truth(engine)
    theirs = {name for names in real["options"] for name in names}
    schema = schema_for(engine, real["version"])
    assert schema.asked is None
    assert set(schema.spellings) == theirs
    together = {frozenset(names) for names in real["options"]}
    assert len(together) == len(schema.options)


@pytest.mark.parametrize("engine", ENGINES)
def test_the_verdict_is_the_real_parsers_on_every_line(engine: str) -> None:
    real = truth(engine)
    schema = schema_for(engine, real["version"])
    assert len(real["lines"]) == 5_000
    wrong = [
        (argv, accepted)
        for argv, accepted in real["lines"]
        if any(problem.fatal for problem in parse(schema, argv).problems) is accepted
    ]
    assert wrong == []
