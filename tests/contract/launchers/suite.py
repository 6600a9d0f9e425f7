"""The one contract of all launchers, with real processes: ``LauncherSuite``.

A launcher's test module makes a fixture ``bed`` (a ``Bed``, or a subclass where the processes
are on other hosts; it ends with ``swept``) and subclasses ``LauncherSuite``. Units are Python
one-liners here: what a launcher does is the same for an engine.
"""

from __future__ import annotations

from pathlib import Path

import psutil

from lemnos.spec.plan import Secret
from tests.contract.launchers.bed import (
    DEAF,
    ENDS,
    KEY,
    POLITE,
    SERVER,
    WAITER,
    Bed,
    check_script,
    evil,
    evils,
    said,
    status_of,
    swept,
)

__all__ = ["Bed", "LauncherSuite", "swept"]


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
        assert Path(keyed).stat().st_mode & 0o177 == 0
        assert KEY not in said(launcher)
        own = {Path(keyed), Path(key_file), bed.site().key_file}
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


def _command_line(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""
