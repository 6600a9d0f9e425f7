"""What Ray 2.60 answered, read; and what it makes of it when parts are missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lemnos.errors import LemnosError, UsageError
from lemnos.launchers.ray import parse
from lemnos.launchers.ray.inventory import cluster_of, room_of
from lemnos.launchers.ray.parse import RayJob, RayNode, Told

DATA = Path(__file__).parents[3] / "data/ray"


def answer(name: str) -> Any:
    return json.loads((DATA / f"{name}.json").read_text())


def nodes() -> tuple[RayNode, ...]:
    found = parse.nodes_of(answer("nodes"), answer("cluster_status"))
    assert found
    return found


def row(**changes: Any) -> dict[str, Any]:
    return {
        "submission_id": "lemnos-box-0a-engine-0-7",
        "status": "RUNNING",
        "message": "Job is currently running.",
        "metadata": {"lemnos": "lemnos:me:box:engine-0", "try": "7"},
    } | changes


def test_jobs_are_read() -> None:
    foreign = parse.jobs_of(answer("foreign_jobs"))
    assert foreign and {job.mark for job in foreign} == {""}
    assert {job.id: job.alive for job in foreign} == dict.fromkeys(["t1", "t2", "t3"], False)  # fmt: skip
    rows = [row(), row(metadata=None), {"type": "DRIVER", "submission_id": None}]
    own, forgotten = parse.jobs_of(rows) or ()
    assert (own.mark, own.number, own.alive) == ("lemnos:me:box:engine-0", 7, True)
    assert forgotten.mark == ""
    assert parse.jobs_of({"detail": "no"}) is None


def test_the_last_start_of_a_unit_counts() -> None:
    jobs = [
        RayJob(id=f"j{n}", status="FAILED" if n < 9 else "RUNNING", mark="a:box:u", number=n)
        for n in (9, 3, 8)
    ]  # fmt: skip
    jobs.append(RayJob(id="other", status="RUNNING", mark="a:box-2:u", number=99))
    assert {name: job.id for name, job in parse.newest(jobs, "a:box:").items()} == {"u": "j9"}  # fmt: skip


def test_what_the_driver_printed_is_read() -> None:
    text = (
        "Running entrypoint for job x: python driver.py\n"
        'LEMNOS {"waits": "a host with 8 GPU"}\n'
        'LEMNOS {"hosts": ["10.0.0.1", "10.0.0.2"], "port": 20001}\n'
        'LEMNOS {"ended": "engine-0.1 ended with exi\n'
    )
    assert parse.told(text) == Told(waits="a host with 8 GPU", hosts=("10.0.0.1", "10.0.0.2"), port=20001)  # fmt: skip
    assert parse.told('LEMNOS {}\nLEMNOS x\nLEMNOS 1\nLEMNOS {"port": []}\n') == Told()


@pytest.mark.parametrize(
    ("status", "message", "why"),
    [
        (
            "FAILED",
            'Job entrypoint command failed with exit code 1, last available logs:\nLEMNOS {"ended": "engine-0 ended '
            'with exit code 3"}\n',
            "engine-0 ended with exit code 3",
        ),
        ("STOPPED", "Job was intentionally stopped.", "was asked to end"),
        ("FAILED", "Failed with:\n\nimport\nImportError: no ray\n", "its driver ended: ImportError: no ray"),
        ("FAILED", "Job supervisor actor died", "Ray says: Job supervisor actor died"),
        ("FAILED", "", "its job failed"),
    ],
)  # fmt: skip
def test_how_a_job_ended_is_said(status: str, message: str, why: str) -> None:
    assert parse.why(RayJob(id="j", status=status, message=message)) == why


def test_nodes_are_read_with_what_is_free() -> None:
    found = {node.address: node for node in nodes()}
    assert [node.head for node in nodes()].count(True) == 1
    assert found["10.99.0.1"].has["CPU"] == 4 and "GPU" not in found["10.99.0.1"].has
    assert found["10.99.0.2"].free["CPU"] == 3  # a unit runs there
    assert found["10.99.0.3"].free["CPU"] == 4
    assert parse.nodes_of(answer("nodes")) and parse.nodes_of({"data": None}) is None


def test_nodes_are_a_cluster() -> None:
    cluster = cluster_of(nodes())
    assert sorted(len(node.gpus) for node in cluster.nodes) == [0, 8, 8]
    assert {gpu.kind for node in cluster.nodes for gpu in node.gpus} == {None}
    named = RayNode(id="a", address="h", alive=True, has={"GPU": 1, "accelerator_type:H100": 1})  # fmt: skip
    labelled = RayNode(id="a", address="h", alive=True, has={"GPU": 1}, labels={"ray.io/accelerator-type": "H200"})  # fmt: skip
    kinds = [n.gpus[0].kind for n in cluster_of([named, labelled]).nodes]
    assert kinds[0] and "H100" in kinds[0] and kinds[1] and "H200" in kinds[1]
    dead = named.model_copy(update={"alive": False})
    with pytest.raises(LemnosError, match="no node"):
        cluster_of([dead])


def test_room_is_what_is_free() -> None:
    assert room_of({"GPU": 8}, 2, nodes()).free
    full = room_of({"CPU": 4}, 3, nodes())
    assert not full.free and "2 of the 3 nodes" in full.why
    with pytest.raises(UsageError, match="3 nodes with 8 GPU are needed, and 2 of this"):  # fmt: skip
        room_of({"GPU": 8}, 3, nodes())
    with pytest.raises(UsageError, match="the largest has 8"):
        room_of({"GPU": 16}, 1, nodes())
    with pytest.raises(UsageError, match="h200"):
        room_of({"CPU": 1, "h200": 1}, 1, nodes())
    with pytest.raises(UsageError, match="together"):
        room_of({"n1": 1, "n2": 1}, 1, nodes())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)  # fmt: skip


@given(JSON)
def test_any_answer_is_read_or_refused(value: object) -> None:
    parse.jobs_of(value)
    parse.nodes_of(value)
    parse.nodes_of(answer("nodes"), value)


@given(st.text())
def test_any_text_of_a_driver_is_read(text: str) -> None:
    parse.told(text)
    parse.told(f"LEMNOS {text}")
    parse.why(RayJob(id="j", status="FAILED", message=text))
