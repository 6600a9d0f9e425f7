"""Allocations, from the environments that schedulers give."""

from __future__ import annotations

from typing import Literal

import pytest

from lemnos.errors import LemnosError
from lemnos.launchers.allocation import (
    Allocation,
    answered,
    command_for,
    detect,
    hostnames,
    is_here,
    is_over,
    question,
)
from lemnos.transport.base import Done

# As salloc of 22.05 gave it on the testbed; GPUs by --gres are in no variable.
SALLOC = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_NNODES": "2"}


def nothing(path: str) -> str | None:
    return None


def test_slurms_environment_tells_hosts_and_squeue_the_rest() -> None:
    found = detect(SALLOC, nothing)
    assert found == Allocation(kind="slurm", id="7", hosts=("n1", "n2"))
    assert question(found)[:4] == ("squeue", "--noheader", "--jobs", "7")
    told = answered(found, "gres:gpu:h100:2|10:00\n", 1000.0)
    assert told.gpus_per_host == 2 and told.ends_at == 1600.0
    assert answered(found, "N/A|1-00:00:00\n", 0.0).ends_at == 86400.0
    assert answered(found, "N/A|UNLIMITED\n", 0.0).ends_at is None
    assert answered(found, "gres/gpu=4(IDX:0-3)|INVALID", 0.0).gpus_per_host == 4


def test_inside_a_step_the_environment_tells_all() -> None:
    step = {
        "SLURM_GPUS_ON_NODE": "2",
        "CUDA_VISIBLE_DEVICES": "0,1",
        "SLURM_JOB_END_TIME": "1700",
    }
    found = detect(SALLOC | step, nothing)
    assert found and found.devices == ("0", "1")
    assert (found.gpus_per_host, found.ends_at) == (2, 1700.0)
    typed = detect(SALLOC | {"SLURM_GPUS_PER_NODE": "h100:4"}, nothing)
    assert typed and typed.gpus_per_host == 4


def test_pbs_names_its_hosts_in_a_file() -> None:
    env = {"PBS_JOBID": "12.pbs", "PBS_NODEFILE": "/aux/12"}
    found = detect(env, lambda path: "n1\nn1\nn2\n" if path == "/aux/12" else None)
    assert found == Allocation(kind="pbs", id="12.pbs", hosts=("n1", "n2"))
    assert question(found) == ()
    assert command_for(found, "n2", "engine-0.1", ("sh", "/x"))[:2] == (
        "pbs_tmrsh",
        "n2",
    )
    with pytest.raises(LemnosError, match="hosts of PBS job 12.pbs cannot be read"):
        detect(env, nothing)


def test_no_scheduler_no_allocation() -> None:
    assert detect({}, nothing) is None
    assert detect({"SLURM_JOB_ID": "1"}, nothing) is None


def test_lists_of_hosts() -> None:
    for text, names in (
        ("n1", "n1"),
        ("n[1-3,5]", "n1 n2 n3 n5"),
        ("gpu[08-10],login", "gpu08 gpu09 gpu10 login"),
        ("r[1-2]n[1-2].x-y", "r1n1.x-y r1n2.x-y r2n1.x-y r2n2.x-y"),
    ):
        assert hostnames(text) == tuple(names.split())
    for bad in ("", "n[1-", "n[a-b]", "n1;id", "$(id)"):
        with pytest.raises(LemnosError, match="is no list of hosts"):
            hostnames(bad)


def test_schedulers_and_machines_know_names_short_and_whole() -> None:
    assert is_here("n1", "n1.cluster.example") and not is_here("n1", "n10")


@pytest.mark.parametrize(
    ("kind", "done", "over"),
    [
        ("slurm", Done(0, "RUNNING\n", ""), False),
        ("slurm", Done(0, "COMPLETING\n", ""), True),
        ("slurm", Done(0, "", ""), True),
        ("slurm", Done(1, "", "slurm_load_jobs error: Invalid job id specified"), True),
        ("slurm", Done(1, "", "slurm_load_jobs error: Unable to contact slurm controller"), False),
        ("pbs", Done(0, "12.pbs  x  ada  0 R workq", ""), False),
        ("pbs", Done(35, "", "qstat: 12.pbs Job has finished, use -x or -H to obtain it"), True),
        ("pbs", Done(153, "", "qstat: Unknown Job Id 12.pbs"), True),
        ("pbs", Done(255, "", "qstat: cannot connect to server pbs (errno=111)"), False),
    ],
)  # fmt: skip
def test_only_its_scheduler_says_that_it_is_over(
    kind: Literal["slurm", "pbs"], done: Done, over: bool
) -> None:
    assert is_over(Allocation(kind=kind, id="12", hosts=("n1",)), done) is over


def test_a_step_is_given_its_share_anew() -> None:
    made = Allocation(kind="slurm", id="7", hosts=("n1", "n2"), gpus_per_host=2)
    words = command_for(made, "n2", "engine-0.1", ("sh", "/a b/x.sh", "--flag"))
    assert words[words.index("--") + 1 :] == ("sh", "/a b/x.sh", "--flag")
    assert "--gres=gpu:2" in words and "--overlap" in words
    none = made.model_copy(update={"gpus_per_host": 0})
    assert not [w for w in command_for(none, "n2", "x", ("y",)) if "gpu" in w]
