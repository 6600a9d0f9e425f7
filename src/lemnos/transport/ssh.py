"""Commands on another host, through OpenSSH's own client.

The user's ``~/.ssh/config``, agent, keys and known hosts hold. Nothing is ever asked: a
program has no one to ask (``BatchMode``). Every word of a command is quoted for the remote
shell.
"""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path
from typing import IO

from lemnos.errors import LemnosError, UsageError

CONNECT_S = 10

# What OpenSSH's client says -> (what happened, what to do).
_SAYINGS = (
    (
        "REMOTE HOST IDENTIFICATION HAS CHANGED",
        "the host's key has changed",
        "ask its administrator whether that is right; then 'ssh-keygen -R {host}'",
    ),
    (
        "Host key verification failed",
        "the host's key is not known here",
        "connect once by hand and compare the fingerprint: ssh {host}",
    ),
    (
        "Permission denied",
        "the host does not let you in",
        "try 'ssh {host}': a key in the agent or an IdentityFile is needed",
    ),
    (
        "Could not resolve hostname",
        "no such host",
        "check the name, or add it to ~/.ssh/config",
    ),
    ("Connection refused", "nothing listens for SSH there", "is sshd running there?"),
    ("timed out", "the host does not answer", "check the network and the name"),
    ("No route to host", "the host cannot be reached", "check the network"),
)


class Ssh:
    """One host. ``config`` is an ssh_config file to use instead of the user's."""

    def __init__(self, host: str, config: Path | None = None) -> None:
        if not host or host.startswith("-") or any(c.isspace() for c in host):
            raise UsageError(f"'{host}' is no host's name")
        self.host = host
        self._command = [
            "ssh",
            "-o",
            "BatchMode=yes",
            "-o",
            f"ConnectTimeout={CONNECT_S}",
        ]
        if config is not None:
            self._command += ["-F", str(config)]

    def run(self, *argv: str, stdin: IO[bytes] | int | None = None) -> str:
        """Run ``argv`` there; its standard output. Raises LemnosError if it fails."""
        return self.shell(shlex.join(argv), stdin=stdin)

    def shell(self, script: str, stdin: IO[bytes] | int | None = None) -> str:
        """Run a shell script there, whose values the caller quoted; its standard output."""
        command = [*self._command, "--", self.host, script]
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL if stdin is None else stdin,
                capture_output=True,
                check=False,
            )
        except FileNotFoundError:
            raise _no_ssh() from None
        if done.returncode:
            raise self.problem(done.returncode, done.stderr.decode(errors="replace"))
        return done.stdout.decode(errors="replace")

    def start(self, script: str) -> subprocess.Popen[bytes]:
        """Start a shell script there, to be talked with through its standard streams.

        The caller ends it: a script that reads its input ends when this process does.
        """
        try:
            return subprocess.Popen(
                [*self._command, "--", self.host, script],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,  # Ctrl-C is for us, who then end it in order
            )
        except FileNotFoundError:
            raise _no_ssh() from None

    def problem(self, code: int, said: str) -> LemnosError:
        """What ``code`` and the words on standard error mean."""
        if code == 255:  # ssh's own; other codes are the remote command's
            for mark, what, fix in _SAYINGS:
                if mark in said:
                    return LemnosError(
                        what, where=self.host, fix=fix.format(host=self.host)
                    )
        words = " ".join(said.split())[-400:] or "no message"
        return LemnosError(
            f"a command ended with exit code {code}: {words}", where=self.host
        )


def _no_ssh() -> LemnosError:
    return LemnosError("there is no ssh here", fix="install OpenSSH's client")
