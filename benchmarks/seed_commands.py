"""Every engine's command in the seeds, linted: finding, why, and the fixed command.

    uv run benchmarks/seed_commands.py [--into docs/lint.md] [--exact] [SEEDS]     (SEEDS: ../shared/seeds)

The releases are those that the seeds name, the machines those that they say they have. Each fixed
command is parsed again by the flags of its release; ``--exact`` asks the installed engine's own
parser too (``lemnos engines install``). ``--into`` writes the tables of docs/lint.md.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lemnos.engines.flags import parse, schema_for
from lemnos.errors import LemnosError
from lemnos.lint.exact import ask, program_of
from lemnos.lint.findings import Checked, Finding, Lines, Report, fixed
from lemnos.lint.linting import Asked, lint
from lemnos.lint.rules import RULES

SEEDS = Path(__file__).resolve().parents[2] / "shared" / "seeds"

CLUSTERS = {
    ("000", 0): "2xGH200",
    ("000", 1): "4xGH200",
    ("001", 0): "2xH100",
    ("001", 1): "2xH100",
    ("004", 0): "8xH200",
}
"""What each seed says that its command runs on: number of the command -> machines."""


@dataclass(frozen=True)
class Row:
    """One finding of a seed, or a command as it should be."""

    seed: str
    line: int
    finding: Finding


@dataclass(frozen=True)
class Command:
    """An engine's command of a seed: as it is, and as it should be."""

    seed: str
    line: int
    was: Checked
    fixed: Checked
    fatal: tuple[str, ...]
    """What the release's parser still refuses."""
    left: tuple[Finding, ...]
    """Errors that no edit of the command repairs."""


def rows_of(path: Path) -> tuple[list[Row], list[Command]]:
    """A seed's findings, memory on its own machines among them, and its commands."""
    seed, text = path.name[:3], path.read_text()
    plain = lint(text, path.name)
    findings = list(plain.findings)
    for number, cluster in _clusters(seed):
        report = lint(text, path.name, asked=Asked(cluster=cluster))
        known = set(findings)
        findings += [
            one for one in report.findings if one.command == number and one not in known
        ]
    findings.sort(key=lambda one: (one.start, one.code))
    lines = Lines(text)
    rows = [Row(seed, lines.at(one.start)[0], one) for one in findings]
    new = lint(fixed(text, findings)[0], path.name)
    return rows, list(_commands(seed, plain, new, lines, findings))


def _commands(
    seed: str, plain: Report, new: Report, lines: Lines, findings: list[Finding]
) -> Iterator[Command]:
    for number, (was, now) in enumerate(zip(plain.commands, new.commands, strict=True)):
        parsed = parse(schema_for(now.engine, now.version), now.words)
        fatal = tuple(one.message for one in parsed.problems if one.fatal)
        left = tuple(
            one
            for one in findings
            if one.command == number and one.severity == "error" and not one.edits
        )
        yield Command(seed, lines.at(was.start)[0], was, now, fatal, left)


def _clusters(seed: str) -> Iterator[tuple[int, str]]:
    for (name, number), cluster in CLUSTERS.items():
        if name == seed:
            yield number, cluster


def main() -> None:
    """Print the table; exit 1 if a fixed command would still be refused."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("seeds", nargs="?", type=Path, default=SEEDS)
    parser.add_argument("--into", type=Path, help="docs/lint.md, as Markdown")
    parser.add_argument("--exact", action="store_true")
    options = parser.parse_args()
    paths = sorted(options.seeds.glob("*.txt"))
    if not paths:
        sys.exit(f"{options.seeds} has no seeds")
    found = [rows_of(path) for path in paths]
    rows = [row for some, _ in found for row in some]
    commands = [command for _, some in found for command in some]
    markdown = options.into is not None
    text = rows_text(rows, markdown)
    text += "".join(command_text(one, markdown, options.exact) for one in commands)
    refused = sum(bool(one.fatal) for one in commands)
    text += (
        f"\n{len(rows)} findings; {len(commands)} engine commands, {refused} of the fixed "
        "ones refused by their release's parser\n"
    )
    if markdown:
        page = between(options.into.read_text(), "seeds", text)
        options.into.write_text(between(page, "rules", rules_text()))
    else:
        sys.stdout.write(text)
    sys.exit(1 if refused else 0)


def between(page: str, name: str, text: str) -> str:
    """``page`` with ``text`` between its marks of that name."""
    begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->"
    before, _, rest = page.partition(begin)
    return before + begin + text + end + rest.partition(end)[2]


def rules_text() -> str:
    """Every rule, as a table."""
    rows = [
        f"| {rule.code} | {rule.name} | {rule.severity} | {_cell(rule.about)} |\n"
        for rule in RULES.values()
    ]
    return "| code | rule | | about |\n|---|---|---|---|\n" + "".join(rows)


def rows_text(rows: list[Row], markdown: bool) -> str:
    """The findings, a line each."""
    text = (
        "| seed:line | finding | why | fix |\n|---|---|---|---|\n" if markdown else ""
    )
    for row in rows:
        one = row.finding
        place, what = f"{row.seed}:{row.line}", f"{one.severity} {one.code}: {one.what}"
        if markdown:
            cells = (place, what, one.why, one.instead)
            text += f"| {' | '.join(map(_cell, cells))} |\n"
            continue
        text += f"{place} {what}\n"
        for name, said in (("why", one.why), ("fix", one.instead)):
            text += f"    {name}: {said}\n" if said else ""
    return text


def command_text(command: Command, markdown: bool, exact: bool) -> str:
    """A command as it is and as it should be, with its parser's verdict."""
    now = command.fixed
    verdict = f"{now.engine} {now.version}'s flags: "
    verdict += "; ".join(command.fatal) or "accepted"
    if exact:
        verdict += f"; its own parser: {_exactly(now)}"
    for one in command.left:
        verdict += f"; left to decide: {one.code}"
    title = f"seed {command.seed}, line {command.line}"
    if markdown:
        broken = now.text.replace(" --", " \\\n    --")
        return f"\n{title}, fixed ({verdict}):\n\n```\n{broken}\n```\n"
    return f"\n{title}\n  was:   {command.was.text}\n  fixed: {now.text}\n  {verdict}\n"


def _exactly(command: Checked) -> str:
    try:
        answer = ask(program_of(command), command.engine, command.words)
    except LemnosError as error:
        return f"not asked ({error.what})"
    return "accepted" if answer["parsed"] else f"refused ({answer['message']})"


def _cell(text: str) -> str:
    marked = re.sub(r"(<[A-Z0-9_]+>|ray://\S+|--[a-z][\w-]*)", r"`\1`", text)
    return marked.replace("|", "\\|").replace("``", "`")


if __name__ == "__main__":
    main()
