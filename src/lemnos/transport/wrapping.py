"""Scripts on their way through somebody's login shell, and their output on its way back. Pure.

sshd gives a command to the user's login shell, which may be csh or fish, and whose start-up files
may print. So a script travels as text in which no shell finds anything to expand, to a POSIX
shell, and what comes back is read from a mark on.
"""

from __future__ import annotations

import re
import shlex

MARK = b"@lemnos begins@\n"
MISSING = 127
"""The exit code of ``command_script`` when there is no such program."""
_NO_PROGRAM = "@lemnos finds no such program@"

# What is the same to sh, csh, tcsh, zsh and fish within the quotes below, and to printf.
_PLAIN = re.compile(rb"[^A-Za-z0-9 _./:=,@+-]")


def through_login_shell(script: str) -> str:
    """``script`` for a POSIX shell, as one command line for whatever shell the user has."""
    octal = _PLAIN.sub(lambda match: rb"\%03o" % match[0][0], script.encode())
    return f"""exec sh -c 'eval "$(printf "{octal.decode()}")"'"""


def command_script(argv: tuple[str, ...]) -> str:
    """A POSIX script that becomes ``argv``. A program that is not on the path is looked for on a login
    shell's: administrators often put schedulers there, and ssh runs no login shell."""
    program = shlex.quote(argv[0])
    return f"""{_BEGIN}
have() {{ command -v {program} >/dev/null 2>&1; }}
have || {{
  path=$(bash -lc 'printf "\\n%s" "$PATH"' </dev/null 2>/dev/null | tail -n 1)
  PATH="$PATH${{path:+:$path}}"
}}
have || {{ echo {_NO_PROGRAM!r} >&2; exit {MISSING}; }}
exec {shlex.join(argv)}
"""


def marked(script: str) -> str:
    """``script`` with its output marked."""
    return f"{_BEGIN}\n{script}"


def after_mark(output: bytes) -> bytes:
    """What a script printed, without what start-up files did; all of it if it never began."""
    _, mark, rest = output.partition(MARK)
    return rest if mark else output


def no_program(code: int, said: str) -> bool:
    """Whether ``command_script`` found no program."""
    return code == MISSING and _NO_PROGRAM in said


_BEGIN = f"echo '{MARK.decode().strip()}'; echo '{MARK.decode().strip()}' >&2"
