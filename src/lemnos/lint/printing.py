"""A report for people, as JSON, and as SARIF 2.1.0. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath
from typing import Any
from urllib.parse import quote

from lemnos.lint.findings import Finding, Lines, Report
from lemnos.lint.rules import RULES

_COLOURS = {"error": "\x1b[1;31m", "warning": "\x1b[33m", "note": "\x1b[36m"}
_SARIF = "https://json.schemastore.org/sarif-2.1.0.json"


def as_text(report: Report, colour: bool = False) -> str:
    """A line for each finding: place, severity, what; below it why and what to do."""
    lines = Lines(report.text)
    out = []
    for finding in report.findings:
        line, column = lines.at(finding.start)
        word: str = finding.severity
        if colour:
            word = f"{_COLOURS[finding.severity]}{word}\x1b[0m"
        name = shown(report.name) or "command"
        what = shown(finding.what)
        out.append(f"{name}:{line}:{column}: {word} {finding.code}: {what}")
        if finding.why:
            out.append(f"    why: {shown(finding.why)}")
        if finding.instead:
            out.append(f"    fix: {shown(finding.instead)}")
    return "".join(one + "\n" for one in out)


def summary(reports: Sequence[Report]) -> str:
    """``2 commands: 3 errors, 1 warning``."""
    commands = sum(len(report.commands) for report in reports)
    parts = []
    for severity in ("error", "warning", "note"):
        count = sum(report.count(severity) for report in reports)
        if count:
            parts.append(f"{count} {severity}{'s' * (count != 1)}")
    said = ", ".join(parts) or "nothing to say"
    return f"{commands} engine command{'s' * (commands != 1)}: {said}\n"


def as_json(reports: Sequence[Report]) -> dict[str, Any]:
    """One document: files, each with its commands and findings; places from 1."""
    return {
        "version": 1,
        "errors": sum(report.errors for report in reports),
        "files": [_file(report) for report in reports],
    }


def as_sarif(reports: Sequence[Report], version: str) -> dict[str, Any]:
    """SARIF 2.1.0, as code scanners take it."""
    used = sorted(
        {finding.rule for report in reports for finding in report.findings},
        key=lambda name: RULES[name].code,
    )
    return {
        "$schema": _SARIF,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "lemnos lint",
                        "version": version,
                        "rules": [_rule(name) for name in used],
                    }
                },
                "columnKind": "unicodeCodePoints",
                "results": [
                    _result(
                        report, Lines(report.text), finding, used.index(finding.rule)
                    )
                    for report in reports
                    for finding in report.findings
                ],
            }
        ],
    }


def shown(text: str) -> str:
    """``text`` on one line, without what could act on a terminal."""
    return "".join(
        character if character.isprintable() else "\ufffd"
        for character in text.replace("\n", " ").replace("\t", " ")
    )


def _file(report: Report) -> dict[str, Any]:
    lines = Lines(report.text)
    return {
        "file": report.name,
        "commands": [
            {
                "engine": command.engine,
                "version": command.version,
                "line": lines.at(command.start)[0],
                "command": command.text,
            }
            for command in report.commands
        ],
        "findings": [_finding(lines, finding) for finding in report.findings],
    }


def _finding(lines: Lines, finding: Finding) -> dict[str, Any]:
    place = lines.place(finding.start, finding.end)
    return {
        "code": finding.code,
        "rule": finding.rule,
        "severity": finding.severity,
        "line": place.line,
        "column": place.column,
        "end_line": place.end_line,
        "end_column": place.end_column,
        "what": finding.what,
        "why": finding.why,
        "fix": finding.instead,
        "command": finding.command if finding.command >= 0 else None,
        "edits": [
            {"start": edit.start, "end": edit.end, "text": edit.new}
            for edit in finding.edits
        ],
    }


def _rule(name: str) -> dict[str, Any]:
    rule = RULES[name]
    return {
        "id": rule.code,
        "name": rule.name,
        "shortDescription": {"text": rule.about},
        "defaultConfiguration": {"level": rule.severity},
    }


def _result(
    report: Report, lines: Lines, finding: Finding, index: int
) -> dict[str, Any]:
    message = finding.what + (f". {finding.instead}" if finding.instead else "")
    uri = quote(PurePath(report.name or "command").as_posix())
    result: dict[str, Any] = {
        "ruleId": finding.code,
        "ruleIndex": index,
        "level": finding.severity,
        "message": {"text": message},
        "locations": [
            {
                "physicalLocation": {
                    "artifactLocation": {"uri": uri},
                    "region": _region(lines, finding.start, finding.end),
                }
            }
        ],
    }
    if finding.edits:
        result["fixes"] = [
            {
                "description": {"text": finding.instead or "the repaired text"},
                "artifactChanges": [
                    {
                        "artifactLocation": {"uri": uri},
                        "replacements": [
                            {
                                "deletedRegion": _region(lines, edit.start, edit.end),
                                "insertedContent": {"text": edit.new},
                            }
                            for edit in finding.edits
                        ],
                    }
                ],
            }
        ]
    return result


def _region(lines: Lines, start: int, end: int) -> dict[str, int]:
    place = lines.place(start, end)
    return {
        "startLine": place.line,
        "startColumn": place.column,
        "endLine": place.end_line,
        "endColumn": place.end_column,
    }
