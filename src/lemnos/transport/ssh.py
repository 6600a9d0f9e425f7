"""Commands and files of another host, through OpenSSH's own client.

The user's ``~/.ssh/config``, agent, keys and known hosts hold. Nothing is ever asked: a
program has no one to ask (``BatchMode``). Commands share one connection (``sharing``); streams
(``shell``, ``start``) have one each, so that a model on its way holds no command up.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import IO

from lemnos.errors import LemnosError, UsageError
from lemnos.transport import sayings, sharing, wrapping
from lemnos.transport.base import Done
from lemnos.transport.forwards import Forward, over_ssh

CONNECT_S = 10
"""A host that does not answer is waited for so long."""
ALIVE = ("-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=3")
"""A connection that carries nothing any more is given up after 15 s."""
SSH_FAILED = 255
NOT_THERE = 44
"""The exit code of our own scripts where there is no such file."""


class Ssh:
    """One host. ``config`` is an ssh_config file to use instead of the user's."""

    def __init__(self, host: str, config: Path | None = None) -> None:
        if not host or host.startswith("-") or any(c.isspace() for c in host):
            raise UsageError(f"'{host}' is no host's name")
        self.host = self.where = host
        self._command = ["ssh", "-T", "-o", "BatchMode=yes"]
        self._command += ["-o", f"ConnectTimeout={CONNECT_S}"]
        if config is not None:
            self._command += ["-F", str(config)]
        self._connecting = threading.Lock()
        self._forwarding = threading.Lock()
        self._socket: Path | None = None
        self._users_own = False
        self._home = ""
        self._forwards: dict[tuple[str, int], Forward] = {}

    # ------------------------------------------------------------ as a Transport

    def run(
        self, *argv: str, stdin: bytes | None = None, timeout_s: float = 60.0
    ) -> Done:
        """As the protocol says. Bytes that are no UTF-8 are replaced."""
        done = self._run(wrapping.command_script(argv), stdin, timeout_s, argv[0])
        said = done.stderr.decode(errors="replace")
        if wrapping.no_program(done.returncode, said):
            raise LemnosError(
                f"there is no '{argv[0]}' on the PATH there",
                where=self.host,
                fix="load its module in your login shell, or name another machine with via:",
            )
        return Done(done.returncode, done.stdout.decode(errors="replace"), said)

    def write(self, path: str, data: bytes, *, mode: int = 0o600) -> None:
        """As the protocol says. What arrived in part is never given the file's name."""
        target, parent = shlex.quote(path), shlex.quote(path.rpartition("/")[0] or "/")
        script = f"""
umask 077
[ ! -d {target} ] || {{ echo 'it is a directory' >&2; exit 1; }}
mkdir -p -- {parent} || exit 1
part={target}.$$.part
if cat > "$part" && [ "$(wc -c < "$part")" -eq {len(data)} ] \\
  && chmod {mode:o} "$part" && mv -f -- "$part" {target}; then exit 0; fi
rm -f -- "$part"
exit 1
"""
        self._file(script, path, "cannot be written", data)

    def read(self, path: str, *, last: int | None = None) -> bytes | None:
        """As the protocol says."""
        quoted = shlex.quote(path)
        how = "cat" if last is None else f"tail -c {last}"
        script = f"[ -e {quoted} ] || exit {NOT_THERE}\n{how} < {quoted}"
        done = self._file(script, path, "cannot be read")
        return None if done.returncode == NOT_THERE else done.stdout

    def remove(self, path: str) -> None:
        """As the protocol says."""
        self._file(f"rm -rf -- {shlex.quote(path)}", path, "cannot be removed")

    def home(self) -> str:
        """As the protocol says."""
        if not self._home:
            done = self._file('printf %s "$HOME"', "$HOME", "cannot be read")
            self._home = done.stdout.decode(errors="replace")
        return self._home

    def forward(self, host: str, port: int) -> str:
        """As the protocol says; the same URL for the same ``host`` and ``port``. Raises LemnosError
        while it cannot be made the first time."""
        with self._forwarding:
            known = self._forwards.get((host, port))
            if known is None:
                own = [] if self._is_users_own() else ["-S", "none"]
                command = [*self._command, *ALIVE, *own]
                known = over_ssh(command, self.host, host, port)
                self._forwards[host, port] = known
        return known.url

    def drop(self, host: str, port: int) -> None:
        """Let the forward go; none there is no error."""
        with self._forwarding:
            known = self._forwards.pop((host, port), None)
        if known:
            known.close()

    def close(self) -> None:
        """Let all forwards go, and the shared connection of this user to this host."""
        for host, port in [*self._forwards]:
            self.drop(host, port)
        if self._socket and sharing.alive(self._socket):
            path = ["-o", f"ControlPath={self._socket}"]
            asked = [*self._command, *path, "-O", "exit", "--", self.host]
            subprocess.run(asked, capture_output=True, check=False)

    # ------------------------------------------------------------ streams

    def output(self, *argv: str) -> str:
        """Run ``argv`` there; its standard output. Raises LemnosError if it fails."""
        return self.shell(shlex.join(argv))

    def shell(self, script: str, stdin: IO[bytes] | int | None = None) -> str:
        """Run a shell script there, whose values the caller quoted; its standard output."""
        script = wrapping.through_login_shell(wrapping.marked(script))
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
            said = wrapping.after_mark(done.stderr).decode(errors="replace")
            raise self.problem(done.returncode, said)
        return wrapping.after_mark(done.stdout).decode(errors="replace")

    def start(self, script: str) -> subprocess.Popen[bytes]:
        """Start a shell script there, to be talked with through its standard streams.

        The caller ends it: a script that reads its input ends when this process does.
        """
        script = wrapping.through_login_shell(script)
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
        return sayings.problem(self.host, code, said)

    # ------------------------------------------------------------ the shared connection

    def _file(
        self, script: str, path: str, what: str, data: bytes | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a script about ``path``. Raises LemnosError with its words if it fails."""
        done = self._run(wrapping.marked(script), data, 600.0, what)
        if done.returncode not in (0, NOT_THERE):
            words = done.stderr.decode(errors="replace").strip().rpartition(": ")[2]
            raise LemnosError(
                f"{what} ({words or f'exit code {done.returncode}'})",
                where=f"{self.host}:{path}",
            )
        return done

    def _run(
        self, script: str, stdin: bytes | None, timeout_s: float, name: str
    ) -> subprocess.CompletedProcess[bytes]:
        """A marked script, over the shared connection; its output from the mark on."""
        shared = self._shared()
        command = [*self._command, *shared, "--", self.host]
        command.append(wrapping.through_login_shell(script))
        try:
            done = subprocess.run(
                command,
                input=stdin or b"",
                capture_output=True,
                check=False,
                timeout=timeout_s,
            )
        except FileNotFoundError:
            raise _no_ssh() from None
        except subprocess.TimeoutExpired:
            raise LemnosError(
                f"'{name}' did not answer in {timeout_s:.0f} s", where=self.host
            ) from None
        except OSError as error:  # the kernel takes 128 KiB of a command
            raise LemnosError(
                f"'{name}' cannot be run ({error.strerror})", where=self.host
            ) from None
        if done.returncode == SSH_FAILED and wrapping.MARK not in done.stderr:
            raise self.problem(SSH_FAILED, done.stderr.decode(errors="replace"))
        if done.returncode == SSH_FAILED and self._broke(done.stderr):
            raise LemnosError(
                f"the connection broke while '{name}' ran", where=self.host
            )
        done.stdout = wrapping.after_mark(done.stdout)
        done.stderr = wrapping.after_mark(done.stderr)
        return done

    def _broke(self, said: bytes) -> bool:
        """Whether 255 is ssh's own: else a command ended with it."""
        if self._socket:
            return not sharing.alive(self._socket)
        return any(word in said for word in (b"Connection to", b"client_loop", b"mux_"))

    def _shared(self) -> list[str]:
        """ssh's options for the shared connection, which is begun if need be."""
        with self._connecting:
            if self._is_users_own():
                return []
            assert self._socket
            path = ["-o", f"ControlPath={self._socket}"]
            if sharing.alive(self._socket):
                return path
            with sharing.alone(self._socket):
                if not sharing.alive(self._socket):
                    self._begin([*path, "-o", "ControlMaster=auto"])
            return path

    def _begin(self, options: list[str]) -> None:
        """A connection that stays. It keeps what it is given as standard error: a file, since a
        pipe would not end before it does."""
        stay = [
            "-o",
            f"ControlPersist={sharing.KEPT_S}",
            "-o",
            "ClearAllForwardings=yes",
        ]
        command = [*self._command, *ALIVE, *options, *stay, "--", self.host, "exit 0"]
        with tempfile.TemporaryFile() as words:
            code = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=words,
                check=False,
                env=_unmarked(),
                start_new_session=True,  # Ctrl-C is for us, not for what others use, too
            ).returncode
            words.seek(0)
            said = words.read().decode(errors="replace")
        if code == SSH_FAILED:
            raise self.problem(code, said)

    def _is_users_own(self) -> bool:
        """Whether the user's configuration shares connections to this host already: then that
        holds (somebody who typed a second factor once), and nothing of ours. Asked once."""
        if self._socket is None and not self._users_own:
            try:
                asked = [*self._command, "-G", "--", self.host]
                done = subprocess.run(asked, capture_output=True, check=False)
            except FileNotFoundError:
                raise _no_ssh() from None
            settings = done.stdout.decode(errors="replace")
            if done.returncode:
                said = done.stderr.decode(errors="replace")
                raise self.problem(done.returncode, said)
            self._users_own = sharing.own_path_of(settings)
            if not self._users_own:
                self._socket = sharing.socket_for(self.host, settings)
        return self._users_own


def _unmarked() -> dict[str, str]:
    """The environment of a process that outlives us and is no job of any deployment."""
    return {name: v for name, v in os.environ.items() if not name.startswith("LEMNOS_")}


def _no_ssh() -> LemnosError:
    return LemnosError("there is no ssh here", fix="install OpenSSH's client")
