"""What lint says: findings with a rule, a place and, where possible, an edit. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field

from lemnos.lint.rules import RULES, Severity


@dataclass(frozen=True)
class Edit:
    """Replace ``[start, end)`` of the document by ``new``."""

    start: int
    end: int
    new: str


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, at ``[start, end)`` of the document.

    ``rule`` is a name of ``lemnos.lint.rules``. ``what`` and ``why`` are a sentence each;
    ``instead`` says what to do in words; ``edits`` do it. ``command`` is the number of the engine's command that it is about, -1: what is around it.
    """

    rule: str
    start: int
    end: int
    what: str
    why: str = ""
    instead: str = ""
    edits: tuple[Edit, ...] = ()
    command: int = -1
    graver: Severity | None = None
    """Instead of the rule's own severity."""

    @property
    def code(self) -> str:
        """``LMN202``."""
        return RULES[self.rule].code

    @property
    def severity(self) -> Severity:
        return self.graver or RULES[self.rule].severity


@dataclass(frozen=True)
class Place:
    """Line and column, from 1, as editors count them."""

    line: int
    column: int
    end_line: int
    end_column: int


class Lines:
    """Where each line of a text begins: offsets become lines and columns."""

    def __init__(self, text: str) -> None:
        self._starts = [0]
        for number, character in enumerate(text):
            if character == "\n":
                self._starts.append(number + 1)

    def place(self, start: int, end: int) -> Place:
        """The place of ``[start, end)``."""
        line, column = self.at(start)
        end_line, end_column = self.at(max(start, end))
        return Place(line, column, end_line, end_column)

    def at(self, offset: int) -> tuple[int, int]:
        """(line, column) of an offset."""
        line = bisect_right(self._starts, offset)
        return line, offset - self._starts[line - 1] + 1


@dataclass(frozen=True)
class Checked:
    """An engine's command that was checked, and against what."""

    engine: str
    version: str | None
    start: int
    end: int
    text: str
    """As it will run, wrappers left away, in one line; unknown parts are ``...``."""
    words: tuple[str, ...] = ()
    """The engine's argv; what is not known is as it is written."""
    known: bool = True
    """Whether all words are known before it runs."""


@dataclass
class Report:
    """A document's findings, in the order of its text."""

    name: str
    text: str
    findings: list[Finding] = field(default_factory=list)
    commands: list[Checked] = field(default_factory=list)

    @property
    def errors(self) -> int:
        return sum(one.severity == "error" for one in self.findings)

    def count(self, severity: Severity) -> int:
        """How many findings of this severity there are."""
        return sum(one.severity == severity for one in self.findings)


def fixed(text: str, findings: Sequence[Finding]) -> tuple[str, list[Finding]]:
    """``text`` with the edits of the findings made, and the findings that were repaired.

    Everything else stays byte for byte. All edits of a finding are made, or none. Deletions that
    overlap are made together; where others do, the first finding wins, and the next run sees
    what is left.
    """
    taken: list[Edit] = []
    done = []
    for finding in sorted(findings, key=lambda one: (one.start, one.code)):
        edits = [_merged(edit, taken) for edit in finding.edits]
        if not edits or any(edit is None for edit in edits):
            continue
        fresh = [edit for edit in edits if edit is not None]
        for edit in fresh:
            if edit in taken:
                continue
            taken = [o for o in taken if not (not o.new and _inside(o, edit))]
            taken.append(edit)
        done.append(finding)
    in_order = sorted(taken, key=lambda one: (one.start, one.end))
    for edit in in_order[::-1]:  # so that two insertions at one place keep their order
        text = text[: edit.start] + edit.new + text[edit.end :]
    return text, done


def _inside(inner: Edit, outer: Edit) -> bool:
    return outer.start <= inner.start and inner.end <= outer.end


def _merged(edit: Edit, taken: Sequence[Edit]) -> Edit | None:
    """The edit as it can be made beside the others: grown over a deletion, or None."""
    for other in taken:
        if edit == other or edit.end <= other.start or other.end <= edit.start:
            if edit.start == edit.end == other.start == other.end and edit != other:
                continue  # two insertions at one place: both, in order
            continue
        if edit.new or other.new:
            if not edit.new and _inside(other, edit) and other.start == other.end:
                return None
            return None
        if _inside(edit, other):
            return other
        start, end = min(edit.start, other.start), max(edit.end, other.end)
        edit = Edit(start, end, "")
    return edit
