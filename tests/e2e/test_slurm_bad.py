"""What goes wrong on a real Slurm, and what is said of it: 22.05, one bed for all."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from lemnos.spec.facts import LocalModel
from tests.cluster_life import Life, failed, files_left
from tests.e2e.conftest import models_cache
from tests.testbeds.slurm import Slurm, slurm
from tests.waiting import until

pytestmark = [pytest.mark.bed, pytest.mark.usefixtures("embedded")]

NAME = "smollm2-135m-instruct"
MODEL = ("smollm2", "--context", "512", "--on", "slurm")
SMALL = ("slurm.cpus=2", "slurm.memory=1G", "slurm.poll_s=1", "slurm.time=10m")
NASTY = "a b'\"; touch canary; $(touch canary) `touch canary` %s \\"


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    with slurm(tmp_path_factory.mktemp("slurm")) as made:
        yield made


@pytest.fixture
def life(
    bed: Slurm, embedded: LocalModel, tmp_path: Path, pytestconfig: pytest.Config
) -> Iterator[Life]:
    """lemnos on the login node; whatever a test does, nothing is left in the queue."""
    made = Life(bed.at("login"), tmp_path, models_cache(pytestconfig))
    yield made
    if made.report("ps"):
        made.run("down", "--all", "--now")
    assert jobs(bed) == []
    assert not list(tmp_path.rglob("canary*"))


def words(*more: str) -> list[str]:
    """``up`` of the small model, with these settings."""
    return ["up", *MODEL, *(w for each in (*SMALL, *more) for w in ("--set", each))]


def jobs(bed: Slurm) -> list[str]:
    """``id state`` of each job in the queue that is not over."""
    found = bed.run("login", "squeue", "-h", "-t", "PD,R", "-o", "%i %T")
    return found.splitlines()


@contextlib.contextmanager
def going(life: Life, *command: str) -> Iterator[subprocess.Popen[str]]:
    """``lemnos COMMAND`` while the body runs."""
    argv = [*life.words, *life._env(), sys.executable, "-m", "lemnos", *command]
    with subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=life.home,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def interrupted(process: subprocess.Popen[str]) -> str:
    """What it said when Ctrl-C ended it."""
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "Traceback" not in said, said
    return said


def stage(life: Life) -> str:
    """The only deployment's; empty while there is none."""
    return "".join(each["stage"] or each["phase"] for each in life.report("ps"))


WRONG = {
    "slurm.partition=gpuu": "unknown partition 'gpuu'\n  -> Did you mean 'gpu'?",
    "slurm.partition=-x": "'-x' is no name",
    "slurm.partition=$(touch canary)": "is no name",
    "slurm.time=90": "told 120 s before its end",
    "slurm.time=0": "greater than 0",
    "slurm.time=0:00": "no time at all",
    "slurm.time=soon": "write 12:00:00, 2-00:00:00 or 90m",
    "slurm.qoss=x": "Did you mean 'qos'",
    "slurmm.cpus=1": "Did you mean 'slurm'",
    "on=slurmm": "Did you mean 'slurm'",
    "name=$(touch canary)": "lower-case letters",
    "via=a b": "is no name",
    "slurm.sbatch_args.partition=x": "use slurm.partition",
    "slurm.cpus=0": "slurm.cpus",
}
REFUSED = {
    "slurm.constraint=nope": "no node has the features 'nope'",
    "slurm.reservation=nope": "there is no reservation 'nope'",
    "slurm.nodelist=n9": "names a node that there is not",
    "slurm.memory=900G": "mem 900G",
    "slurm.cpus=99": "cpus-per-task 99",
    "slurm.gpus_per_node=9": "gpu:9",
    "slurm.nodes=9": "nodes 9",
    "slurm.sbatch_args.nope=1": "unrecognized option '--nope=1'",
}


def test_a_wrong_request_is_one_sentence_and_starts_nothing(life: Life) -> None:
    for setting, said in WRONG.items():
        told = life.run(*words(setting), code=2)
        assert said in told and told.startswith("error: "), setting
    assert life.report("ps") == []


def test_what_slurm_refuses_is_said_before_anything_starts(life: Life) -> None:
    for setting, said in REFUSED.items():
        told = life.run(*words(setting), code=1)
        assert said in told and told.startswith("error: slurm: "), setting
    assert life.report("ps") == []


def test_whatever_stands_in_a_spec_is_refused_or_passed_on(
    life: Life, bed: Slurm
) -> None:
    model = life.home / "the model's $(touch canary0).gguf"
    shutil.copy(next(life.models.rglob("*.gguf")), model)
    served = f"the\n{NASTY}"
    spec = life.home / "it's $(touch canary).yaml"
    content = {
        "model": {"source": str(model), "served_name": served},
        "on": "slurm",
        "name": "nasty",
        "workload": {"context": 512},
        "engine_env": {"NASTY": f"{NASTY}\n$(touch canary)"},
        "slurm": {"cpus": 2, "memory": "1G", "poll_s": 1, "time": "10m"},
    }
    spec.write_text(yaml.safe_dump(content))
    found = life.report("up", str(spec))
    assert found["model"] == served
    (node,) = bed.run("login", "squeue", "-h", "-o", "%N").split()
    (pid,) = bed.run(node, "pgrep", "-f", "llamacpp_serve[r] --").split()[-1:]
    environ = bed.run(node, "cat", f"/proc/{pid}/environ").split("\0")
    assert f"NASTY={NASTY}\n$(touch canary)" in environ
    for key, code in {"cache": 0, "venv": 0, "interface": 2, "modules": 2}.items():
        odd: Any = [NASTY] if key == "modules" else f"/tmp/{NASTY}"
        spec.write_text(yaml.safe_dump(content | {key: odd}))
        shown = life.run("up", str(spec), "--dry-run", code=code)
        assert ("NASTY" if code == 0 else f"{key}") in shown


def test_without_sbatch_on_the_path(life: Life, tmp_path: Path) -> None:
    few = tmp_path / "few"
    few.mkdir()
    for tool in ("env", "id", "getent"):
        (few / tool).symlink_to(str(shutil.which(tool)))
    poor = replace(life, words=[*life.words, "env", f"PATH={few}"])
    said = poor.run(*words(), code=1)
    assert "on the PATH here" in said and "via:" in said
    assert life.report("ps") == []


@pytest.mark.parametrize(
    ("kind", "said"),
    [("closed", "nothing listens for ssh"), ("denied", "does not let you in"), ("changed", "key"), ("", "no such host")],
)  # fmt: skip
def test_a_login_node_that_lets_nobody_in(
    kind: str, said: str, embedded: LocalModel, tmp_path: Path, pytestconfig: pytest.Config
) -> None:  # fmt: skip
    from tests.testbeds.hosts import hosts

    with hosts(
        tmp_path / "hosts", "desk", "front", ssh={"front": kind or "open"}
    ) as there:
        config = ("env", f"LEMNOS_SSH_CONFIG={there.ssh_config}")
        here = Life([*there.at("desk"), *config], tmp_path, models_cache(pytestconfig))
        told = here.run(*words(), "--via", "front" if kind else "nowhere", code=1)
        assert said in told.lower() and "front" in told or not kind
        assert here.report("ps") == []


def test_a_disk_without_room(life: Life, bed: Slurm) -> None:
    """Wherever it is that the room ends: a sentence, and no job is left."""
    small = life.home / "small"
    small.mkdir()
    bed.hosts.hide("login", small, size="400k")
    poor = replace(life, home=small, words=[*life.words, "env", "--chdir=/"])
    try:
        for taken_kb in (380, 260, 200):
            fill = f"head -c {taken_kb}k /dev/zero >'{small}/ballast'"
            bed.run("login", "sh", "-c", fill)
            said = poor.run(*words(), code=1)
            assert "error: " in said
            until(lambda: not jobs(bed), within_s=30)
            bed.run("login", "rm", "-f", f"{small}/ballast")
            poor.run("down", "--all", "--now")
            assert poor.report("ps") == []
    finally:
        bed.run("login", "umount", "--lazy", str(small))


def test_a_node_that_does_not_see_the_state_directory(life: Life, bed: Slurm) -> None:
    apart = life.home / "apart"
    apart.mkdir()
    bed.hosts.hide("n2", apart)
    try:
        far = replace(life, home=apart)
        said = far.run(*words("slurm.nodelist=n2"), code=1)
        assert f"n2 does not see {apart}" in said and "set LEMNOS_HOME" in said
        assert far.report("ps") == []
    finally:
        bed.run("n2", "umount", "--lazy", str(apart))


def test_a_node_whose_clock_is_wrong_changes_nothing(life: Life, bed: Slurm) -> None:
    """What a job writes has no time that counts; files of another day are read as well."""
    life.run(*words())
    (here,) = life.home.rglob("here.json")
    for at in ("1999-01-01", "2099-01-01"):
        bed.run("login", "touch", "-d", at, str(here), str(here.parent))
    told = json.loads(here.read_text())
    here.write_text(json.dumps(told | {"at": 0, "time": 4e9}))
    (pid,) = [each["supervisor_pid"] for each in life.report("ps")]
    bed.run("login", "kill", "-9", str(pid))
    assert life.report(*words())["already_up"]
    assert life.report("ps")[0]["restarts"] == 0


def test_a_directory_that_vanishes_under_a_deployment(life: Life, bed: Slurm) -> None:
    """Its logs, its keys, its targets and what its jobs wrote: what serves serves on, and it ends as ever."""
    found = life.report(*words())
    before = jobs(bed)
    shutil.rmtree(life.home / "state/deployments" / NAME)

    def answers() -> bool:
        with life.load(found["url"]) as told:
            until(lambda: not (life.home / "stop").exists())
        return failed(told) == []

    until(answers, within_s=60)
    assert jobs(bed) == before and life.report("ps")[0]["restarts"] == 0
    assert "has no log" in life.run("logs", code=1)
    life.run("down")
    until(lambda: not jobs(bed), within_s=30)
    assert files_left(life.home) == []


def test_a_state_directory_that_became_read_only(life: Life, bed: Slurm) -> None:
    found = life.report(*words())
    state = str(life.home / "state")
    bed.run("login", "mount", "--bind", "-o", "ro", state, state)
    try:
        with life.load(found["url"]) as told:
            for verb in (words("slurm.cpus=1"), ["down"], ["rollback"], ["ps"]):
                said = life.run(*verb, code=1)
                assert "error: " in said and state in said
        assert failed(told) == []
    finally:
        bed.run("login", "umount", "--lazy", state)


def test_it_waits_and_says_why_and_ctrl_c_leaves_nothing(
    life: Life, bed: Slurm
) -> None:
    others = bed.submit("--exclusive", "--nodes=3", "--wrap=sleep 600")
    until(lambda: bed.state(others) == "RUNNING")
    try:
        with going(life, *words()) as process:
            until(lambda: "(Resources)" in stage(life) or "(Priority)" in stage(life))
            interrupted(process)
    finally:
        bed.run("login", "scancel", others)
    until(lambda: not jobs(bed), within_s=30)
    assert life.report("ps") == [] and files_left(life.home) == []


def test_ctrl_c_while_it_starts_leaves_nothing(life: Life, bed: Slurm) -> None:
    with going(life, *words()) as process:
        until(lambda: any("RUNNING" in job for job in jobs(bed)))
        interrupted(process)
    until(lambda: not jobs(bed), within_s=30)
    assert life.report("ps") == [] and files_left(life.home) == []
    assert life.report("records", "ls")


def test_ctrl_c_in_a_second_revision_leaves_the_first(life: Life, bed: Slurm) -> None:
    found = life.report(*words())
    before = jobs(bed)
    with life.load(found["url"]) as told:
        with going(life, *words("slurm.partition=down")) as process:
            until(lambda: "(PartitionDown)" in stage(life))
            interrupted(process)
        until(lambda: jobs(bed) == before, within_s=30)
    assert failed(told) == []
    assert life.report("ps")[0]["phase"] == "ready"
    assert [each["state"] for each in life.report("history")][0] == "serves"


def test_two_hosts_that_share_the_state_do_not_fight(life: Life, bed: Slurm) -> None:
    """One ``up`` after the other; the later one is a revision, and nobody serves twice."""
    others = replace(life, words=bed.at("n3"))

    def up(of: Life, cpus: int) -> contextlib.AbstractContextManager[Any]:
        return going(of, *words(f"slurm.cpus={cpus}"), "--json")

    with up(life, 1) as one, up(others, 2) as two:
        said = [each.communicate(timeout=150) for each in (one, two)]
    assert all("Traceback" not in err for _, err in said), said
    assert 0 in (one.returncode, two.returncode), said
    until(lambda: len(jobs(bed)) == 1, within_s=60)
    (shown,) = life.report("ps")
    assert shown["phase"] == "ready" and shown["restarts"] == 0
    ends: Sequence[Life] = (life, others)
    first = next(each for each in ends if supervisor_of(each, bed))
    first.run("down")


def supervisor_of(life: Life, bed: Slurm) -> bool:
    """Whether the supervisor runs on this host."""
    host = "login" if life.words == bed.at("login") else "n3"
    return any("lemnos.deployments" in each for each in bed.hosts.processes(host))
