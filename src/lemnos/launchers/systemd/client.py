"""One machine's systemd, asked through a transport: the user's own manager, or the system's."""

from __future__ import annotations

from collections.abc import Sequence

from lemnos.errors import LemnosError
from lemnos.launchers.systemd.parse import PROPERTIES, Service, names_of, services_of
from lemnos.transport.base import Done, Transport

OLDEST = 244
"""``Type=exec`` and the restarts that are counted came with 240, what is left of the settings by 244."""
STOP_WAIT_S = 120.0

# What systemctl says -> (what that means, what to do).
_SAYINGS = (
    (
        "not been booted with systemd",
        "this machine does not run systemd",
        "use --on local",
    ),
    (
        "Failed to connect to bus",
        "no systemd of yours runs there",
        "have it started at boot: loginctl enable-linger {user}; without a seat that needs sudo",
    ),
    (
        "authentication required",
        "units of the system need root",
        "run lemnos as root, or use systemd: {{scope: user}}",
    ),
    (
        "Access denied",
        "units of the system need root",
        "run lemnos as root, or use systemd: {{scope: user}}",
    ),
    (
        "Permission denied",
        "units of the system need root",
        "run lemnos as root, or use systemd: {{scope: user}}",
    ),
)


class Manager:
    """The services of one manager. All methods raise LemnosError where it cannot be asked."""

    def __init__(self, transport: Transport, *, system: bool) -> None:
        self.transport = transport
        self._system = system
        self._who: tuple[str, str] | None = None
        self._host_name: str | None = None
        self._checked = False

    def run(self, *argv: str, timeout_s: float = 60.0) -> Done:
        """A command beside the manager; ``systemctl --user`` finds it from shells without a session."""
        if "--user" in argv[:2]:
            argv = ("env", f"XDG_RUNTIME_DIR=/run/user/{self.who()[0]}", *argv)
        done = self.transport.run(*argv, timeout_s=timeout_s)
        if done.code:
            self._explain(done.said)
        return done

    def control(self, *words: str, timeout_s: float = 60.0) -> Done:
        """``systemctl [--user] WORDS``."""
        scope = () if self._system else ("--user",)
        return self.run("systemctl", *scope, *words, timeout_s=timeout_s)

    def who(self) -> tuple[str, str]:
        """(number, name) of the user there."""
        if self._who is None:
            number = self.transport.run("id", "-u").out.strip()
            name = self.transport.run("id", "-un").out.strip()
            self._who = number, name
        return self._who

    def host_name(self) -> str:
        """What the machine calls itself; empty where it cannot be asked."""
        if self._host_name is None:
            try:
                self._host_name = self.transport.run("uname", "-n").out.strip()
            except LemnosError:
                return ""
        return self._host_name

    def listed(self, pattern: str) -> list[str]:
        """The unit files whose names match."""
        words = ("list-unit-files", "--no-legend", "--no-pager", "--full", pattern)
        return names_of(self.control(*words).out)

    def show(self, names: Sequence[str]) -> dict[str, Service]:
        """The services of these names that there are."""
        if not names:
            return {}
        done = self.control("show", "--no-pager", "-p", PROPERTIES, "--", *names)
        if done.code:
            raise LemnosError(
                f"systemd does not tell of its units: {done.said}",
                where=self.transport.where,
            )
        return services_of(done.out)

    def check(self) -> None:
        """Whether units can live here: once. Raises LemnosError with what is to be done first."""
        if self._checked:
            return
        first = self.control("--version").out.split()
        version = next((word for word in first if word.isdecimal()), "0")
        if int(version) < OLDEST:
            raise LemnosError(
                f"systemd {version} is too old: {OLDEST} is the oldest that lemnos knows",
                where=self.transport.where,
                fix="use --on local",
            )
        if not self._system and not self._lingers():
            raise LemnosError(
                f"systemd would end all that {self.who()[1]} runs when the last session ends",
                where=self.transport.where,
                fix=f"loginctl enable-linger {self.who()[1]} (with sudo, if it asks for more)",
            )
        self._checked = True

    def _lingers(self) -> bool:
        number, name = self.who()
        done = self.transport.run("loginctl", "show-user", number, "-p", "Linger")
        if done.code == 0:
            return done.out.strip() == "Linger=yes"
        there = self.transport.run("test", "-e", f"/var/lib/systemd/linger/{name}")
        return there.code == 0

    def _explain(self, said: str) -> None:
        for mark, what, fix in _SAYINGS:
            if mark in said:
                user = self.who()[1]
                raise LemnosError(
                    what, where=self.transport.where, fix=fix.format(user=user)
                )
