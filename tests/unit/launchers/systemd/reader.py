"""Reads unit files as systemd does (systemd.syntax(7), systemd.service(5)), but strictly: what systemd
would only warn of is an error here."""

from __future__ import annotations

import re

SPECIFIERS = re.compile(r"%(.)?", re.DOTALL)
ESCAPES = {"\\": "\\", '"': '"', "'": "'", "n": "\n", "t": "\t", "s": " "}


def settings(text: str) -> list[tuple[str, str, str]]:
    """(section, key, value) of each assignment, lines joined and values stripped, in order."""
    found, section, waiting = [], "", ""
    assert "\r" not in text and "\0" not in text, "these end a line, too"
    for raw in text.split("\n"):
        line = raw.lstrip(" \t")
        if line.startswith(("#", ";")):
            continue  # also between joined lines
        joined = waiting + line
        if joined.endswith("\\"):
            waiting = joined[:-1] + " "
            continue
        waiting = ""
        if not joined.strip():
            continue
        if match := re.fullmatch(r"\[([A-Za-z]+)\]", joined.strip()):
            section = match[1]
            continue
        key, equals, value = joined.partition("=")
        assert equals and re.fullmatch(r"[A-Z][A-Za-z0-9]*", key.rstrip()), joined
        assert section, joined
        found.append((section, key.rstrip(), value.strip(" \t")))
    assert not waiting
    return found


def expanded(value: str) -> str:
    """Without specifiers: ``%%`` is the only one that may be there."""

    def one(match: re.Match[str]) -> str:
        assert match[1] in ("%", None), f"a specifier: {match[0]}"
        return "%"

    return SPECIFIERS.sub(one, value)


def words(value: str) -> list[str]:
    """The words of a value after specifiers were expanded; quotes and backslashes are read."""
    found: list[str] = []
    at, value = 0, expanded(value)
    while at < len(value):
        if value[at] in " \t":
            at += 1
            continue
        assert not re.match(r";(\s|$)", value[at:]), "a second command"
        word, quote = "", ""
        while at < len(value) and (quote or value[at] not in " \t"):
            sign = value[at]
            if sign == "\\":
                word += ESCAPES[value[at + 1]]
                at += 1
            elif sign == quote:
                quote = ""
            elif not quote and sign in "\"'":
                quote = sign
            else:
                word += sign
            at += 1
        assert not quote, "a quote without its end"
        found.append(word)
    return found


def command(value: str) -> list[str]:
    """The words of an ``Exec...=``: no prefix of the program, no variable, no second command."""
    assert value[0] not in "@-:+!|", value
    found = words(value)
    plain = [re.sub(r"\$\$", "\0", word) for word in found]
    assert not any("$" in word for word in plain), "a variable"
    return [word.replace("\0", "$") for word in plain]
