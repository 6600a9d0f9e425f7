"""Read shell text as far as finding commands needs: words, assignments, redirections, heredocs.

A reader of our own, because it must go on where a shell stops: an unbalanced quote, a
``<NODE0_IP>`` that nobody filled in, a continuation that is none. bashlex (GPL-3, last changed in
2023) stops at the first of these; tree-sitter-bash returns one error for all that follows, and
its scanner ends the process on some input (tree-sitter-bash issue 220). Never raises.
"""

from __future__ import annotations

import re

from lemnos.lint.shell_parts import (
    Assignment,
    Piece,
    RawWord,
    Redirect,
    Script,
    Simple,
    Trouble,
)
from lemnos.lint.shell_words import ENDS_EARLY, PLACEHOLDER, WordReader
from lemnos.lint.words import Word

_REDIRECT = re.compile(r"(?:\d{0,3})(?:<<<|<<-?|>>|>&|<&|>\||<>|[<>])|&>>?")
_ASSIGN = re.compile(r"([A-Za-z_]\w*)(\+?)=")
_SIMPLE = re.compile(r"[A-Za-z_./~:@%+,-][\w./~:@%+,-]*(?=[ \t\n])")
_FLAG_FIRST = re.compile(r"--?[A-Za-z][\w.-]*(?=[\s=\\]|\Z)")
_NEXT = re.compile(r"\r?\n[ \t]*")
_FLAG_FOLLOWS = re.compile(r"\s*--?[A-Za-z]")
_RESERVED = {"if", "then", "do", "else", "elif", "while", "until", "!", "{", "time"}
_DECLARES = ("export", "declare", "local", "readonly", "typeset", "env")


def read(source: Word) -> Script:
    """Read ``source`` (a whole script, or a word that holds one); places are the document's."""
    reader = _Reader(source)
    place = 0
    while place < len(source.text):
        place = reader.until("", place, 0) + 1
    return reader.script


class _Reader(WordReader):
    """Commands: each method takes a place in the text and returns the next one."""

    def until(self, close: str, place: int, depth: int) -> int:
        """Read commands up to the closing ``)`` (or the end); returns its place."""
        command = Simple()
        while place < len(self.text):
            if found := _SIMPLE.match(self.text, place):
                place = self._simple(command, place, found.end())
                continue
            character = self.text[place]
            if character == close:
                break
            if character in " \t\r":
                place += 1
            elif character == "\n":
                command, place = self._newline(command, place)
            elif character == "#":
                place = self._comment(command, place)
            elif character == "\\" and self.continues(place):
                place = self._continuation(command, place)
            elif character in ";&|()" and not _REDIRECT.match(self.text, place):
                command, place = self._operator(command, place)
            elif self._redirects(place):
                place = self._redirect(command, place, depth)
            else:
                place = self._word_or_assignment(command, place, depth)
        self._finish(command, close or "end")
        if not close:
            self._bodies(len(self.text))
        return place

    def _simple(self, command: Simple, place: int, stop: int) -> int:
        """A word without quotes, variables and assignments: most words are."""
        start, end = self.where(place), self.end(stop)
        at, to = self.at[place:stop], self.to[place:stop]
        piece = Piece("text", self.text[place:stop], start, end, False, at, to)
        command.words.append(RawWord((piece,), start, end))
        return stop

    def _finish(self, command: Simple, after: str) -> Simple:
        command.after = after
        if command.words or command.assignments or command.redirects:
            self.script.commands.append(command)
        return Simple()

    def _operator(self, command: Simple, place: int) -> tuple[Simple, int]:
        two = self.text[place : place + 2]
        operator = two if two in ("&&", "||", ";;", "|&", ";&") else self.text[place]
        return self._finish(command, operator), place + len(operator)

    def _newline(self, command: Simple, place: int) -> tuple[Simple, int]:
        following = self._next_line(place)
        if command.words and not self.waiting and self._flag_follows(following):
            # a command cannot begin with a flag: the lines belong together
            back = place
            while self.text[back - 1] in " \t\r":
                back -= 1
            self._trouble("missing-continuation", back, back, " \\", command)
            return command, following
        command = self._finish(command, "\n")
        return command, self._bodies(place + 1)

    def _flag_follows(self, place: int) -> bool:
        """Whether the next line that is no comment begins with a flag."""
        while self.text[place : place + 1] == "#":
            stop = self.text.find("\n", place)
            if stop < 0:
                return False
            place = self._next_line(stop)
        return bool(_FLAG_FIRST.match(self.text, place))

    def _next_line(self, place: int) -> int:
        found = _NEXT.match(self.text, place)
        return found.end() if found else place + 1

    def _comment(self, command: Simple, place: int) -> int:
        """To the end of the line; inside a command it ends that, whatever was meant."""
        stop = self.text.find("\n", place)
        stop = len(self.text) if stop < 0 else stop
        following = _FLAG_FOLLOWS.match(self.text, stop)
        if not command.words or not following:
            return stop
        line = self.text[self.text.rfind("\n", 0, place) + 1 : place]
        comment = self.text[place:stop].rstrip(" \\\t\r")
        if line.strip():
            begins = place - len(line) + len(line.rstrip())
            self._trouble("comment-in-command", begins, stop, " \\", command, comment)
        else:
            begins = place - len(line)
            self._trouble("comment-in-command", begins, stop + 1, "", command, comment)
        return following.end() - len(following.group().lstrip())

    def _continuation(self, command: Simple, place: int) -> int:
        early = ENDS_EARLY.match(self.text, place)
        if early is None:
            if self.text[place + 1] == "\r":
                self._trouble("carriage-return", place + 1, place + 2, "", command)
            return self.text.index("\n", place) + 1
        comment = (early["comment"] or "").rstrip()
        self._trouble("ends-early", place + 1, early.end(), "", command, comment)
        line = self.text.find("\n", early.end())
        return len(self.text) if line < 0 else line + 1

    def _trouble(
        self,
        code: str,
        start: int,
        end: int,
        replace: str,
        command: Simple,
        comment: str = "",
    ) -> None:
        first = self.where(start)
        if command.assignments:
            first = command.assignments[0].start
        elif command.words:
            first = command.words[0].start
        begins = self.where(start) if end > start else self.end(start)
        stop = self.end(end) if end > start else begins
        self.script.troubles.append(
            Trouble(code, begins, stop, replace, comment, first)
        )

    def _redirects(self, place: int) -> bool:
        if self.text[place] == "<" and PLACEHOLDER.match(self.text, place):
            return False
        return bool(_REDIRECT.match(self.text, place))

    def _redirect(self, command: Simple, place: int, depth: int) -> int:
        found = _REDIRECT.match(self.text, place)
        assert found
        operator = found.group().lstrip("0123456789")
        start, place = place, found.end()
        if operator in "<>" and self.text[place : place + 1] == "(":
            place = self.until(")", place + 1, depth + 1) + 1
            return min(place, len(self.text))
        while self.text[place : place + 1] in (" ", "\t"):
            place += 1
        target, after = self.word(place, depth)
        spot = (self.where(start), self.end(after))
        command.redirects.append(
            Redirect(operator, target if after > place else None, *spot)
        )
        if operator in ("<<", "<<-") and after > place:
            quoted = self.text[place:after]
            name = re.sub(r"[\\'\"]", "", quoted)
            self.waiting.append(
                (command, len(command.redirects) - 1, name, operator == "<<-")
            )
        return max(after, found.end())

    def _bodies(self, place: int) -> int:
        """Take the bodies of the heredocs that the last line announced."""
        for command, number, name, dashed in self.waiting:
            start = place
            stop, place = self._body(place, name, dashed)
            old = command.redirects[number]
            if stop < 0:
                stop = place
                self.trouble_at("unended-heredoc", old.start, old.end)
            body = self.inner(start, stop)
            command.redirects[number] = Redirect(
                old.operator, old.target, old.start, old.end, body
            )
        self.waiting.clear()
        return place

    def _body(self, place: int, name: str, dashed: bool) -> tuple[int, int]:
        """(where the body ends, where the text goes on); -1 where nothing ends it."""
        while place < len(self.text):
            stop = self.text.find("\n", place)
            stop = len(self.text) if stop < 0 else stop
            line = self.text[place:stop].rstrip("\r")
            if (line.lstrip("\t") if dashed else line) == name:
                return place, min(stop + 1, len(self.text))
            place = stop + 1
        return -1, len(self.text)

    def _word_or_assignment(self, command: Simple, place: int, depth: int) -> int:
        found = _ASSIGN.match(self.text, place)
        before = [_text(word) for word in command.words]
        declares = before and before[0] in _DECLARES
        if not found or not (declares or set(before) <= _RESERVED):
            return self._append(command, place, depth)
        start, name, append = place, found[1], bool(found[2])
        place = found.end()
        items = None
        value = None
        if self.text[place : place + 1] == "(":
            items, place = self._array(place + 1, depth)
        else:
            value, place = self.word(place, depth)
        command.assignments.append(
            Assignment(name, value, items, append, self.where(start), self.end(place))
        )
        return place

    def _append(self, command: Simple, place: int, depth: int) -> int:
        word, after = self.word(place, depth)
        if after == place:  # nothing that begins a word: never stand still
            return place + 1
        command.words.append(word)
        return after

    def _array(self, place: int, depth: int) -> tuple[tuple[RawWord, ...], int]:
        items: list[RawWord] = []
        while place < len(self.text) and self.text[place] != ")":
            if self.text[place].isspace():
                place += 1
            elif self.text[place] == "#":
                stop = self.text.find("\n", place)
                place = len(self.text) if stop < 0 else stop
            elif self.text[place] == "\\" and self.continues(place):
                stop = self.text.find("\n", place)
                place = len(self.text) if stop < 0 else stop + 1
            else:
                word, after = self.word(place, depth)
                if after > place:
                    items.append(word)
                place = max(after, place + 1)
        return tuple(items), min(place + 1, len(self.text))


def _text(word: RawWord) -> str:
    return "".join(piece.text for piece in word.pieces if piece.kind == "text")
