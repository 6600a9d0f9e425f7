"""Slurm's words in a person's."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lemnos.errors import UsageError
from lemnos.launchers.slurm import words
from tests.unit.launchers.slurm.units import job


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        ("Resources", "no node with enough free GPUs"),
        ("Priority", "other jobs come first (Priority)"),
        ("ReqNodeNotAvail, UnavailableNodes:n2", "down, drained or reserved"),
        ("ReqNodeNotAvail(Unavailable:n2)", "down, drained or reserved"),
        ("ReqNodeNotAvail, Reserved for maintenance", "maintenance"),
        ("PartitionTimeLimit", "set a shorter slurm.time"),
        ("AssocGrpGRESMinutes", "GPU time is used up"),
        ("None", "has not looked at it yet"),
        ("SomethingNew", "Slurm says: SomethingNew"),
    ],
)
def test_why_a_job_waits(reason: str, said: str) -> None:
    assert said in words.waiting(job(state="PENDING", reason=reason))


def test_a_job_that_is_held_after_a_requeue() -> None:
    assert "scontrol release" in words.waiting(job(state="REQUEUE_HOLD"))


@pytest.mark.parametrize(
    ("state", "changes", "said"),
    [
        ("FAILED", {"code": 3}, "ended with exit code 3"),
        ("FAILED", {"signal": 9}, "was killed by SIGKILL"),
        ("FAILED", {"signal": 53}, "on n1: its directory must be on a file system"),
        ("FAILED", {"code": 0, "reason": "BadConstraints"}, "no node has what it asks"),
        ("TIMEOUT", {}, "its time was over"),
        ("OUT_OF_MEMORY", {}, "slurm.memory"),
        ("NODE_FAIL", {}, "one of its nodes failed; it ran on n1"),
        ("PREEMPTED", {}, "preempted"),
        ("BRAND_NEW", {}, "ended (BRAND_NEW)"),
    ],
)
def test_how_a_job_ended(state: str, changes: dict[str, Any], said: str) -> None:
    assert said in words.ending(job(state=state, **changes))


@pytest.mark.parametrize(
    ("said", "what", "fix"),
    [
        (
            "sbatch: error: invalid partition specified: gpuu\nsbatch: error: Batch job submission failed: Invalid partition name specified",
            "unknown partition 'gpuu'",
            "there are gpu, cpu",
        ),
        (
            "sbatch: error: Batch job submission failed: Invalid account or account/partition combination specified",
            "does not let you use the account 'llm'",
            "one of yours",
        ),
        (
            "allocation failure: Requested node configuration is not available",
            "nodes 2",
            "plan for fewer",
        ),
        (
            "sbatch: error: Unable to contact slurm controller (connect failure)",
            "controller does not answer",
            "scontrol ping",
        ),
        (
            "sinfo: fatal: Could not establish a configuration source",
            "no slurm.conf",
            "SLURM_CONF",
        ),
        (
            "sbatch: error: Batch job submission failed: Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)",
            "more than your account or QoS may have",
            "sacctmgr",
        ),
        (
            "sbatch: error: Batch job submission failed: Requested time limit is invalid (missing or exceeds some limit)",
            "(12:00:00) is more than is allowed",
            "shorter slurm.time",
        ),
        ("sbatch: error: who knows", "Slurm refuses: who knows", ""),
        ("", "it says nothing", ""),
    ],
)
def test_refusals(said: str, what: str, fix: str) -> None:
    error = words.refused(
        said,
        partition="gpuu",
        partitions="there are gpu, cpu",
        account="'llm'",
        accounts="set slurm.account to one of yours: x",
        asked="nodes 2",
        time="12:00:00",
        limits="set a shorter slurm.time",
    )
    assert what in error.what and fix in error.fix
    assert "\n" not in error.what and "(unknown)" not in str(error)


@given(st.text(), st.text())
def test_no_answer_is_a_traceback(said: str, asked: str) -> None:
    assert words.refused(said, partition=asked).what


@pytest.mark.parametrize(
    ("flag", "instead"),
    [
        ("partition", "slurm.partition"),
        ("--partition", "slurm.partition"),
        ("p", "slurm.partition"),
        ("parti", "slurm.partition"),
        ("gres", "slurm.gpus_per_node"),
        ("mem_per_gpu", "slurm.memory_per_gpu"),
        ("output=x", "lemnos keeps the logs"),
        ("wrap", "lemnos writes the script"),
    ],
)
def test_flags_that_are_lemnos_own(flag: str, instead: str) -> None:
    with pytest.raises(UsageError) as caught:
        words.check_owned([flag])
    assert instead in caught.value.fix and caught.value.where == "slurm.sbatch_args"


def test_other_flags_are_free() -> None:
    words.check_owned(["nice", "mail-type", "mail-user", "licenses", "switches", "begin", "export", "hint", "dependency"])  # fmt: skip


def test_the_table_is_whole() -> None:
    table = words.words()
    assert not set(table.queued) & set(table.running)
    assert not (set(table.queued) | set(table.running)) & set(table.ended)
    for each in table.refusals:
        re.compile(each.says)
