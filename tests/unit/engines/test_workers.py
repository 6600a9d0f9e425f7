"""Which worker of a group has which hosts and GPUs."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lemnos.engines.workers import Seat, hosts_and_gpus, seats, workers_of
from lemnos.errors import UsageError
from lemnos.spec.place import Place
from lemnos.spec.proposal import Role
from tests.unit.engines.rendered import BOX, glm

SIZES = st.lists(st.sampled_from([1, 2, 4, 8, 16]), min_size=1, max_size=12)
PER_HOST = st.sampled_from([1, 2, 4, 8])


@given(SIZES, PER_HOST)
def test_no_gpu_has_two_workers_and_hosts_are_taken_in_order(
    sizes: list[int], per_host: int
) -> None:
    found = seats(sizes, per_host)
    taken = [
        (host, gpu)
        for seat in found
        for host in range(seat.host, seat.host + seat.hosts)
        for gpu in range(seat.gpu, seat.gpu + seat.gpus)
    ]
    assert len(set(taken)) == len(taken) == sum(sizes)
    assert max(gpu for _, gpu in taken) < per_host
    assert all(one.host <= next_.host for one, next_ in pairwise(found))


@given(SIZES, PER_HOST)
def test_what_is_asked_of_a_scheduler_seats_them_as_they_were_planned(
    sizes: list[int], per_host: int
) -> None:
    """A launcher asks for as many GPUs of a host as are used there, perhaps fewer than it has."""
    found = seats(sizes, per_host)
    used = max(seat.gpu + seat.gpus for seat in found)
    assert seats(sizes, used) == found


def test_a_worker_that_needs_more_than_a_host_has_whole_ones() -> None:
    assert seats([2, 8, 2, 2], 4) == [
        Seat(host=0, hosts=1, gpu=0, gpus=2),
        Seat(host=1, hosts=2, gpu=0, gpus=4),
        Seat(host=3, hosts=1, gpu=0, gpus=2),
        Seat(host=3, hosts=1, gpu=2, gpus=2),
    ]


@pytest.mark.parametrize(
    ("tensor", "replicas", "nodes", "wanted"),
    [(4, 3, 2, (2, 8, 8)), (4, 2, 1, (1, 8, 8)), (8, 3, 6, (6, 4, 4)), (2, 4, 1, (1, 8, 8))],
)  # fmt: skip
def test_a_host_is_as_large_as_the_plans_nodes_must_be(
    tensor: int, replicas: int, nodes: int, wanted: tuple[int, int, int]
) -> None:
    """12 GPUs on two nodes are not 6 each where workers have 4."""
    proposal = glm("dynamo", layout={"tensor": tensor, "replicas": replicas}).proposal
    assert proposal
    proposal = proposal.model_copy(update={"nodes": nodes})
    assert hosts_and_gpus(proposal) == wanted


def test_without_gpus_hosts_are_divided_evenly() -> None:
    plan = glm("dynamo", roles=Role(prefill=1, decode=1), layout={"tensor": 2})
    assert plan.proposal
    hosts = Place(hosts=("a", "b", "c", "d"), port=1)
    workers = workers_of(plan.proposal, hosts, "Dynamo")
    assert [worker.place.hosts for worker in workers] == [("a", "b"), ("c", "d")]
    three = hosts.model_copy(update={"hosts": ("a", "b", "c")})
    with pytest.raises(UsageError, match="cannot be divided evenly among 2 workers"):
        workers_of(plan.proposal, three, "Dynamo")


def test_workers_know_which_of_a_hosts_they_are() -> None:
    roles = Role(prefill=1, decode=2, decode_layout={"tensor": 2})
    plan = glm("sglang", roles=roles, layout={"tensor": 4})
    assert plan.proposal
    workers = workers_of(plan.proposal, BOX, "SGLang")
    assert [(w.role, w.slot, w.place.devices) for w in workers] == [
        ("prefill", 0, ("0", "1", "2", "3")),
        ("decode", 1, ("4", "5")),
        ("decode", 2, ("6", "7")),
    ]
    assert [w.proposal.layout.gpus for w in workers] == [4, 2, 2]
