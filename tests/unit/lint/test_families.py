"""Lint's parsers by model are those that lemnos itself renders: two tables, one truth."""

from __future__ import annotations

import re

import pytest

from lemnos.engines.flags.schema import versions
from lemnos.engines.quirks import quirks_for
from lemnos.lint.data import families
from lemnos.models.known import known_architecture, known_models


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_lint_advises_the_parsers_that_are_rendered(engine: str) -> None:
    checked = 0
    for entry in known_models():
        row = next(
            (
                each
                for each in families()["parsers"]
                if re.search(each["models"], entry.name.lower())
            ),
            None,
        )
        if row is None:
            continue
        newest = versions(engine)[-1]
        quirks = quirks_for(engine, newest, entry.name, known_architecture(entry))
        if quirks.tool_parser:
            assert quirks.tool_parser in row[engine]["tool"], entry.name
        if quirks.reasoning_parser:
            assert quirks.reasoning_parser in row[engine]["reasoning"], entry.name
        checked += 1
    assert checked > 15
