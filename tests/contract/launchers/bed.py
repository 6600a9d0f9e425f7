"""What the contract suite of launchers runs in: ``Bed``, programs for units, and questions about both.

All processes that a test starts carry a word of its own in their environment, by which they
are found wherever they run on this machine.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import urllib.request
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import psutil

from lemnos.launchers.base import Launcher
from lemnos.launchers.registry import launcher_for
from lemnos.launchers.site import Site
from lemnos.spec.plan import Command, Job, Plan, Secret
from lemnos.spec.unit import Rendered, Unit, UnitStatus
from lemnos.transport.base import Transport
from lemnos.transport.here import Here
from tests import samples, waiting

T = TypeVar("T")
KEY = "s3cret $HOME it's"
WORD = "LEMNOS_TEST_WORD"

# Programs of units: each is given a host, a port, and further words. What they print stands in them
# in two pieces: a log may begin with the command, and a test that waits for a word must not find it there.
SERVER = """
import http.server, json, os, socketserver, sys
host, port, *rest = sys.argv[1:]
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        told = {"argv": rest, "env": dict(os.environ), "pid": os.getpid()}
        body = json.dumps(told).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args):
        pass
class Server(socketserver.ThreadingTCPServer):  # HTTPServer asks DNS for its own name
    allow_reuse_address = daemon_threads = True
server = Server((host, int(port)), Handler)
print("up", json.dumps(rest), flush=True)
server.serve_forever()
"""
WAITER = "import signal; print('wai' 'ts', flush=True); signal.pause()"
ENDS = "print('en' 'ds', flush=True); raise SystemExit(3)"
POLITE = """
import signal, sys
def end(*_):
    print("as" "ked", flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
print("wai" "ts", flush=True)
while True:
    signal.pause()
"""
DEAF = """
import signal, subprocess, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('chi' 'ld', flush=True); signal.pause()"
subprocess.Popen([sys.executable, "-I", "-S", "-c", child], start_new_session=True)
signal.pause()
"""

ASK = """
import sys, urllib.request
direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
print(direct.open(sys.argv[1], timeout=10).read().decode())
"""


@dataclass
class Bed:
    """Where a launcher is tried. ``on`` is its word; ``transport`` reaches its machine."""

    directory: Path
    """Seen by every host of the bed under this path."""
    on: str
    transport: Transport = field(default_factory=Here)
    wait_s: float = 30.0
    """The longest that anything may take; nothing waits longer than it must."""
    keys: dict[str, Any] = field(default_factory=dict)
    """Of every spec: ``{"slurm": {"partition": "gpu"}}``."""
    python: tuple[str, ...] = (sys.executable, "-I", "-S")
    """On the hosts; no ``site``, so that it is quick to start and takes no part in coverage."""
    word: str = field(default_factory=lambda: uuid.uuid4().hex)
    made: list[Launcher] = field(default_factory=list)
    """They have children, so they are kept to the end of the test."""

    def site(self, name: str = "box", **spec_changes: Any) -> Site:
        """The deployment ``name``; its key is made, its directory too."""
        directory = self.directory / name
        directory.mkdir(parents=True, exist_ok=True)
        key_file = directory / "engine.key"
        key_file.write_text(KEY + "\n")
        key_file.chmod(0o600)
        return Site(
            deployment=name,
            spec=self.plan(name, **spec_changes).spec,
            transport=self.transport,
            directory=str(directory),
            cache=str(self.directory / "cache"),
            key_file=key_file,
            owner="test",
        )

    def plan(self, name: str = "box", **spec_changes: Any) -> Plan:
        """A plan of one process on one node."""
        return samples.plan(name, on=self.on, **self.keys | spec_changes)

    def launcher(self, name: str = "box", **spec_changes: Any) -> Launcher:
        """Made anew each time, as by a supervisor that starts again."""
        self.made.append(launcher_for(self.site(name, **spec_changes)))
        return self.made[-1]

    def unit(
        self,
        launcher: Launcher,
        name: str = "engine-0",
        *code: str,
        deployment: str = "box",
        argv: Sequence[str] = (),
        env: dict[str, str] | None = None,
        secrets: Sequence[Secret] = (),
        dry: bool = False,
    ) -> Unit:
        """A job for each program of ``code`` (``SERVER`` by default), the first with the API.

        ``argv`` and ``env`` are every job's; ``secrets`` are the first one's.
        """
        place = launcher.place(self.plan(deployment), name, dry=dry)
        files = launcher.files(name)
        jobs = []
        for rank, program in enumerate(code or (SERVER,)):
            host = place.hosts[min(rank, len(place.hosts) - 1)]
            port = 0 if rank else place.port
            command = Command(
                argv=(*self.python, "-c", program, host, str(port), *argv),
                env={WORD: self.word, **(env or {})},
                secrets=() if rank else tuple(secrets),
            )
            jobs.append(
                Job(
                    deployment=deployment,
                    role="engine",
                    index=int(name.rpartition("-")[2]),
                    rank=rank,
                    command=command,
                    host=host,
                    port=port,
                    log=files.log_of(rank),
                )
            )
        return Unit(deployment=deployment, name=name, jobs=tuple(jobs), place=place)

    def over_hosts(self, launcher: Launcher, *code: str) -> Unit:
        """``engine-0`` with a process of ``code`` on each host, the same port on all."""
        unit = self.unit(launcher, "engine-0", *code)
        jobs = []
        for job, host in zip(unit.jobs, unit.place.hosts, strict=True):
            argv = list(job.command.argv)
            argv[-2:] = [host, str(unit.place.port)]
            command = job.command.model_copy(update={"argv": tuple(argv)})
            jobs.append(job.model_copy(update={"host": host, "command": command}))
        return unit.model_copy(update={"jobs": tuple(jobs)})

    def get(self, url: str) -> dict[str, Any]:
        """What the unit at ``url`` tells of itself. OSError while nothing listens there."""
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with direct.open(url, timeout=10) as answer:
            told: dict[str, Any] = json.loads(answer.read())
        return told

    def get_there(self, url: str) -> dict[str, Any]:
        """The same asked by the transport's machine, for beds whose network is theirs alone."""
        done = self.transport.run(*self.python, "-c", ASK, url)
        if done.code:
            raise OSError(done.err)
        told: dict[str, Any] = json.loads(done.out)
        return told

    def until(self, condition: Callable[[], T]) -> T:
        """The first true answer."""
        return waiting.until(condition, within_s=self.wait_s)

    def told(self, launcher: Launcher, name: str = "engine-0") -> dict[str, Any]:
        """What the unit tells, as soon as it listens where its status says."""

        def asked() -> dict[str, Any] | None:
            status = launcher.status()[name]
            assert status.alive, f"{status.why}: {said(launcher, name)}"
            try:
                return self.get(status.url) if status.url else None
            except OSError:
                return None

        answer = self.until(asked)
        assert answer
        return answer

    def processes(self) -> list[psutil.Process]:
        """Whatever runs on this machine (in its containers and namespaces, too) with the bed's word."""
        found = []
        for process in psutil.process_iter():
            try:
                mine = process.environ().get(WORD) == self.word
                if mine and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def written(self, site: Site, rendered: Rendered) -> dict[str, str]:
        """The files of ``rendered`` as they are on the launcher's machine now."""
        found = {}
        for name in rendered.files:
            data = self.transport.read(f"{site.unit_directory('engine-0')}/{name}")
            if data is not None:
                found[name] = data.decode()
        return found

    def names(self) -> set[str]:
        """Every file and directory below the bed's, so that what is written is seen."""
        return {str(p.relative_to(self.directory)) for p in self.directory.rglob("*")}


def said(launcher: Launcher, name: str = "engine-0") -> str:
    """The unit's logs as one text."""
    logs = launcher.logs(name)
    return "\n".join(line for log in logs for line in launcher.read(log, 1000))


def status_of(launcher: Launcher, name: str = "engine-0") -> UnitStatus:
    """Of a unit that may be unknown (any more): then ended."""
    return launcher.status().get(name, UnitStatus(state="ended"))


def swept(bed: Bed) -> None:
    """For the fixture's end: nothing of the bed's deployments runs on, whatever failed."""
    for launcher in bed.made:
        launcher.sweep()
    for process in bed.processes():
        process.kill()


def evil(directory: Path) -> list[str]:
    """Words that must arrive as they are; each that is executed leaves a ``canary`` below ``directory``."""
    touch = f"touch '{directory}/canary"
    return [
        f"$({touch}1')",
        f"`{touch}2'`",
        f"'; {touch}3'; '",
        f'"; {touch}4\'; "',
        f"\n{touch}5'\n",
        f"&& {touch}6' || #",
        "%n %i %% ${HOME} $HOME $$",
        "-leading --and=more",
        "back\\slash \\n \\",
        "",
        " two  spaces\tand a tab ",
        "*",
        "~",
        "é ü 漢",
    ]


def evils(bed: Bed) -> dict[str, str]:
    """The same as variables."""
    return {f"CANARY_{i}": word for i, word in enumerate(evil(bed.directory))}


def check_script(directory: Path, name: str, text: str) -> None:
    """A shell script has no error of syntax, and shellcheck, where it is installed, finds nothing."""
    first = text.partition("\n")[0]
    shell = next((s for s in ("bash", "sh") if first.endswith(s)), None)
    if shell is None:
        return
    path = directory / Path(name).name
    path.write_text(text)
    commands = [[shell, "-n", str(path)]]
    if shutil.which("shellcheck"):
        # Not what only asks whether a quoted $ or \ was meant: it was, quoting is all we do.
        commands.append(["shellcheck", "-s", shell, "-e", "SC2016,SC1003", str(path)])
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
