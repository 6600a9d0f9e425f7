"""Values in unit files, by systemd.syntax(7): no value can become a setting, a specifier or a variable. Pure.

Three places read values differently:

- ``line``: all that stands after ``Key=``, as it is (paths of ``StandardOutput=append:``, numbers);
- ``word``: one of several words (``ReadWritePaths=``): in double quotes, with backslashes;
- ``arg``: a word of a command (``ExecStart=``), where ``$`` begins a variable as well.

Everywhere ``%`` begins a specifier and a backslash at a line's end joins the next one to it.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable

import jinja2

from lemnos.errors import UsageError

_CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
_SHARE = re.compile(r"\d+(\.\d+)?%")


class UnitText(str):
    """Text of a unit file whose values were quoted when it was made."""


def line(value: object) -> UnitText:
    """``value`` as the rest of a line. UsageError for what no line can hold."""
    text = _plain(value)
    if text.endswith("\\") or text != text.strip():
        raise UsageError(
            f"'{text}' cannot stand in a unit file of systemd",
            fix="it may not begin or end with a space, nor end with a backslash",
        )
    if _SHARE.fullmatch(text):  # CPUQuota=400%: a number of per cent, no specifier
        return UnitText(text)
    return UnitText(text.replace("%", "%%"))


def word(value: object) -> UnitText:
    """``value`` as one word among several."""
    text = _plain(value).replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return UnitText(f'"{text}"')


def arg(value: object) -> UnitText:
    """``value`` as one word of a command."""
    return UnitText(word(value).replace("$", "$$"))


def command(words: Iterable[object]) -> UnitText:
    """``words`` as a command."""
    return UnitText(" ".join(arg(each) for each in words))


def unit_file(template: str, **values: object) -> str:
    """``templates/<template>`` with ``values``: whatever it prints is a ``line``, unless one of
    the filters ``word``, ``arg`` and ``command`` made it something else."""
    return _environment().get_template(template).render(**values)


def _plain(value: object) -> str:
    text = str(value)
    if _CONTROL.search(text):
        raise UsageError(
            f"{text!r} cannot stand in a unit file of systemd",
            fix="it may hold no line breaks or control characters",
        )
    return text


def _printed(value: object) -> str:
    if isinstance(value, UnitText):
        return value
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        return line(value)
    raise TypeError(f"no text for a unit file: {value!r}")


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("lemnos.launchers"),
        finalize=_printed,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    environment.filters |= {"word": word, "arg": arg, "command": command}
    return environment
