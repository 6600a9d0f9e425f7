"""From the queue and the papers to statuses."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lemnos.launchers.slurm import papers, reading
from lemnos.launchers.slurm.papers import Papers, Registration
from lemnos.spec.unit import UnitStatus
from lemnos.transport.base import url_of
from tests.unit.launchers.slurm.units import job

HERE = Registration(id=7, attempt=0, host="10.0.0.1", hosts=("n1",), port=20224)
KNOWN = Papers(job=7, here=HERE)


def status(paper: Papers, **changes: Any) -> UnitStatus:
    jobs = {"engine-0": job(**changes)}
    found = reading.statuses(jobs, {"engine-0": paper}, url_of, directory="/s/units")
    return found["engine-0"]


def test_running() -> None:
    seen = status(KNOWN, ends_at=5000.0)
    assert seen.state == "running" and seen.url == "http://10.0.0.1:20224"
    assert seen.hosts == ("n1",) and seen.id == "7" and seen.ends_at == 5000.0
    assert not seen.broken and not seen.leaving and not seen.starts


def test_what_an_earlier_start_wrote_does_not_count() -> None:
    papers = Papers(job=7, here=HERE, leaving="7 0 its time", ended="7 0 1 engine-0")
    seen = status(papers, restarts=1)
    assert (seen.url, seen.leaving, seen.broken, seen.starts) == ("", "", "", 1)


def test_a_process_that_ended_and_a_job_that_leaves() -> None:
    seen = status(Papers(job=7, here=HERE, leaving="7 0 it is preempted", ended="7 0 137 engine-0.1"))  # fmt: skip
    assert seen.broken == "engine-0.1 was killed by SIGKILL"
    assert seen.leaving == "it is preempted"


@pytest.mark.parametrize(
    ("state", "paper", "why"),
    [
        ("FAILED", Papers(job=7, ended="7 0 3 engine-0"), "engine-0 ended with exit code 3"),
        ("COMPLETED", Papers(job=7, ended="7 0 0 engine-0"), "engine-0 ended with exit code 0"),
        ("COMPLETING", Papers(job=7, ended="7 0 3 engine-0"), "engine-0 ended with exit code 3"),
        ("COMPLETING", Papers(job=7, ended="7 0 143 engine-0", leaving="7 0 it was told"), "it was told"),
        ("CANCELLED", Papers(job=7), "was cancelled by somebody else, not by lemnos"),
        ("CANCELLED", Papers(job=7, cancelled=7), "was cancelled by lemnos"),
        ("CANCELLED", Papers(job=7, cancelled=6), "was cancelled by somebody else, not by lemnos"),
        ("FAILED", Papers(job=7), "failed"),
        ("TIMEOUT", Papers(job=7, ended="7 0 143 engine-0"), "its time was over"),
    ],
)  # fmt: skip
def test_ended(state: str, paper: Papers, why: str) -> None:
    seen = status(paper, state=state)
    assert seen.state == "ended" and why in seen.why


def test_who_cancelled_is_said_where_it_is_known() -> None:
    found = reading.statuses(
        {"engine-0": job(state="CANCELLED")},
        {"engine-0": KNOWN},
        url_of,
        cancelled_by={7: "alice"},
    )
    assert found["engine-0"].why == "was cancelled by alice"


def test_a_job_that_is_put_back_waits() -> None:
    for state in ("PENDING", "COMPLETING"):
        seen = status(KNOWN, state=state, restarts=1, reason="BeginTime")
        assert seen.state == "queued" and seen.starts == 1


def test_a_suspended_job_is_broken() -> None:
    assert "suspended" in status(KNOWN, state="SUSPENDED").broken


def test_a_directory_that_the_node_does_not_see() -> None:
    found = reading.statuses(
        {"engine-0": job()}, {}, url_of, unseen={7}, directory="/s/units"
    )
    assert "n1 does not see /s/units" in found["engine-0"].broken
    assert "LEMNOS_HOME" in found["engine-0"].broken


def test_what_the_batch_script_itself_fails_with() -> None:
    lost = status(Papers(job=7), state="FAILED", code=66)
    assert "n1 does not see /s/units" in lost.why
    odd = status(Papers(job=7), state="FAILED", code=78)
    assert "no address on the interface" in odd.why
    own = status(KNOWN, state="FAILED", code=66)
    assert own.why == "ended with exit code 66", "an engine's own, after it registered"


def test_an_ended_job_of_an_earlier_deployment_is_nobodys() -> None:
    over = {"engine-0": job(state="COMPLETED")}
    assert reading.statuses(over, {}, url_of) == {}
    assert reading.statuses(over, {"engine-0": Papers(job=8)}, url_of).keys() == set()


def test_a_job_that_vanished() -> None:
    found = reading.statuses({}, {"engine-0": KNOWN}, url_of)
    assert found["engine-0"].why == "Slurm does not know job 7 any more"
    told = KNOWN.model_copy(update={"ended": "7 0 1 engine-0"})
    found = reading.statuses({}, {"engine-0": told}, url_of)
    assert found["engine-0"].why == "engine-0 ended with exit code 1"


def test_the_living_job_of_a_unit_counts_and_others_marks_do_not() -> None:
    jobs = [
        job(9, "COMPLETED", submitted=3000.0),
        job(8, "RUNNING"),
        job(5, comment="lemnos:me:box-2:engine-0"),
        job(6, comment="lemnos:you:box:engine-0"),
    ]
    assert {n: j.id for n, j in reading.by_unit(jobs, "lemnos:me:box:").items()} == {"engine-0": 8}  # fmt: skip


def test_papers_are_read_as_grep_gives_them() -> None:
    said = (
        '/s/units/engine-0/here.json\0{"id": "7", "attempt": 1, "host": "h", "hosts": ["n1"], "port": 1}\n'
        "/s/units/engine-0/job\x007\n"
        "/s/units/engine-0/leaving\x007 1 its time limit is near\n"
        "/s/units/engine-1/here.json\0{half\n"
        "/s/units/engine-2/job\0x\n"
    )
    found = papers.parse(said, "/s/units")
    assert found["engine-0"].registered(7, 1) and not found["engine-0"].registered(7, 0)
    assert found["engine-0"].why_leaving(7, 1) == "its time limit is near"
    assert "engine-2" not in found


@given(st.text(), st.text())
def test_no_paper_is_an_error(name: str, content: str) -> None:
    for file in papers.NAMES:
        found = papers.parse(f"/s/units/{name}/{file}\0{content}\n", "/s/units")
        reading.statuses({"engine-0": job()}, found, url_of)


def test_a_thousand_units_in_well_under_a_second() -> None:
    mark = "lemnos:me:box:"
    jobs = [job(i, comment=f"{mark}engine-{i}") for i in range(1000)]
    known = {f"engine-{i}": KNOWN for i in range(1000)}
    started = time.process_time()
    assert len(reading.statuses(reading.by_unit(jobs, mark), known, url_of)) == 1000
    assert time.process_time() - started < 0.5
