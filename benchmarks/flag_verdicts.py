"""Hold lemnos's option tables and parser against what the engines' own parsers say.

    uv run benchmarks/flag_verdicts.py [--show N]

The oracles' files (tests/data/*_options.json.gz) hold every option string of the real parsers and
their verdicts on 5,000 generated command lines each. Prints both differences, and how long it took.
"""

from __future__ import annotations

import argparse
import gzip
import json
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from lemnos.engines.flags import Problem, Schema, parse, schema_for

DATA = Path(__file__).resolve().parent.parent / "tests/data"


def main() -> None:
    """Print the figures; with --show the lines on which the verdicts differ."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--show", type=int, default=0, help="this many lines that differ"
    )
    options = parser.parse_args()
    console = Console()
    table = Table(
        "engine",
        "options",
        "only theirs",
        "only ours",
        "lines",
        "same verdict",
        "parsed in",
    )
    for path in sorted(DATA.glob("*_options.json.gz")):
        truth = json.loads(gzip.decompress(path.read_bytes()))
        schema = schema_for(truth["engine"], truth["version"])
        theirs = {name for names in truth["options"] for name in names}
        ours = set(schema.spellings)
        begun = time.perf_counter()
        wrong = different(schema, truth["lines"])
        took = time.perf_counter() - begun
        table.add_row(
            f"{truth['engine']} {truth['version']}",
            str(len(ours)),
            " ".join(sorted(theirs - ours)) or "none",
            " ".join(sorted(ours - theirs)) or "none",
            str(len(truth["lines"])),
            str(len(truth["lines"]) - len(wrong)),
            f"{took:.2f} s",
        )
        for argv, accepted, problems in wrong[: options.show]:
            said = "accepts" if accepted else "refuses"
            console.print(
                f"{said}: {argv}\n   {problems}", markup=False, highlight=False
            )
    console.print(table)


def different(
    schema: Schema, lines: list[tuple[list[str], bool]]
) -> list[tuple[list[str], bool, list[Problem]]]:
    """The lines on which lemnos's verdict is not the real parser's, with what lemnos says."""
    wrong = []
    for argv, accepted in lines:
        fatal = [problem for problem in parse(schema, argv).problems if problem.fatal]
        if bool(fatal) == accepted:
            wrong.append((argv, accepted, fatal))
    return wrong


if __name__ == "__main__":
    main()
