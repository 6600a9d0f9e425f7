"""The local launcher, with real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from lemnos import paths
from lemnos.errors import LemnosError
from lemnos.launchers.processes import MARK, Processes
from lemnos.launchers.script import script_of
from lemnos.spec.plan import Command, Job, Secret
from tests.waiting import until

SLEEPER = "import signal; print('up', flush=True); signal.pause()"
DEAF = (
    "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
    "print('up', flush=True); signal.pause()"
)
PARENT = (
    "import signal, subprocess, sys;"
    "subprocess.Popen([sys.executable, '-c', 'import signal; signal.pause()'],"
    " start_new_session=True); print('up', flush=True); signal.pause()"
)

FORKER = (
    "import signal, subprocess, sys, time; print('up', flush=True)\n"
    "for _ in range(500):\n"
    "    subprocess.Popen(['sleep', '60'], start_new_session=True); time.sleep(0.01)"
)


@pytest.fixture
def launcher() -> Iterator[Processes]:
    made = Processes("box")
    yield made
    made.sweep()


def job(tmp_path: Path, code: str, **env: str) -> Job:
    return Job(
        deployment="box",
        role="engine",
        command=Command(argv=(sys.executable, "-S", "-c", code), env=env),
        port=1,
        log=str(tmp_path / "engine-0.log"),
    )


def started(launcher: Processes, job: Job) -> int:
    launcher.submit(job)
    until(lambda: "up\n" in Path(job.log).read_text())
    return launcher.status()["engine-0"].pids[0]


def test_a_job_runs_in_a_session_of_its_own_and_writes_its_log(
    launcher: Processes, tmp_path: Path
) -> None:
    code = "import os; print(os.environ['COLOUR']); print('up', flush=True); import signal; signal.pause()"
    pid = started(launcher, job(tmp_path, code, COLOUR="red $(id)"))
    assert os.getsid(pid) == pid
    log = (tmp_path / "engine-0.log").read_text()
    assert log.startswith("--- lemnos starts box/engine-0 at ")
    assert "red $(id)\n" in log


def test_how_a_job_ended_is_said_in_words(launcher: Processes, tmp_path: Path) -> None:
    launcher.submit(job(tmp_path, "raise SystemExit(3)"))
    until(lambda: not launcher.status()["engine-0"].alive)
    assert launcher.status()["engine-0"].ended == "ended with exit code 3"
    os.kill(started(launcher, job(tmp_path, SLEEPER)), signal.SIGKILL)
    until(lambda: not launcher.status()["engine-0"].alive)
    assert launcher.status()["engine-0"].ended == "was killed by SIGKILL"


def test_signal_asks_and_kill_insists(launcher: Processes, tmp_path: Path) -> None:
    started(launcher, job(tmp_path, SLEEPER))
    launcher.signal("engine-0")
    until(lambda: not launcher.status()["engine-0"].alive)
    assert launcher.status()["engine-0"].ended == "was killed by SIGTERM"
    (tmp_path / "engine-0.log").unlink()
    started(launcher, job(tmp_path, DEAF))
    launcher.signal("engine-0")
    launcher.signal("engine-0", kill=True)
    until(lambda: not launcher.status()["engine-0"].alive)


def test_kill_takes_children_in_other_sessions_too(
    launcher: Processes, tmp_path: Path
) -> None:
    pid = started(launcher, job(tmp_path, PARENT))
    children = psutil.Process(pid).children()
    assert children
    launcher.signal("engine-0", kill=True)
    assert not [c for c in children if c.is_running() and c.status() != "zombie"]


def test_kill_takes_what_is_started_meanwhile(
    launcher: Processes, tmp_path: Path
) -> None:
    started(launcher, job(tmp_path, FORKER))
    launcher.signal("engine-0", kill=True)
    assert Processes("box").status() == {}


def test_kill_takes_what_has_another_process_number_of_before(
    launcher: Processes, tmp_path: Path
) -> None:
    # psutil remembers processes by their numbers, which are given out again: in minutes on a busy machine.
    pid = started(launcher, job(tmp_path, DEAF))
    before = psutil.Process(pid)
    vars(before)["_ident"] = (pid, before.create_time() - 100)
    vars(psutil)["_pmap"][pid] = before
    assert Processes("box").status()["engine-0"].alive
    vars(psutil)["_pmap"][pid] = before
    launcher.signal("engine-0", kill=True)
    assert launcher.status()["engine-0"].ended == "was killed by SIGKILL"


def test_kill_takes_what_has_lost_its_mark_but_not_its_session(
    launcher: Processes, tmp_path: Path
) -> None:
    # As a program does that writes a title over its environment, and whose parent ended.
    code = (
        "import pathlib, subprocess; child = subprocess.Popen(['sleep', '1000'], env={});"
        "pathlib.Path('pid').write_text(str(child.pid))"
    )
    launcher.submit(job(tmp_path, code))
    until(lambda: not launcher.status()["engine-0"].alive)
    left = psutil.Process(int((tmp_path / "pid").read_text()))
    assert MARK not in left.environ() and left.is_running()
    assert launcher.sweep() == 1
    until(lambda: not left.is_running() or left.status() == "zombie")


def test_what_a_killed_engine_left_is_found_by_any_supervisor(
    launcher: Processes,
) -> None:
    # As vLLM's core: no mark, no parent, and a child that still has the mark (the tracker of resources).
    home = paths.writable(paths.state_dir() / "deployments" / "box")
    code = (
        "import os, pathlib, signal, subprocess;"
        "bare = subprocess.Popen(['sleep', '1000'], env={});"
        "marked = subprocess.Popen(['sleep', '1000']);"
        "pathlib.Path('pids').write_text(f'{bare.pid} {marked.pid}');"
        "print('up', flush=True); signal.pause()"
    )
    os.kill(started(launcher, job(home, code)), signal.SIGKILL)
    until(lambda: not launcher.status()["engine-0"].alive)
    left = [psutil.Process(int(pid)) for pid in (home / "pids").read_text().split()]
    again = Processes("box")
    assert again.status() == {}, "a child that is left is not the engine"
    assert Processes("other").bury() == 0
    assert again.bury() == 2
    for process in left:
        until(lambda p=process: not p.is_running() or p.status() == "zombie")  # type: ignore[misc]


def test_what_runs_is_not_left(launcher: Processes) -> None:
    home = paths.writable(paths.state_dir() / "deployments" / "box")
    pid = started(launcher, job(home, SLEEPER))
    assert Processes("box").bury() == 0
    assert Processes("box").status()["engine-0"].pids == (pid,)


def test_a_session_that_a_job_does_not_lead_is_not_its_own(
    launcher: Processes, tmp_path: Path
) -> None:
    # As in the foreground: a marked process, in the session of whoever started it.
    marked = os.environ | {MARK: launcher.mark("engine-0")}
    command = [sys.executable, "-c", SLEEPER]
    with subprocess.Popen(command, env=marked, stdout=subprocess.PIPE) as ours:
        assert ours.stdout and ours.stdout.readline()
        assert Processes("box").sweep() == 1, "this test's own session is left alone"


def test_another_launcher_adopts_what_runs(launcher: Processes, tmp_path: Path) -> None:
    pid = started(launcher, job(tmp_path, SLEEPER))
    again = Processes("box")
    assert again.status()["engine-0"].pids == (pid,)
    assert Processes("other").status() == {}
    again.signal("engine-0")
    until(lambda: not again.status()["engine-0"].alive)
    assert "ended" in again.status()["engine-0"].ended


def test_another_home_is_another_deployment(
    launcher: Processes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started(launcher, job(tmp_path, SLEEPER))
    with monkeypatch.context() as other:
        other.setenv("LEMNOS_HOME", str(tmp_path / "elsewhere"))
        assert Processes("box").status() == {}
        assert Processes("box").sweep() == 0
    assert Processes("box").sweep() == 1


def test_what_cannot_be_started_is_a_sentence(
    launcher: Processes, tmp_path: Path
) -> None:
    bad = job(tmp_path, "").model_copy(
        update={"command": Command(argv=("/no/such/binary",))}
    )
    with pytest.raises(LemnosError, match="cannot be started .*: /no/such/binary"):
        launcher.submit(bad)


def test_render_quotes_every_value_for_the_shell(tmp_path: Path) -> None:
    code = "import os, sys; print(os.environ['X'], sys.argv[1:])"
    evil = "a b'\"$(touch /tmp/never)`id`\nnext"
    made = job(tmp_path, code, X=evil)
    argv = (*made.command.argv, evil)
    made = made.model_copy(
        update={"command": made.command.model_copy(update={"argv": argv})}
    )
    script = script_of(made)
    ran = subprocess.run(
        ["sh", "-c", script], capture_output=True, text=True, check=True
    )
    assert ran.stdout == f"{evil} {[evil]!r}\n"


TELLS_ALL = (
    "import os, signal, sys; print(os.environ['ENGINE_KEY'], sys.argv, flush=True);"
    "print('up', flush=True); signal.pause()"
)


def keyed(tmp_path: Path) -> Job:
    """A job that is given a key as a variable and in a file."""
    key = tmp_path / "it's the.key"
    key.write_text("s3cret $HOME\n")
    secrets = (
        Secret(key_file=str(key), env="ENGINE_KEY"),
        Secret(
            key_file=str(key),
            file=str(tmp_path / "engine.yaml"),
            text="api-key: {key}\n",
        ),
    )
    made = job(tmp_path, TELLS_ALL)
    command = made.command.model_copy(update={"secrets": secrets})
    return made.model_copy(update={"command": command})


def check_keys(tmp_path: Path, log: str) -> None:
    assert "s3cret $HOME [" in log
    written = tmp_path / "engine.yaml"
    assert written.read_text() == "api-key: s3cret $HOME\n"
    assert written.stat().st_mode & 0o777 == 0o600


def test_keys_reach_the_process_and_no_command_line(
    launcher: Processes, tmp_path: Path
) -> None:
    made = keyed(tmp_path)
    pid = started(launcher, made)
    check_keys(tmp_path, Path(made.log).read_text())
    assert "s3cret" not in " ".join(psutil.Process(pid).cmdline())
    assert "s3cret" not in made.model_dump_json()


def test_the_script_hands_keys_over_as_the_launcher_does(tmp_path: Path) -> None:
    made = keyed(tmp_path)
    script = script_of(made)
    assert "s3cret" not in script
    shell = ["/bin/sh", "-c", script.replace("signal.pause()", "pass")]
    done = subprocess.run(shell, capture_output=True, text=True, check=True)
    check_keys(tmp_path, done.stdout)


def test_a_key_that_is_gone_is_a_sentence(launcher: Processes, tmp_path: Path) -> None:
    made = keyed(tmp_path)
    Path(made.command.secrets[0].key_file).unlink()
    with pytest.raises(LemnosError, match="key cannot be handed over"):
        launcher.submit(made)
