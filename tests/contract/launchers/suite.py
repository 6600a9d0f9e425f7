"""The one contract of all launchers, with real processes: ``LauncherSuite``, and what it runs in, ``Bed``.

A launcher's test module makes a fixture ``bed`` (a ``Bed``, or a subclass where the processes
are on other hosts) and subclasses ``LauncherSuite``. Units are Python one-liners here: what a
launcher does is the same for an engine. All processes that a test starts carry a word of its
own in their environment, by which they are found wherever they run on this machine.
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

# Programs of units: each is given a host, a port, and further words.
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
WAITER = "import signal; print('waits', flush=True); signal.pause()"
ENDS = "print('ends', flush=True); raise SystemExit(3)"
POLITE = """
import signal, sys
def end(*_):
    print("asked", flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
print("waits", flush=True)
while True:
    signal.pause()
"""
DEAF = """
import signal, subprocess, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('child', flush=True); signal.pause()"
subprocess.Popen([sys.executable, "-I", "-S", "-c", child], start_new_session=True)
signal.pause()
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

    def get(self, url: str) -> dict[str, Any]:
        """What the unit at ``url`` tells of itself. OSError while nothing listens there."""
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with direct.open(url, timeout=10) as answer:
            told: dict[str, Any] = json.loads(answer.read())
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


class LauncherSuite:
    """What every launcher does. Its fixture ``bed`` sweeps at the end: see ``swept``."""

    def test_rendering_is_pure_and_is_what_submitting_writes(self, bed: Bed) -> None:
        launcher = bed.launcher()
        unit = bed.unit(launcher)
        before = bed.names()
        rendered = launcher.render(unit)
        assert launcher.render(unit) == rendered
        assert bed.names() == before, "rendering writes nothing"
        assert rendered.commands
        launcher.submit(unit)
        assert bed.written(bed.site(), rendered) == rendered.files

    def test_rendered_scripts_are_sound(self, bed: Bed, tmp_path: Path) -> None:
        launcher = bed.launcher()
        unit = bed.unit(
            launcher, "engine-0", SERVER, WAITER, argv=evil(tmp_path), env=evils(bed)
        )
        for name, text in launcher.render(unit).files.items():
            check_script(tmp_path, name, text)

    def test_a_dry_place_is_enough_to_render(self, bed: Bed) -> None:
        launcher = bed.launcher()
        before = bed.names()
        assert launcher.render(bed.unit(launcher, dry=True)).commands
        assert bed.names() == before

    def test_a_unit_comes_up_and_answers(self, bed: Bed) -> None:
        launcher = bed.launcher()
        assert launcher.status() == {}
        launcher.submit(bed.unit(launcher))
        assert launcher.status()["engine-0"].state in ("queued", "running")
        assert bed.told(launcher)["argv"] == []
        status = launcher.status()["engine-0"]
        assert status.state == "running" and not status.broken and not status.leaving
        assert status.hosts
        assert list(launcher.status()) == ["engine-0"]

    def test_submitted_twice_it_runs_once(self, bed: Bed) -> None:
        launcher = bed.launcher()
        unit = bed.unit(launcher)
        launcher.submit(unit)
        launcher.submit(unit)
        first = bed.told(launcher)["pid"]
        bed.launcher().submit(unit)
        assert bed.told(launcher)["pid"] == first
        assert said(launcher).count("up []") == 1

    def test_a_launcher_made_anew_finds_what_runs(self, bed: Bed) -> None:
        first = bed.launcher()
        first.submit(bed.unit(first))
        pid = bed.told(first)["pid"]
        again = bed.launcher()
        bed.until(lambda: again.status()["engine-0"].url)
        assert bed.told(again)["pid"] == pid
        again.cancel("engine-0", kill=True)
        bed.until(lambda: not status_of(again).alive)
        bed.until(lambda: not bed.processes())

    def test_how_a_unit_ended_is_said(self, bed: Bed) -> None:
        launcher = bed.launcher()
        launcher.submit(bed.unit(launcher, "engine-0", ENDS))
        bed.until(lambda: not launcher.status()["engine-0"].alive)
        assert "exit code 3" in launcher.status()["engine-0"].why
        assert "ends" in said(launcher)

    def test_a_process_of_several_that_ends_is_seen(self, bed: Bed) -> None:
        launcher = bed.launcher()
        launcher.submit(bed.unit(launcher, "engine-0", SERVER, ENDS))

        def seen() -> str:
            status = launcher.status()["engine-0"]
            return status.broken or ("" if status.alive else status.why)

        assert "exit code 3" in bed.until(seen)

    def test_cancelling_asks(self, bed: Bed) -> None:
        launcher = bed.launcher()
        launcher.submit(bed.unit(launcher, "engine-0", POLITE))
        bed.until(lambda: "waits" in said(launcher))
        launcher.cancel("engine-0")
        bed.until(lambda: not status_of(launcher).alive)
        assert "asked" in said(launcher)
        bed.until(lambda: not bed.processes())

    def test_killing_ends_all_of_it(self, bed: Bed) -> None:
        launcher = bed.launcher()
        launcher.submit(bed.unit(launcher, "engine-0", DEAF, WAITER))
        bed.until(lambda: "child" in said(launcher) and "waits" in said(launcher))
        launcher.cancel("engine-0", kill=True)
        bed.until(lambda: not status_of(launcher).alive)
        bed.until(lambda: not bed.processes())

    def test_each_job_has_a_log(self, bed: Bed) -> None:
        launcher = bed.launcher()
        launcher.submit(bed.unit(launcher, "engine-0", SERVER, WAITER))
        bed.told(launcher)
        bed.until(lambda: "waits" in said(launcher))
        logs = {log.job: log for log in launcher.logs("engine-0")}
        assert list(logs)[0] == "engine-0" and "engine-0.1" in logs
        assert "up []" in launcher.read(logs["engine-0"], 10)
        assert list(launcher.read(logs["engine-0.1"], 1)) == ["waits"]
        assert logs["engine-0"].role == "engine" and logs["engine-0"].host

    def test_every_value_arrives_as_it_was(self, bed: Bed) -> None:
        launcher = bed.launcher()
        words = evil(bed.directory)
        launcher.submit(bed.unit(launcher, argv=words, env=evils(bed)))
        told = bed.told(launcher)
        assert told["argv"] == words
        assert {name: told["env"].get(name) for name in evils(bed)} == evils(bed)
        assert not list(bed.directory.rglob("canary*")), "nothing was executed"

    def test_keys_reach_the_process_and_nobody_else(self, bed: Bed) -> None:
        launcher = bed.launcher()
        key_file = launcher.files("engine-0").key_file
        keyed = f"{bed.site().unit_directory('engine-0')}/engine.yaml"
        secrets = (
            Secret(key_file=key_file, env="ENGINE_KEY"),
            Secret(key_file=key_file, file=keyed, text="it's: {key}\n"),
        )
        unit = bed.unit(launcher, secrets=secrets)
        rendered = launcher.render(unit)
        assert KEY not in str(rendered)
        launcher.submit(unit)
        assert bed.told(launcher)["env"]["ENGINE_KEY"] == KEY
        assert Path(keyed).read_text() == f"it's: {KEY}\n"
        assert Path(keyed).stat().st_mode & 0o777 == 0o600
        assert KEY not in said(launcher)
        own = {Path(keyed), Path(key_file)}
        for path in bed.directory.rglob("*"):
            if path.is_file() and path not in own:
                assert KEY.encode() not in path.read_bytes(), path
        for process in psutil.process_iter():
            assert KEY not in _command_line(process)

    def test_sweeping_leaves_logs_only_and_others_alone(self, bed: Bed) -> None:
        launcher, other = bed.launcher("box"), bed.launcher("box-2")
        launcher.submit(bed.unit(launcher))
        other.submit(bed.unit(other, deployment="box-2"))
        assert bed.told(launcher)["pid"]
        pid = bed.told(other)["pid"]
        assert launcher.sweep() >= 1
        bed.until(lambda: len(bed.processes()) == 1)
        left = {p.name for p in (bed.directory / "box").rglob("*")} - {"engine.key"}
        assert left and all(".log" in name or ".out" in name for name in left), left
        assert not any(status.alive for status in launcher.status().values())
        assert bed.told(other)["pid"] == pid
        assert launcher.sweep() == 0
        other.sweep()
        bed.until(lambda: not bed.processes())

    def test_the_room_is_known(self, bed: Bed) -> None:
        launcher = bed.launcher()
        assert launcher.inventory().nodes
        room = launcher.room(bed.unit(launcher))
        assert room.free or room.why

    def test_names_that_nobody_knows_are_no_error(self, bed: Bed) -> None:
        launcher = bed.launcher()
        launcher.cancel("engine-99")
        launcher.cancel("engine-99", kill=True)
        assert [
            line for log in launcher.logs("engine-99") for line in launcher.read(log, 5)
        ] == []
        assert launcher.sweep() == 0
        assert launcher.status() == {}


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


def _command_line(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""
