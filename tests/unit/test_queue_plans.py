"""Plans in a queue: which sizes are asked about, what the answers mean, and which plan comes first."""

from __future__ import annotations

import math
import time
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lemnos.launchers.late import host
from lemnos.proposals import propose
from lemnos.queues.asking import _sized, queued_spec_of
from lemnos.queues.offers import Offer
from lemnos.queues.ranking import (
    ALIKE_S,
    Answer,
    Candidate,
    QueuedPlan,
    answered,
    better_later,
    queued,
    ranked,
)
from lemnos.queues.sizes import Part, Size, holds, parts_of, together
from lemnos.queues.words import advice, clock, headline, length, when
from lemnos.spec.cluster import Cluster, Node, NodeGpu
from lemnos.spec.deployment import DeploymentSpec
from lemnos.spec.layout import Layout
from lemnos.spec.place import Place
from lemnos.spec.plan import Command, Job
from lemnos.spec.proposal import Ask, Proposal
from lemnos.spec.unit import Room, Unit

AT = 1_800_000_000.0
HOUR = 3600.0
PROPOSAL = propose("qwen3-8b", "1xH100").plans[0]


def node(kind: str | None, gpus: int, count: int = 1, **keys: Any) -> Node:
    own = tuple(NodeGpu(kind=kind, name=(kind or "gpu").lower(), index=i) for i in range(gpus))  # fmt: skip
    return Node(name=f"{kind}-node", count=count, gpus=own, **keys)


def room(*nodes: Node) -> Cluster:
    return Cluster(nodes=nodes)


def shapes(parts: list[Part]) -> list[tuple[str, int, int]]:
    """(kind, nodes, GPUs of each) of every part."""
    return [
        (
            str(part.cluster.nodes[0].gpus[0].kind),
            sum(node.count for node in part.cluster.nodes),
            len(part.cluster.nodes[0].gpus),
        )
        for part in parts
    ]


def proposal(tensor: int = 1, replicas: int = 1, **figures: Any) -> Proposal:
    """A plan with these figures; ready in 100 s."""
    own = {
        "layout": Layout(tensor=tensor, replicas=replicas),
        "gpus": tensor * replicas,
        "nodes": math.ceil(tensor * replicas / 8),
        "output_tokens_per_s": 100.0 * tensor * replicas,
        "ready_s": 100.0,
        "ttft_ms": 500.0,
    }
    return PROPOSAL.model_copy(update=own | figures)


def row(
    tensor: int = 4,
    first: float | None = 0.0,
    full: float | None = None,
    **keys: Any,
) -> QueuedPlan:
    """A plan whose replicas start ``first`` to ``full`` seconds from now (``full``: as the first)."""
    replicas, then = keys.pop("replicas", 1), keys.pop("then", None)
    known = {"compromise": 0, "refused": "", "why": ""} | {
        key: keys.pop(key) for key in ("compromise", "refused", "why") if key in keys
    }
    last = first if full is None else full
    return QueuedPlan(
        plan=proposal(tensor, replicas, **keys),
        size=Size(gpus=tensor),
        replicas=replicas,
        first_at=None if first is None else AT + first,
        replicas_then=replicas if then is None else then,
        full_at=None if last is None or last == math.inf else AT + last,
        first_token_s=None if first is None else first + 100.5,
        **known,
    )


class TestSizes:
    def test_from_one_gpu_to_the_whole_room(self) -> None:
        parts = parts_of(room(node("H100", 8, 3)))
        assert shapes(parts) == [
            ("H100", 1, 1),
            ("H100", 1, 2),
            ("H100", 1, 4),
            ("H100", 1, 8),
            ("H100", 2, 8),
            ("H100", 3, 8),
        ]
        assert {part.per_node for part in parts} == {8}
        assert {part.gpu_type for part in parts} == {""}, "one kind needs no word"

    def test_nodes_that_differ_in_other_things_are_together(self) -> None:
        parts = parts_of(room(node("H100", 8, cores=64), node("H100", 8, 2, cores=96)))
        assert shapes(parts)[-1] == ("H100", 3, 8)

    def test_each_kind_is_apart_and_jobs_must_ask_for_it(self) -> None:
        parts = parts_of(room(node("H100", 4), node("A100-80GB", 2)))
        words = {shape[0]: part.gpu_type for shape, part in zip(shapes(parts), parts, strict=True)}  # fmt: skip
        assert words == {"H100": "h100", "A100-80GB": "a100-80gb"}
        assert {(kind, gpus) for kind, _, gpus in shapes(parts)} == {
            ("H100", 1), ("H100", 2), ("H100", 4), ("A100-80GB", 1), ("A100-80GB", 2),
        }  # fmt: skip

    def test_what_the_spec_pins_holds(self) -> None:
        cluster = room(node("H100", 8, 4))
        assert shapes(parts_of(cluster, 4)) == [
            ("H100", 1, 4),
            ("H100", 2, 4),
            ("H100", 4, 4),
        ]
        assert shapes(parts_of(cluster, None, 2)) == [("H100", 2, 8), ("H100", 4, 8)]
        assert parts_of(cluster, 16) == []

    def test_a_part_has_its_share_of_the_price(self) -> None:
        parts = parts_of(room(node("H100", 8, 2, price_per_hour=16.0, free_gib=800.0)))
        first = parts[0].cluster.nodes[0]
        assert (first.price_per_hour, first.free_gib) == (2.0, 100.0)
        assert parts[-1].cluster.nodes[0].price_per_hour == 16.0

    def test_gpus_of_no_known_kind_are_left_out(self) -> None:
        assert parts_of(room(node(None, 8))) == []
        assert shapes(parts_of(room(node(None, 8), node("H200", 1)))) == [("H200", 1, 1)]  # fmt: skip

    @given(
        hosts=st.integers(1, 3),
        gpus=st.integers(0, 8),
        replicas=st.integers(2, 40),
        per_node=st.sampled_from([1, 4, 8]),
        nodes=st.integers(1, 40),
    )
    def test_where_all_fit_together_each_fits(
        self, hosts: int, gpus: int, replicas: int, per_node: int, nodes: int
    ) -> None:
        size = Size(hosts=hosts, gpus=min(gpus, per_node))
        for whole in together(size, replicas, per_node, nodes):
            assert holds(whole, size) >= replicas
            assert whole.hosts <= nodes and whole.gpus <= per_node

    def test_together_on_full_nodes_first(self) -> None:
        assert together(Size(gpus=2), 6, 8, 10) == [Size(hosts=2, gpus=8), Size(hosts=6, gpus=2)]  # fmt: skip
        assert together(Size(gpus=8), 3, 8, 3) == [Size(hosts=3, gpus=8)]
        assert together(Size(gpus=4), 1, 8, 3) == []
        assert together(Size(gpus=8), 9, 8, 3) == [], "the room has no nine nodes"

    def test_a_job_is_asked_about_at_another_size(self) -> None:
        job = Job(deployment="d", role="engine", command=Command(argv=("x",)), port=1, log="/l")  # fmt: skip
        unit = Unit(deployment="d", name="engine-0", jobs=(job,), place=Place(hosts=(host(0),), gpus_per_host=2, port=1))  # fmt: skip
        assert _sized(unit, Size(hosts=1, gpus=2)) == unit
        place = _sized(unit, Size(hosts=2, gpus=8)).place
        assert (place.hosts, place.gpus_per_host) == ((host(0), host(1)), 8)


class TestSaved:
    @pytest.mark.parametrize(
        ("on", "own", "saved"),
        [("slurm", None, "h100"), ("slurm", "a100", "a100"), ("pbs", None, None)],
    )
    def test_slurm_is_told_which_of_its_gpus(
        self, on: str, own: str | None, saved: str | None
    ) -> None:
        spec = DeploymentSpec.model_validate(
            {"model": "qwen3-8b", "on": on, "slurm": {"gpu_type": own, "qos": "high"}}
        )
        made = queued_spec_of(spec, Offer(proposal(4), 8, "h100"), Ask(concurrency=7))
        assert (made.slurm.gpu_type, made.slurm.qos) == (saved, "high")
        assert made.plan == proposal(4) and made.engine == "vllm"
        assert made.model.source == "hf://Qwen/Qwen3-8B"
        assert made.workload.concurrency == 7


class TestAnswers:
    def candidate(self, tensor: int, replicas: int = 1, **keys: Any) -> Candidate:
        return Candidate(
            plan=proposal(tensor, replicas),
            size=Size(gpus=tensor),
            replicas=replicas,
            **keys,
        )

    def test_the_queue_is_a_part_of_the_first_token(self) -> None:
        answers = {Size(gpus=4): Answer(starts_at=AT + HOUR, why="others come first")}
        made = queued(self.candidate(4), answers, AT)
        assert (made.wait_s, made.first_token_s) == (HOUR, HOUR + 100.5)
        assert made.first_at == made.full_at == AT + HOUR
        assert made.why == "others come first"

    def test_the_first_replica_starts_now_the_last_later(self) -> None:
        answers = {
            Size(gpus=4): Answer(starts_at=AT),
            Size(gpus=8): Answer(starts_at=AT + 9 * HOUR, why="others hold them"),
        }
        made = queued(self.candidate(4, 2), answers, AT)
        assert (made.first_at, made.full_at) == (AT, AT + 9 * HOUR)
        assert (made.replicas_then, made.gpus) == (1, 8)
        assert made.first_token_s == 100.5
        assert made.why == "others hold them"

    def test_larger_jobs_tell_of_smaller_ones(self) -> None:
        answers = {
            Size(gpus=1): Answer(starts_at=AT),
            Size(gpus=4): Answer(starts_at=AT),
            Size(hosts=2, gpus=8): Answer(starts_at=AT + HOUR),
        }
        made = queued(self.candidate(1, 12), answers, AT)
        assert (made.replicas_then, made.full_at) == (4, AT + HOUR)

    def test_what_is_not_known_is_not_guessed(self) -> None:
        made = queued(self.candidate(4), {Size(gpus=4): Answer(why="it says nothing")}, AT)  # fmt: skip
        assert made.first_at is made.first_token_s is made.full_at is None
        assert made.why == "it says nothing"
        none = queued(self.candidate(4), {}, AT)
        assert none.first_at is None and not none.refused

    def test_refused_together_but_not_alone(self) -> None:
        answers = {
            Size(gpus=8): Answer(starts_at=AT),
            Size(hosts=2, gpus=8): Answer(refused="one node at most"),
        }
        made = queued(self.candidate(8, 2), answers, AT)
        assert made.first_at == AT and made.full_at is None and not made.refused
        assert "cannot be asked about together" in made.why

    def test_refused(self) -> None:
        answers = {Size(gpus=8): Answer(refused="no node has 8"), Size(gpus=4): Answer(starts_at=AT)}  # fmt: skip
        assert queued(self.candidate(8), answers, AT).refused == "no node has 8"
        pinned = self.candidate(4, refused="slurm.nodes is too small")
        assert queued(pinned, answers, AT).refused == "slurm.nodes is too small"

    def test_a_time_that_has_passed_is_now(self) -> None:
        made = queued(self.candidate(4), {Size(gpus=4): Answer(starts_at=AT - 5)}, AT)
        assert (made.first_at, made.wait_s) == (AT, 0.0)

    def test_rooms_as_answers(self) -> None:
        assert answered(Room(free=True), AT) == Answer(starts_at=AT)
        later = Room(free=False, starts_at=AT + 9, why="w")
        assert answered(later, AT) == Answer(starts_at=AT + 9, why="w")
        assert answered(Room(free=False, why="w"), AT).starts_at is None


class TestRanking:
    def order(self, *rows: QueuedPlan, **ask: Any) -> list[int]:
        """Numbers of ``rows`` as they are ranked, however they come."""
        asked = Ask(**ask)
        found = {
            tuple(rows.index(plan) for plan in ranked(some, asked))
            for some in permutations(rows)
        }
        assert len(found) == 1
        return list(found.pop())

    def test_what_starts_earlier_comes_first_however_slow(self) -> None:
        assert self.order(row(8, 9 * HOUR), row(4), row(2, HOUR)) == [1, 2, 0]

    def test_about_as_early_the_faster_comes_first(self) -> None:
        assert self.order(row(2), row(4, ready_s=250.0), row(1)) == [1, 0, 2]
        late = ALIKE_S + 1
        assert self.order(row(2), row(4, late)) == [0, 1]

    def test_what_starts_first_counts_not_all_that_comes(self) -> None:
        both = row(4, full=9 * HOUR, replicas=2, then=1)
        slower = row(2, full=9 * HOUR, replicas=4, then=1)
        assert self.order(row(2), both, slower) == [1, 2, 0]

    def test_of_the_same_speed_the_fewest_gpus(self) -> None:
        assert self.order(row(8, output_tokens_per_s=401.0), row(4)) == [1, 0]

    def test_unknown_after_known_refused_last(self) -> None:
        rows = row(8, None), row(4, None, refused="never"), row(2, 100 * HOUR)
        assert self.order(*rows) == [2, 0, 1]

    def test_the_service_level_is_before_all(self) -> None:
        assert self.order(row(4, meets_slo=False), row(8, 9 * HOUR, meets_slo=True)) == [1, 0]  # fmt: skip

    def test_no_compromise_where_both_start_now(self) -> None:
        assert self.order(row(4, compromise=2), row(2)) == [1, 0]
        assert self.order(row(4, compromise=2), row(8, HOUR)) == [0, 1]

    def test_by_each_objective(self) -> None:
        fast = row(8, tpot_ms=5.0, cost_per_hour=80.0)
        cheap = row(1, tpot_ms=20.0, cost_per_hour=2.0)
        assert self.order(fast, cheap, objective="latency") == [0, 1]
        assert self.order(fast, cheap, objective="cost") == [1, 0]
        assert self.order(fast, cheap, objective="gpus") == [1, 0]

    @given(
        st.lists(
            st.builds(
                row,
                st.sampled_from([1, 2, 4, 8]),
                st.none() | st.floats(0, 1e6),
                refused=st.sampled_from(["", "no"]),
                compromise=st.integers(0, 2),
                meets_slo=st.sampled_from([None, True, False]),
            ),
            max_size=8,
        )
    )
    def test_none_is_lost_and_known_come_first(self, rows: list[QueuedPlan]) -> None:
        plans = ranked(rows, Ask())
        assert sorted(map(id, plans)) == sorted(map(id, rows))
        kept = [plan for plan in plans if plan.plan.meets_slo is not False]
        order = [(bool(plan.refused), plan.first_token_s is None) for plan in kept]
        assert order == sorted(order)

    def test_worth_waiting_for(self) -> None:
        now, twice, little = row(4), row(8, 9 * HOUR), row(4, HOUR, output_tokens_per_s=420.0)  # fmt: skip
        assert better_later((now, little, twice), Ask()) is twice
        assert better_later((now, little), Ask()) is None
        assert better_later((now, row(8, None)), Ask()) is None, "nobody knows when"
        worse = row(8, 9 * HOUR, compromise=1)
        assert better_later((now, worse), Ask()) is None
        own = row(4, compromise=2)
        assert better_later((own, row(2, HOUR)), Ask()) is not None

    def test_what_misses_the_service_level_is_not_worth_waiting_for(self) -> None:
        kept = row(4, meets_slo=True)
        assert better_later((kept, row(8, HOUR, meets_slo=False)), Ask()) is None


class TestWords:
    @pytest.fixture(autouse=True)
    def utc(self, monkeypatch: pytest.MonkeyPatch) -> Any:
        monkeypatch.setenv("TZ", "UTC")
        time.tzset()
        yield
        monkeypatch.undo()
        time.tzset()

    def test_the_headline(self) -> None:
        rows = (
            *(row(1), row(2), row(4), row(8, 9 * HOUR), row(8, None)),
            *(row(4, replicas=4, full=math.inf), row(8, None, replicas=3, refused="x")),
        )
        assert headline(rows, AT) == "H100 GPUs: 1, 2, 4 now; 8 in 9 h; 16 not known; 24 refused"  # fmt: skip
        other = row(2, gpu="A100-80GB")
        assert headline((*rows[:1], other), AT) == "A100-80GB GPUs: 2 now\nH100 GPUs: 1 now"  # fmt: skip

    def test_start_now_and_better_later(self) -> None:
        said = advice((row(4), row(8, 9 * HOUR)), Ask(), AT, "slurm")
        assert said == (
            "start with 4 GPUs now (qwen3-8b as TP4, 400 tokens/s); 8 (qwen3-8b as TP8) would "
            "give twice the tokens from 17:00 on (in 9 h)"
        )

    def test_a_part_now_the_rest_later(self) -> None:
        both = row(4, full=9 * HOUR, replicas=2, then=1)
        said = advice((both,), Ask(), AT, "slurm")
        assert (
            "4 of its 8 GPUs can start now, all of them from 17:00 (in 9 h) on" in said
        )
        unknown = row(4, full=math.inf, replicas=2, then=1)
        assert "nobody says when the others can" in advice((unknown,), Ask(), AT, "s")

    def test_nothing_now(self) -> None:
        said = advice((row(4, HOUR),), Ask(), AT, "slurm")
        assert said.startswith("the first that can start is 4 GPUs")
        assert "at 09:00 (in 60 min)" in said
        said = advice((row(4, None, why="its queue is stopped"),), Ask(), AT, "pbs")
        assert said.startswith("pbs does not say when anything would start (its queue is stopped)")  # fmt: skip
        said = advice((row(4, None, why="full"),), Ask(), AT, "local", queues=False)
        assert said == "local has no room for any of them now (full), and no queue to wait in"  # fmt: skip

    @pytest.mark.parametrize(
        ("objective", "figures", "words"),
        [
            ("latency", {"tpot_ms": PROPOSAL.tpot_ms / 3}, "3.0 times as fast with each token"),
            ("cost", {"cost_per_hour": 1.0}, "times the tokens for the money"),
            ("throughput", {"output_tokens_per_s": 600.0}, "1.5 times as many tokens"),
        ],
    )  # fmt: skip
    def test_better_by_what_was_asked_for(
        self, objective: Any, figures: dict[str, float], words: str
    ) -> None:
        plans = row(4, cost_per_hour=8.0), row(8, HOUR, **({"cost_per_hour": 8.0} | figures))  # fmt: skip
        assert words in advice(plans, Ask(objective=objective), AT, "slurm")

    def test_the_model_itself_where_a_smaller_one_is_first(self) -> None:
        plans = row(4, compromise=2, model="qwen3-8b-awq"), row(8, HOUR)
        assert "would serve qwen3-8b from 09:00 on" in advice(plans, Ask(), AT, "slurm")

    def test_times(self) -> None:
        assert [length(s) for s in (40, 720, 5401, 9 * HOUR, 72 * HOUR)] == ["40 s", "12 min", "1.5 h", "9 h", "3 days"]  # fmt: skip
        assert when(None, AT) == "not known"
        assert when(AT + 30, AT) == "now"
        assert clock(AT + 9 * HOUR, AT) == "17:00"
        assert clock(AT + 48 * HOUR, AT) == "Sun 08:00"
        assert clock(AT + 30 * 24 * HOUR, AT) == "2027-02-14 08:00"
