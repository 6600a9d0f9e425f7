"""What real clients of 22.05 and 24.11 printed, read."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lemnos.errors import LemnosError
from lemnos.launchers.slurm import parse
from lemnos.launchers.slurm.hostlist import expand
from lemnos.launchers.slurm.inventory import cluster_of

DATA = Path(__file__).parents[3] / "data/slurm"


def text(name: str) -> str:
    return (DATA / name).read_text()


@pytest.mark.parametrize("version", ["22.05", "24.11"])
def test_the_queue_of_each_generation(version: str) -> None:
    jobs = {job.id: job for job in parse.jobs_of_json(text(f"squeue-{version}.json"))}
    running, pending = jobs[1], jobs[2]
    assert running.states == ("RUNNING",) and running.nodes == ("n1", "n2")
    assert running.ends_at and running.starts_at
    assert running.ends_at - running.starts_at == 120
    assert pending.state == "PENDING" and pending.reason == "Resources"
    assert pending.starts_at and not pending.nodes
    assert running.code == 0 and running.signal is None


def test_exit_codes() -> None:
    jobs = {job.id: job for job in parse.jobs_of_json(text("squeue-22.05.json"))}
    assert [(jobs[i].code, jobs[i].signal) for i in (4, 5, 3)] == [(0, None), (1, None), (2, None)]  # fmt: skip
    code = {"return_code": {"set": False, "infinite": False, "number": 0}, "signal": {"id": {"set": True, "infinite": False, "number": 9}}}  # fmt: skip
    (job,) = parse.jobs_of_json(
        '{"jobs": [{"job_id": 1, "job_state": ["FAILED", "COMPLETING"], "exit_code": '
        + str(code).replace("'", '"').replace("True", "true").replace("False", "false")
        + "}]}"
    )
    assert job.signal == 9 and job.states == ("FAILED", "COMPLETING")


def test_the_plain_queue() -> None:
    """Of 22.05; the last is a comment over two lines, of a job that is not ours."""
    jobs = parse.jobs_of_plain(
        "23|CANCELLED|None|0|9|1795282299|1795282299|1795282301|n1|lemnos:o:box:engine-0|\n"
        "20|FAILED|NonZeroExitCode|2|768|1795280921|N/A|N/A|n[1-2]|(null)|\n"
        "28|PENDING|(ReqNodeNotAvail, UnavailableNodes:n2)|0|0|1795282357|N/A|N/A||a|b\n|c|\n"
    )
    assert [job.id for job in jobs] == [23, 20, 28]
    assert jobs[0].signal == 9 and jobs[0].comment == "lemnos:o:box:engine-0"
    assert jobs[1].code == 3 and jobs[1].restarts == 2 and jobs[1].starts_at is None
    assert jobs[1].nodes == ("n1", "n2") and jobs[1].comment == ""
    assert jobs[2].reason.startswith("ReqNodeNotAvail") and jobs[2].comment == "a|b"


def test_times_without_a_zone_are_read_where_slurm_gives_no_other() -> None:
    line = "1|RUNNING|None|0|0|2026-11-21T03:21:17|2026-11-21T03:21:18|Unknown|n1||"
    (job,) = parse.jobs_of_plain(line)
    assert job.starts_at == job.submitted + 1 and job.ends_at is None


@given(st.text())
def test_no_plain_output_is_an_error(said: str) -> None:
    parse.jobs_of_plain(said)
    parse.nodes_of_plain(said)
    parse.partitions_of(said)
    parse.gpus_of(said)
    parse.start_of(said)
    parse.version_of(said)
    expand(said)


@pytest.mark.parametrize("said", ["", "[]", "{}", "slurm: error", '{"jobs"'])
def test_json_that_is_none_is_one_sentence(said: str) -> None:
    with pytest.raises(LemnosError, match="cannot read"):
        parse.jobs_of_json(said)


@pytest.mark.parametrize("version", ["22.05", "24.11"])
def test_the_nodes_of_each_generation(version: str) -> None:
    nodes = parse.nodes_of_json(text(f"sinfo-{version}.json"))
    assert sorted(node.name for node in nodes) == ["n1", "n2", "n3"]
    by_name = {node.name: node for node in nodes}
    assert set(by_name["n1"].partitions) == {"gpu", "debug"}
    assert by_name["n3"].partitions == ("gpu",) and by_name["n3"].state == "idle"
    assert all(node.usable for node in nodes)
    (node,) = cluster_of(nodes, "gpu").nodes
    assert (node.count, node.cores, len(node.gpus)) == (3, 16, 8)
    assert node.gpus[7].kind == "H100" and node.gpus[7].index == 7
    assert node.memory_gib == 15.625


def test_the_plain_nodes() -> None:
    nodes = parse.nodes_of_plain(text("sinfo.txt"))
    assert [node.name for node in nodes] == ["n1", "n2", "n3"]
    assert nodes[0].partitions == ("gpu", "short", "down", "cheap", "urgent")
    assert not nodes[1].usable, "it is down"
    cluster = cluster_of(nodes)
    assert [(node.name, node.count) for node in cluster.nodes] == [("n1", 1), ("n3", 1)]


def test_a_partition_without_nodes_is_said() -> None:
    nodes = parse.nodes_of_plain(text("sinfo.txt"))
    with pytest.raises(LemnosError, match="no node of partition nope"):
        cluster_of(nodes, "nope")
    with pytest.raises(LemnosError, match="takes jobs"):
        cluster_of(nodes, None, "a100")


def test_partitions() -> None:
    found = parse.partitions_of(text("partitions.txt"))
    assert list(found) == ["gpu", "short", "down", "cheap", "urgent"]
    assert found["gpu"].default and found["gpu"].max_s == 86400
    assert found["short"].max_s == 60 and found["short"].up
    assert not found["down"].up
    (endless,) = parse.partitions_of("PartitionName=x MaxTime=UNLIMITED").values()
    assert endless.max_s is None


@pytest.mark.parametrize(
    ("gres", "gpus"),
    [
        ("gpu:h100:8", [("h100", 8)]),
        ("gpu:h100:4(S:0-1)", [("h100", 4)]),
        ("gpu:4", [(None, 4)]),
        ("gpu:a100:2,gpu:a40:2(IDX:2-3),shard:16", [("a100", 2), ("a40", 2)]),
        ("gres/gpu:nvidia_h100_80gb_hbm3=8", [("nvidia_h100_80gb_hbm3", 8)]),
        ("craynetwork:3,gpu:1", [(None, 1)]),
        ("gpu:h100:0", []),
        ("(null)", []),
    ],
)
def test_gres(gres: str, gpus: list[tuple[str | None, int]]) -> None:
    assert parse.gpus_of(gres) == gpus


def test_the_expected_start_is_in_utc() -> None:
    said = "sbatch: Job 9 to start at 2026-11-21T17:01:03 using 1 processors on nodes n1 in partition gpu"
    assert parse.start_of(said) == 1795280463.0


def test_versions() -> None:
    said = ("slurm-wlm 22.05.8", "slurm 24.11.5", "slurm 20.11.9-2", "nothing")
    assert [parse.version_of(each) for each in said] == [(22, 5), (24, 11), (20, 11), (0, 0)]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("n1", ["n1"]),
        ("n[1-3]", ["n1", "n2", "n3"]),
        ("n[08-10,12],login", ["n08", "n09", "n10", "n12", "login"]),
        ("r[1-2]n[1-2]-ib", ["r1n1-ib", "r1n2-ib", "r2n1-ib", "r2n2-ib"]),
        ("", []),
    ],
)
def test_lists_of_nodes(text: str, names: list[str]) -> None:
    assert list(expand(text)) == names


def test_a_thousand_jobs_are_read_at_once() -> None:
    one = text("squeue-24.11.json")
    jobs = one[one.index("[") + 1 : one.rindex("]", 0, one.rindex('"errors"'))]
    first = jobs[: jobs.index("\n  },") + 4]
    many = '{"jobs": [' + ",".join([first] * 1000) + "]}"
    started = time.process_time()
    assert len(parse.jobs_of_json(many)) == 1000
    assert time.process_time() - started < 1.0  # the whole budget of a status
