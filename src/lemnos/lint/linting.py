"""A text in, a report out: every check in order. Reads nothing but cluster files that are named."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from lemnos.engines.flags import Schema, schema_for
from lemnos.engines.flags.schema import ENGINES
from lemnos.errors import LemnosError, UsageError, near
from lemnos.lint.around import (
    Request,
    command_findings,
    downloads_in,
    requests_in,
    run_findings,
    served_findings,
    setting_findings,
    text_findings,
)
from lemnos.lint.command import Command
from lemnos.lint.documents import Document, Kind, kind_of, read_document
from lemnos.lint.find import Found, search
from lemnos.lint.findings import Checked, Edit, Finding, Report
from lemnos.lint.flagging import flag_findings, parsed_by
from lemnos.lint.memory import cluster_from, machine_findings
from lemnos.lint.modelling import model_findings, model_of
from lemnos.lint.security import security_findings, speed_findings
from lemnos.lint.shell_parts import Trouble
from lemnos.lint.versions import Release, release_of

if TYPE_CHECKING:
    from lemnos.spec.cluster import Cluster

_TROUBLES = {
    "ends-early": (
        "the backslash is followed by a space, so that the command ends on this line",
        "what follows is run as a command of its own, and its flags never reach the engine",
        "end the line with the backslash; a comment goes on a line above the command",
    ),
    "comment-in-command": (
        "this comment ends the command: the flags below it never reach the engine",
        "a comment goes to the end of the line, its backslash with it",
        "write it above the command",
    ),
    "missing-continuation": (
        "the line ends the command, and the next one begins with a flag",
        "the flags below are run as a command of their own",
        "end the line with a backslash",
    ),
    "unbalanced-quote": (
        "nothing closes this quote; it was taken to end with its line",
        "the shell reads on to the end of the file",
        "",
    ),
    "unended-heredoc": ("nothing ends this heredoc", "", ""),
    "carriage-return": (
        "the line ends as on Windows: the backslash continues nothing",
        "the shell sees a carriage return after the backslash",
        "save the file with LF line ends",
    ),
}


@dataclass(frozen=True)
class Asked:
    """What the user says of a text: the engine, its release, and the machines."""

    engine: str | None = None
    version: str | None = None
    cluster: str | None = None


@dataclass(frozen=True)
class _Beside:
    """What the document says beside its commands: requests, and directories that it fills."""

    requests: list[Request]
    downloads: dict[str, str]
    commands: list[Command] = field(default_factory=list)


def lint(
    text: str, name: str = "", kind: Kind | None = None, asked: Asked | None = None
) -> Report:
    """Check every engine's command in ``text``.

    ``kind`` None: by the name and what is in it. Raises UsageError for an engine or a cluster
    that is not known, LemnosError for a cluster file that cannot be read. The text itself never
    raises: what is wrong with it is a finding.
    """
    asked = asked or Asked()
    if asked.engine and asked.engine not in (*ENGINES, "llamacpp"):
        raise UsageError(
            f"lint knows no engine '{asked.engine}'",
            fix=near(asked.engine, [*ENGINES]) or f"it knows {', '.join(ENGINES)}",
        )
    cluster = cluster_from(asked.cluster) if asked.cluster else None
    document = read_document(text, kind or kind_of(name, text))
    if kind == "command" and not document.reading.found and asked.engine:
        words = tuple(word for run in document.reading.runs[:1] for word in run.words)
        if words:
            document.reading.found.append(Found(asked.engine, words[0], words))
    report = Report(name, text)
    report.findings = sorted(
        set(_all(document, report, asked, cluster)),
        key=lambda one: (one.start, one.code, one.command),
    )
    return report


def _all(
    document: Document, report: Report, asked: Asked, cluster: Cluster | None
) -> Iterator[Finding]:
    text, reading = document.text, document.reading
    if document.trouble:
        sentence, place = document.trouble
        yield Finding("unreadable", place, place + 1, f"the text {sentence}")
    for trouble in reading.troubles:
        yield _trouble(trouble, text)
    if document.kind == "script":
        yield from _placeholders(document)
    around = [found for run in reading.runs for found in run_findings(run, text)]
    yield from around
    yield from setting_findings(document.settings)
    if cluster is None and document.gpus and document.gpus.kind:
        cluster = _named_cluster(document)
    taken = [(one.start, one.end) for one in around]
    beside = _Beside(requests_in(reading.runs), downloads_in(reading.runs))
    for number, found in enumerate(reading.found):
        for finding in _command(
            document, report, found, number, asked, cluster, beside
        ):
            if finding.rule == "moved-model":
                taken.append((finding.start, finding.end))
            yield finding
    yield from served_findings(beside.commands, beside.requests)
    yield from text_findings(text, taken)
    yield from _loose(document, asked)


def _command(
    document: Document,
    report: Report,
    found: Found,
    number: int,
    asked: Asked,
    cluster: Cluster | None,
    beside: _Beside,
) -> Iterator[Finding]:
    """Everything about one engine's command."""
    text = document.text
    if found.engine not in ENGINES:
        name = found.engine.removeprefix("other:").replace("llamacpp", "llama.cpp")
        report.commands.append(_checked(found, found.engine, None, text))
        yield Finding(
            "engine-not-checked",
            found.head.start,
            found.head.end,
            f"this starts {name}, whose flags lint does not know: nothing was checked",
            command=number,
        )
        return
    first = document.reading.found[0].engine
    wanted = asked.version if found.engine == (asked.engine or first) else None
    release = release_of(found.engine, wanted, found.version, text)
    schema = schema_for(found.engine, release.version)
    gpus = found.gpus or (document.gpus.count if document.gpus else None)
    command = Command(found, schema, text, number, gpus, _passed_on(found, schema))
    beside.commands.append(command)
    report.commands.append(_checked(found, found.engine, schema.version, text))
    yield from _release_findings(command, release)
    yield from flag_findings(command, parsed_by(command), release.source == "open")
    model = model_of(command, beside.downloads)
    yield from model_findings(command, model)
    yield from machine_findings(command, model, cluster)
    port = command.number_of("--port") or 8000
    reached = any(not one.local and one.port == port for one in beside.requests)
    yield from security_findings(command, reached)
    yield from speed_findings(command)
    yield from command_findings(command)


def _passed_on(found: Found, schema: Schema) -> tuple[Schema, ...]:
    """The engine whose flags a Dynamo worker passes on."""
    backend = found.engine.removeprefix("dynamo.")
    if backend == found.engine or backend == "frontend":
        return ()
    return (schema_for(backend, schema.carries.get(backend)),)


def _release_findings(command: Command, release: Release) -> Iterator[Finding]:
    schema = command.schema
    if release.source == "open":
        yield Finding(
            "version-open",
            release.start,
            release.end,
            f"the requirement allows every release from {release.version} on: the command was "
            f"checked against {schema.version}, and its flags against newer ones",
            "a fresh installation takes the newest release, whose flags are others",
            f"write =={release.version}",
        )
    if release.source == "none":
        yield Finding(
            "version-assumed",
            command.start,
            command.end,
            f"nothing says which release of {schema.engine} will run: checked against "
            f"{schema.version}, the newest known",
            instead="--engine-version says which",
            command=command.number,
        )
    elif schema.asked:
        yield Finding(
            "nearest-version",
            command.start,
            command.end,
            f"no flags are known for {schema.engine} {schema.asked}: checked against "
            f"{schema.version}, the nearest known",
            command=command.number,
        )


def _loose(document: Document, asked: Asked) -> Iterator[Finding]:
    """Flags that prose names by themselves, where it is about one engine."""
    engine = asked.engine or _engine_of(document)
    if engine not in ENGINES or not document.loose:
        return
    release = release_of(engine, asked.version, None, document.text)
    schema = schema_for(engine, release.version)
    for word in document.loose:
        runs = search(word).runs
        words = runs[0].words if runs else ()
        if not words:
            continue
        found = Found(engine, words[0], words)
        command = Command(
            found, schema, document.text, -1, None, _passed_on(found, schema)
        )
        for finding in flag_findings(command, parsed_by(command), False):
            if finding.rule in ("missing-value", "stray-word") or "{" in word.text:
                continue  # ``--tp N``, ``--mode {prefill,decode}``: said of the flag, not run
            yield replace(finding, graver="warning")


def _engine_of(document: Document) -> str | None:
    """The one engine that a document is about."""
    image = re.search(r"ai-dynamo/(vllm|sglang)-runtime", document.text)
    if image:
        return f"dynamo.{image[1]}"
    engines = {found.engine for found in document.reading.found}
    return engines.pop() if len(engines) == 1 else None


def _named_cluster(document: Document) -> Cluster | None:
    """What the batch file asks for, if the catalogue knows that GPU."""
    gpus = document.gpus
    assert gpus is not None
    try:
        return cluster_from(f"{gpus.nodes}x{gpus.per_node}x{gpus.kind}")
    except LemnosError:
        return None


def _trouble(trouble: Trouble, text: str) -> Finding:
    what, why, instead = _TROUBLES[trouble.code]
    edits: list[Edit] = []
    if trouble.replace is not None:
        edits.append(Edit(trouble.start, trouble.end, trouble.replace))
    if trouble.comment:
        begin = text.rfind("\n", 0, trouble.command) + 1
        indent = re.match(r"[ \t]*", text[begin:])
        assert indent
        edits.append(Edit(begin, begin, f"{indent.group()}{trouble.comment}\n"))
    return Finding(
        trouble.code,
        trouble.start,
        max(trouble.end, trouble.start + 1),
        what,
        why,
        instead,
        tuple(edits),
    )


def _placeholders(document: Document) -> Iterator[Finding]:
    for start, end in document.reading.placeholders:
        yield Finding(
            "placeholder",
            start,
            end,
            f"{document.text[start:end]} is still to be filled in",
            "the shell reads it as redirections from and to files",
        )


def _checked(found: Found, engine: str, version: str | None, text: str) -> Checked:
    words = [
        word.text if word.known else text[word.start : word.end] for word in found.words
    ]
    begin = text[found.head.start : found.words[0].start] if found.words else ""
    head = " ".join(re.sub(r"\\\r?\n", " ", begin).split()) or found.head.text
    if found.words and found.words[0] is found.head:
        head = ""
    line = " ".join([head, *words]).strip()
    known = all(word.known for word in found.words)
    return Checked(
        engine, version, found.head.start, found.end, line, tuple(words), known
    )
