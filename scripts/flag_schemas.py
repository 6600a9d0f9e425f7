#!/usr/bin/env python3
# /// script
# requires-python = ">=3.11"
# dependencies = ["pip"]
# ///
"""Read the options of engines' releases from their wheels into lemnos's tables.

    uv run scripts/flag_schemas.py vllm 0.34.0      one new release (or several), added to the table
    uv run scripts/flag_schemas.py --all            every table anew, for the releases it has
    uv run scripts/flag_schemas.py --all vllm       one package's tables anew
    python3 scripts/flag_schemas.py ...             the same, with a Python that has pip

Each release's own Python is fetched (a few files out of its wheel) and its parser worked out from
the syntax trees: nothing is installed, imported or run, and no GPU or torch is needed. What could
not be worked out is printed.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from flags.engines import ENGINES, read_release

ROOT = Path(__file__).resolve().parent.parent
TABLES = ROOT / "src/lemnos/engines/flags"


def main() -> None:
    """Add releases to the tables, or make tables anew."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "package", nargs="?", choices=sorted({e.package for e in ENGINES})
    )
    parser.add_argument("versions", nargs="*", metavar="VERSION")
    parser.add_argument(
        "--all", action="store_true", help="the tables' own releases anew"
    )
    parser.add_argument("--cache", type=Path, help="keep the files that were read here")
    options = parser.parse_args()
    if not options.all and not options.versions:
        parser.error("which release? (or --all)")
    with tempfile.TemporaryDirectory(prefix="lemnos-flags-") as scratch:
        cache = options.cache or Path(scratch)
        for engine in ENGINES:
            if options.package in (None, engine.package):
                update(engine.name, options.versions, options.all, cache)


def update(name: str, new: list[str], anew: bool, cache: Path) -> None:
    """Read releases of one engine and write its table."""
    path = TABLES / f"{name}.json"
    old = json.loads(path.read_text()) if path.exists() else EMPTY
    wanted = sorted({*new, *(old["versions"] if anew else ())}, key=place)
    releases = {} if anew else apart(old)
    for version in wanted:
        found = read_release(name, version, cache)
        if not found["options"]:
            print(f"{name} {version}: no such parser", file=sys.stderr)  # noqa: T201
            continue
        releases[version] = found
        print(f"{name} {version}: {len(found['options'])} options", file=sys.stderr)  # noqa: T201
        for note in found.pop("notes"):
            print(f"  {note[:200]}", file=sys.stderr)  # noqa: T201
    path.write_text(written(name, releases))


EMPTY: dict[str, Any] = {
    "versions": [],
    "rules": [],
    "configs": [],
    "carries": [],
    "options": [],
}


def place(version: str) -> list[int]:
    """What releases are ordered by: 0.5.6.post2 comes after 0.5.6."""
    plain, _, post = version.partition(".post")
    numbers = [int(part) for part in plain.split(".")]
    return [*numbers, *[0] * (4 - len(numbers)), int(post or 0)]


def apart(table: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """A table's releases one by one, as ``read_release`` gives them."""
    releases = {}
    for at, version in enumerate(table["versions"]):
        there = {
            part: [entry[2:] for entry in table[part] if entry[0] <= at <= entry[1]]
            for part in ("rules", "configs", "carries", "options")
        }
        releases[version] = {
            "rules": [entry[0] for entry in there["rules"]],
            "configs": {entry[0]: entry[1] for entry in there["configs"]},
            "carries": {entry[0]: entry[1] for entry in there["carries"]},
            "options": [
                {"names": e[0], "kind": e[1], **e[2]} for e in there["options"]
            ],
        }
    return releases


def written(name: str, releases: dict[str, dict[str, Any]]) -> str:
    """A table of releases: what stays the same from one to another is one row, one line."""
    versions = sorted(releases, key=place)
    ordered = [releases[version] for version in versions]
    options = ranges([[_option(o) for o in release["options"]] for release in ordered])
    parts = {
        "rules": ranges([[[rule] for rule in release["rules"]] for release in ordered]),
        "configs": ranges([[[*c] for c in r["configs"].items()] for r in ordered]),
        "carries": ranges([[[*c] for c in r["carries"].items()] for r in ordered]),
        "options": sorted(options, key=lambda row: (row[2][0], row[0])),
    }
    lines = [f'{{"engine":{json.dumps(name)},"versions":{_dumped(versions)}']
    for part, rows in parts.items():
        body = ",\n".join(_dumped(row) for row in rows)
        lines.append(f',"{part}":[\n{body}\n]' if rows else f',"{part}":[]')
    return "\n".join(lines) + "}\n"


def _option(option: dict[str, Any]) -> list[Any]:
    more = {k: v for k, v in option.items() if k not in ("names", "kind")}
    return [option["names"], option["kind"], more]


def _dumped(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def ranges(releases: list[list[list[Any]]]) -> list[list[Any]]:
    """[first, last, ...] for every thing that releases have, once for each unbroken run."""
    rows: list[list[Any]] = []
    running: dict[str, list[Any]] = {}
    for at, things in enumerate(releases):
        still: dict[str, list[Any]] = {}
        for thing in things:
            key = json.dumps(thing, sort_keys=True)
            row = running.get(key) or [at, at, *thing]
            if key not in running:
                rows.append(row)
            row[1] = at
            still[key] = row
        running = still
    return rows


if __name__ == "__main__":
    main()
