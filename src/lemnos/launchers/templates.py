"""Scripts from templates, in which no value can be forgotten to be quoted.

Whatever a template prints is quoted as one word for a POSIX shell, late values as variables
(``late.quoted``), unless it is ``Shell``: text that was made for the shell on purpose.
"""

from __future__ import annotations

import functools

import jinja2

from lemnos.launchers.late import quoted


class Shell(str):
    """Text that is shell already: its values were quoted when it was made."""


def script(template: str, **values: object) -> str:
    """``templates/<template>`` with ``values``. A value that the template names and nobody gives is
    an error of ours (jinja2.UndefinedError), never an empty word."""
    return _environment().get_template(template).render(**values)


def shell_word(value: object) -> str:
    """What a template prints for ``value``."""
    if isinstance(value, Shell | jinja2.Undefined):  # the latter raises here
        return str(value)
    if isinstance(value, int | float):
        return quoted(str(value))
    if isinstance(value, str):
        return quoted(value)
    raise TypeError(f"no word for a shell: {value!r}")


@functools.cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("lemnos.launchers"),
        finalize=shell_word,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
