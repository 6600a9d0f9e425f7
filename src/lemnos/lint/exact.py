"""``--exact``: the installed engine's own parser and configuration check, in its own Python."""

from __future__ import annotations

import json
import re
import subprocess
from importlib import resources
from pathlib import Path
from typing import Any

from lemnos.errors import LemnosError, UsageError
from lemnos.lint.findings import Checked, Finding, Report

TIMEOUT_S = 180.0
"""vLLM takes 10 to 40 s to import."""
ASKED = ("vllm", "sglang")


def exact_findings(report: Report, python: str | None = None) -> list[Finding]:
    """What the engines themselves say of the report's commands.

    ``python``: an engine's interpreter, instead of the environments of ``lemnos engines
    install``. Raises UsageError that says how to get one where none is here, LemnosError where
    the engine does not answer.
    """
    findings = []
    for number, command in enumerate(report.commands):
        if command.engine not in ASKED or not command.known:
            continue
        program = python or program_of(command)
        answer = ask(program, command.engine, command.words)
        if finding := _judged(answer, command, number):
            findings.append(finding)
    return findings


def program_of(command: Checked) -> str:
    """The interpreter of the installed engine. Raises UsageError that says how to install it."""
    from lemnos.engines.environments.places import environments

    wanted = (command.engine, f"{command.engine}-cpu")
    here = [each for each in environments() if each.engine in wanted]
    for each in here:
        if each.version == command.version:
            return each.program
    name = f"{command.engine}=={command.version}"
    there = f"; here: {', '.join(each.name for each in here)}" if here else ""
    raise UsageError(
        f"--exact asks the installed engine, and {name} is not installed{there}",
        fix=f"lemnos engines install {name}, or --engine-python PATH; without --exact the "
        "tables of flags serve",
    )


def ask(python: str, engine: str, argv: tuple[str, ...]) -> dict[str, Any]:
    """The probe's answer. Raises LemnosError where there is none."""
    probe = resources.files("lemnos.lint").joinpath("exact_probe.py").read_text()
    try:
        done = subprocess.run(
            [str(Path(python).expanduser()), "-c", probe],
            input=json.dumps({"engine": engine, "argv": list(argv)}),
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    except OSError as error:
        raise UsageError(f"cannot be run ({error.strerror})", where=python) from None
    except subprocess.TimeoutExpired:
        raise LemnosError(
            f"{engine} did not answer within {TIMEOUT_S:.0f} s", where=python
        ) from None
    lines = done.stdout.strip().splitlines()
    try:
        answer = json.loads(lines[-1]) if lines else None
    except ValueError:
        answer = None
    if not isinstance(answer, dict) or answer.get("broken"):
        said = answer["message"] if isinstance(answer, dict) else _last(done.stderr)
        raise LemnosError(f"{engine} could not be asked: {said}", where=python)
    return answer


def _judged(answer: dict[str, Any], command: Checked, number: int) -> Finding | None:
    if answer["parsed"] and not answer.get("refused"):
        return None
    said = re.sub(r"\s+", " ", str(answer["message"])).strip()
    who = "configuration check" if answer["parsed"] else "parser"
    return Finding(
        "engine-refuses",
        command.start,
        command.end,
        f"{command.engine} {command.version}'s own {who} refuses: {said[:400]}",
        command=number,
    )


def _last(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it said nothing"
