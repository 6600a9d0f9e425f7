"""The seeds: what is found in them, and commands that their releases take."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from lemnos.lint.findings import fixed
from lemnos.lint.linting import lint
from tests.unit.lint.by_path import module_at

seed_commands = module_at("benchmarks/seed_commands.py")
rows_of = cache(seed_commands.rows_of)
SEEDS: Path = seed_commands.SEEDS

here = pytest.mark.skipif(
    not SEEDS.is_dir(), reason="the seeds are not beside the repository (../shared)"
)

FOUND = {
    "000": {
        74: {"LMN107", "LMN004"},
        102: {"LMN306", "LMN709"},
        133: {"LMN604"},
        157: {"LMN702"},
        171: {"LMN701"},
        175: {"LMN401"},
        179: {"LMN201"},
        183: {"LMN212"},
        184: {"LMN601"},
        186: {"LMN603"},
        187: {"LMN212"},
        198: {"LMN201"},
        211: {"LMN707"},
    },
    "001": {165: {"LMN401", "LMN601"}, 177: {"LMN401"}, 187: {"LMN601"}},
    "002": {
        36: {"LMN108"},
        73: {"LMN107"},
        151: {"LMN704"},
        432: {"LMN702"},
    },
    "003": {148: {"LMN703"}, 149: {"LMN704"}, 180: {"LMN208"}},
    "004": {
        53: {"LMN601", "LMN003"},
        56: {"LMN501"},
        60: {"LMN101"},
        65: {"LMN202"},
        66: {"LMN603"},
    },
}
"""Seed -> line -> codes that must be among its findings."""


@here
@pytest.mark.parametrize("path", sorted(SEEDS.glob("*.txt")), ids=lambda p: p.name[:3])
def test_each_seed(path: Path) -> None:
    rows, commands = rows_of(path)
    found: dict[int, set[str]] = {}
    for row in rows:
        found.setdefault(row.line, set()).add(row.finding.code)
    for line, codes in FOUND[path.name[:3]].items():
        assert codes <= found.get(line, set()), line
    for command in commands:
        assert not command.fatal, command.fixed.text
    assert len(commands) == {"000": 2, "001": 2, "004": 1}.get(path.name[:3], 0)


@here
def test_the_page_has_the_table_of_now(tmp_path: Path) -> None:
    page = (Path(__file__).parents[3] / "docs/lint.md").read_text()
    assert seed_commands.rules_text() in page, "run benchmarks/seed_commands.py --into"
    for path in sorted(SEEDS.glob("*.txt")):
        rows, _ = rows_of(path)
        for row in rows:
            assert row.finding.code in page


SNIPPET = """# Serving

Install: `pip install vllm[all]>=0.10.2`, then

```bash
export RAY_ADDRESS="ray://<HEAD>:6379"
vllm serve zai-org/GLM-4.6 \\
    --tensor-parallel-size 8 \\
    --expert-parallel-size 8 \\
    --enforce-eager \\
    --max-model-len 32768 \\      # or 65536
    --max-num-seqs 8 \\
    --swap-space 32 \\
    --trust-remote-code
```

Then `curl http://localhost:8000/v1/completions -d '{"model": "glm", "prompt": "x"}'`.
"""

REPAIRED = """# Serving

Install: `pip install "vllm[all]>=0.10.2"`, then

```bash
export RAY_ADDRESS="<HEAD>:6379"
# or 65536
vllm serve zai-org/GLM-4.6 \\
    --tensor-parallel-size 8 \\
    --enable-expert-parallel \\
    --max-model-len 32768 \\
    --max-num-seqs 8 \\
    --host 127.0.0.1 \\
    --served-model-name glm
```

Then `curl http://localhost:8000/v1/completions -d '{"model": "glm", "prompt": "x"}'`.
"""


def test_a_document_like_them_is_repaired_and_nothing_else_changes() -> None:
    report = lint(SNIPPET, "a.md")
    text, _ = fixed(SNIPPET, report.findings)
    assert text == REPAIRED
    again = lint(text, "a.md")
    assert [one.rule for one in again.findings] == ["version-open"]
