"""Why a job waits, how it ended, what qsub refuses: sentences."""

from __future__ import annotations

import pytest

from lemnos.errors import LemnosError, UsageError
from lemnos.launchers.pbs import parse, words
from lemnos.launchers.pbs.parse import PbsJob
from lemnos.launchers.pbs.states import UNSEEN_S, Told, status_of
from lemnos.spec.rooms import PbsSpec
from lemnos.spec.unit import UnitStatus
from tests.unit.launchers.pbs.test_parse import read


def waiting(comment: str, state: str = "Q", hold: str = "") -> str:
    return words.waiting(PbsJob(id="1.s", state=state, comment=comment, hold=hold))


@pytest.mark.parametrize(
    ("comment", "said"),
    [
        (
            "Not Running: Insufficient amount of resource: ngpus (R: 16 A: 8 T: 24)",
            "waits for ngpus: it asks for 16, and 8 of 24 are free",
        ),
        (
            "Not Running: Insufficient amount of resource: ngpus",
            "waits for ngpus, of which too few are free",
        ),
        (
            "Not Running: Job would conflict with reservation or top job",
            "waits its turn: it would delay a job or a reservation that is before it",
        ),
        ("Not Running: Host set host=n1 has too few", "waits in the queue: Host set"),
        ("Not Running: No available resources on nodes", "waits for free nodes"),
        (
            "Not Running: User has reached server running job limit.",
            "waits for a limit: User has reached server running job limit",
        ),
        (
            "Not Running: Server per-user limit reached on resource ngpus",
            "waits for a limit: Server per-user limit reached on resource ngpus",
        ),
        (
            "Not Running: Insufficient amount of resource: host ",
            "waits for the node that it names",
        ),
        (
            "Can Never Run: Insufficient amount of resource: gpu_model (a100 != h200)",
            "can never run: it asks for gpu_model=a100, and nodes have h200 (pbs.select)",
        ),
        (
            "Can Never Run: Insufficient amount of resource: mem (R: 900gb A: 72315mb T: 72315mb)",
            "can never run: it asks for 900gb mem, and there are 72315mb",
        ),
        ("", "waits in the queue"),
    ],
)
def test_why_a_job_waits(comment: str, said: str) -> None:
    assert waiting(comment).startswith(said)


def test_a_job_that_can_never_run_says_what_to_change() -> None:
    answer = parse.jobs_of_json(read("qstat-f.json"))
    assert answer
    said = words.waiting(answer.jobs["7.login"])
    assert said.startswith("can never run: it asks for 144 ncpus, and there are 48")
    assert "pbs.nodes" in said


def test_who_holds_a_job() -> None:
    answer = parse.jobs_of_json(read("qstat-f.json"))
    assert answer and "its owner" in words.waiting(answer.jobs["5.login"])
    assert "operator" in waiting("", "H", "o")
    assert "many times in vain" in waiting(
        "job held, too many failed attempts", "H", "s"
    )
    assert "suspended" in waiting("", "S")


def test_how_real_jobs_ended() -> None:
    answer = parse.jobs_of_json(read("qstat-xf.json"))
    assert answer
    assert {name: words.ending(job) for name, job in answer.jobs.items()} == {
        "0.login": "ended with exit code 127",
        "2.login": "was killed by SIGUSR1",
        "3.login": "its time was over (pbs.time)",
        "4.login": "ended with exit code 0",
    }


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"exit_status": 271}, "was killed by SIGTERM"),
        ({"exit_status": -11}, "was put back into the queue"),
        ({"exit_status": -99}, "was ended by PBS (Exit_status -99)"),
        ({"exit_status": 300}, "was killed by signal 44"),
        (
            {"substate": 91, "comment": "Job run and terminated by bob@login"},
            "was deleted (qdel) by bob@login",
        ),
        ({}, "ended before it ran"),
    ],
)
def test_how_a_job_ended(keys: dict[str, object], said: str) -> None:
    job = PbsJob.model_validate({"id": "1.s", "state": "F", **keys})
    assert words.ending(job).startswith(said)


@pytest.mark.parametrize("said", [r.said for r in words.words().refusals])
def test_every_refusal_is_a_sentence_with_a_key(said: str) -> None:
    error = words.refused(f"{said} x", 1, PbsSpec(queue="gpux"), ["gpu", "cpu"])
    assert isinstance(error, UsageError) and error.where.startswith("pbs")
    assert error.fix and "{" not in str(error)


def test_real_refusals_are_known() -> None:
    lines = read("errors.txt").splitlines()
    said = [line for line in lines if line.startswith("qsub: ")]
    assert len(said) == 4
    for line in said:
        assert isinstance(words.refused(line, 1, PbsSpec(), []), UsageError), line
    other = words.refused("a hook says no", 1, PbsSpec(), [])
    assert not isinstance(other, UsageError) and "a hook says no" in other.what
    assert isinstance(other, LemnosError)


@pytest.mark.parametrize(
    ("said", "where", "what"),
    [
        ("Unknown resource: foo", "pbs.select", "knows no such resource"),
        (
            "Illegal attribute or resource value select.mem",
            "pbs",
            "does not take one of the values",
        ),
        (
            'Cannot have "place" without "select"',
            "pbs",
            'Cannot have "place" without "select"',
        ),
        ("Bad UID for job execution", "pbs", "runs no jobs of yours"),
        ("Unauthorized Request", "pbs.queue", "or not in the queue 'gpu'"),
        (
            'Resource invalid in "select" specification: jobwide',
            "pbs.select",
            "not for single nodes",
        ),
        ("illegal -p value", "pbs.qsub_args", "does not take the value of an option"),
        (
            "Maximum number of jobs for user ann already in queue gpu",
            "pbs.queue",
            "as many jobs as PBS lets",
        ),
        (
            "would exceed user ann's limit on resource ngpus in complex",
            "pbs",
            "a limit of this PBS",
        ),
        (
            "Job rejected by all possible destinations",
            "pbs.queue",
            "no queue that 'gpu' leads to",
        ),
    ],
)
def test_what_real_ones_refuse(said: str, where: str, what: str) -> None:
    error = words.refused(said, 1, PbsSpec(queue="gpu"), [])
    assert error.where == where and what in error.what and said in error.what


def test_how_qsub_is_used_is_left_out() -> None:
    err = "qsub: illegal -p value\nusage: qsub [-a date_time] [-A account_string]\n\t[-k keep]\n"
    assert words.without_usage(err) == "qsub: illegal -p value"
    assert words.without_usage("qsub: a\n b\n") == "qsub: a b"


RUNNING = PbsJob(
    id="1.s", state="R", hosts=("n1",), started_at=1000.0, walltime_s=600.0, runs=1
)


def status(told: Told, job: PbsJob | None, at: float = 1010.0) -> UnitStatus:
    return status_of(told, job, directory="/s/units", at=at, ahead_s=100.0)


def test_a_job_that_runs_and_is_not_seen_says_what_is_not_shared() -> None:
    assert not status(Told(id="1.s"), RUNNING).broken
    late = status(Told(id="1.s"), RUNNING, at=1001.0 + UNSEEN_S)
    assert late.broken.startswith(
        "n1 does not see /s/units: the state directory must be"
    )
    assert "LEMNOS_HOME" in late.broken
    assert not status(Told(id="1.s", port=1), RUNNING, at=9e9).broken
    ended = RUNNING.model_copy(update={"state": "F", "exit_status": 127})
    assert "does not see /s/units" in status(Told(id="1.s"), ended).why


def test_a_job_that_pbs_gave_up_is_broken_and_does_not_wait() -> None:
    """PBS cannot open its output where a node does not see the directory, tries 21 times, and holds the job."""
    held = PbsJob(
        id="1.s",
        state="H",
        hold="s",
        comment="job held, too many failed attempts to run",
        runs=21,
        exit_status=-3,
    )
    shown = status(Told(id="1.s"), held)
    assert shown.state == "running" and shown.starts == 20
    assert "in vain" in shown.broken and "LEMNOS_HOME" in shown.broken


def test_times_are_ours_and_not_those_of_pbs() -> None:
    assert status(Told(), RUNNING).ends_at == 1500.0
    queued = PbsJob(id="1.s", state="Q", starts_at=2000.0)
    assert status(Told(), queued).starts_at == 1900.0


def test_a_job_that_is_put_back_is_queued_again() -> None:
    back = RUNNING.model_copy(update={"state": "Q", "runs": 2})
    assert status(Told(port=5, hosts=("n1",)), back) == UnitStatus(
        state="queued", why="waits in the queue", id="1.s", starts=1
    )


def test_what_has_left_the_queue_has_ended() -> None:
    assert (
        status(Told(id="1.s"), None).why == "its job 1.s is not known to PBS any more"
    )
    assert status(Told(ended="x ended"), None).why == "x ended"
    ending = RUNNING.model_copy(update={"state": "E"})
    assert status(Told(), ending).leaving == "is ending"
