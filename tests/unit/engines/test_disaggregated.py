"""SGLang's prefill and decode servers behind their router, as one unit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lemnos.deployments.prepare import plan_without_pulling, units_of
from lemnos.engines import smg
from lemnos.engines.base import engine_named
from lemnos.errors import UsageError
from lemnos.launchers.shape import replicas_of, shape_of
from lemnos.spec.deployment import DeploymentSpec
from lemnos.spec.document import load
from lemnos.spec.place import Place
from lemnos.spec.plan import Plan
from lemnos.spec.proposal import Role
from tests.unit.engines.rendered import BOX, FILES, TWO, flag, glm, jobs_of, refused

APART = Role(prefill=1, decode=1)


def pair(version: str = "0.5.23", roles: Role = APART, **changes: Any) -> Plan:
    """TP2 for prompts, TP2 for answers, unless told otherwise."""
    changes.setdefault("layout", {"tensor": 2, "replicas": 2})
    return glm("sglang", version, roles=roles, **changes)


def after(words: tuple[str, ...], name: str, count: int = 1) -> tuple[str, ...]:
    at = words.index(name) + 1
    return words[at : at + count]


def test_the_router_comes_first_and_has_the_api() -> None:
    plan = pair().model_copy(update={"router": ("/env/bin/python",)})
    router, prefill, decode = jobs_of(plan)
    assert [job.part for job in (router, prefill, decode)] == [
        *("router", "prefill", "decode")
    ]
    assert [job.rank for job in (router, prefill, decode)] == [0, 1, 2]
    assert (router.port, prefill.port, decode.port) == (BOX.port, 0, 0)
    argv = router.command.argv
    assert argv[:4] == ("/env/bin/python", "-I", "-c", smg.ENTRY_CODE)
    assert argv[4] == FILES.key_file, "by its file: the key is in no argv"
    assert after(argv, "--prefill", 2) == ("http://127.0.0.1:4100", "4101")
    assert after(argv, "--decode") == ("http://127.0.0.1:4102",)
    assert after(argv, "--host") == ("127.0.0.1",)
    assert after(argv, "--port") == (str(BOX.port),)


@pytest.mark.parametrize("version", ["0.5.3", "0.5.9", "0.5.14", "0.5.23"])
def test_servers_send_their_cache_through_nixl(version: str) -> None:
    plan = pair(version)
    _, prefill, decode = jobs_of(plan)
    for job, port, gpus in ((prefill, "4100", "0,1"), (decode, "4102", "2,3")):
        assert flag(job, "--disaggregation-mode") == job.part
        assert flag(job, "--disaggregation-transfer-backend") == "nixl"
        assert flag(job, "--port") == port
        assert job.command.env["CUDA_VISIBLE_DEVICES"] == gpus
        assert refused(plan, job) == []
    assert flag(prefill, "--disaggregation-bootstrap-port") == "4101"


def test_each_server_reads_the_key_from_a_file_of_its_own() -> None:
    jobs = jobs_of(pair())
    told = json.dumps([(job.command.argv, job.command.env) for job in jobs])
    assert "api-key:" not in told
    files = [secret.file for job in jobs for secret in job.command.secrets]
    assert len(set(files)) == 2, "two that start at once must not write one file"
    assert [flag(job, "--config") for job in jobs[1:]] == files


def test_seed_003s_sizes_over_six_trays() -> None:
    """One server at TP16 reads prompts, one at TP8 writes answers."""
    roles = Role(prefill=1, decode=1, decode_layout={"tensor": 8})
    plan = pair("0.5.9", roles, layout={"tensor": 16})
    hosts = tuple(f"10.0.0.{i}" for i in range(1, 7))
    place = TWO.model_copy(update={"hosts": hosts, "multi_node_nvlink": True})
    router, *servers = jobs_of(plan, place)
    assert router.host == "10.0.0.1"
    assert after(router.command.argv, "--prefill", 2) == ("http://10.0.0.1:4100", "4101")  # fmt: skip
    assert after(router.command.argv, "--decode") == ("http://10.0.0.5:4100",)
    assert [(job.part, job.host) for job in servers] == [
        *[("prefill", host) for host in hosts[:4]],
        *[("decode", host) for host in hosts[4:]],
    ]
    for job in servers:
        prefill = job.part == "prefill"
        assert flag(job, "--tp-size") == ("16" if prefill else "8")
        first = "10.0.0.1" if prefill else "10.0.0.5"
        assert flag(job, "--dist-init-addr") == f"{first}:4102"
        assert flag(job, "--disaggregation-decode-tp") == ("8" if prefill else None)
        assert job.command.env["NCCL_MNNVL_ENABLE"] == "1"
        assert job.command.env["SGLANG_HOST_IP"] == job.host
        assert refused(plan, job) == []
    ranks = [
        (each.host, each.port)
        for each in engine_named("sglang").ports(plan, place)
        if each.purpose == "torch.distributed rendezvous"
    ]
    assert ranks == [("10.0.0.1", 4102), ("10.0.0.5", 4102)]
    newer = jobs_of(pair("0.5.23", roles, layout={"tensor": 16}), place)[1]
    assert flag(newer, "--disaggregation-decode-tp") is None, "found out by itself"


def test_every_port_is_listed_with_its_purpose() -> None:
    plan = pair()
    ports = engine_named("sglang").ports(plan, BOX)
    assert [(each.purpose, each.port, each.keyed) for each in ports] == [
        ("API", 4000, True),
        ("router's metrics", 4115, False),
        ("prefill", 4100, True),
        ("KV transfer bootstrap", 4101, False),
        ("decode", 4102, True),
    ]


def test_older_decode_servers_are_told_of_the_prefill_servers_stages() -> None:
    roles = Role(prefill=1, decode=1, decode_layout={"tensor": 2})
    for version, told in (("0.5.9", "2"), ("0.5.23", None)):
        plan = pair(version, roles, layout={"tensor": 2, "pipeline": 2})
        _, prefill, decode = jobs_of(plan)
        assert flag(prefill, "--pp-size") == "2"
        assert flag(decode, "--disaggregation-prefill-pp") == told
        assert refused(plan, decode) == []


def test_decode_workers_may_be_told_other_settings() -> None:
    base = pair()
    assert base.proposal
    settings = base.proposal.settings.model_copy(update={"max_seqs": 7})
    roles = APART.model_copy(update={"decode_settings": settings})
    _, prefill, decode = jobs_of(pair(roles=roles))
    assert flag(decode, "--max-running-requests") == "7"
    assert flag(prefill, "--max-running-requests") != "7"


def test_each_role_may_be_told_more() -> None:
    plan = pair()
    spec = plan.spec.model_dump() | {
        "plan": plan.proposal,
        "engine_args": {"attention-backend": "flashinfer"},
        "engine_env": {"A": "1", "B": "1"},
        "decode": {
            "engine_args": {"attention-backend": "fa3"},
            "engine_env": {"B": "2"},
        },
    }
    changed = {"spec": DeploymentSpec.model_validate(spec)}
    router, prefill, decode = jobs_of(plan.model_copy(update=changed))
    assert flag(prefill, "--attention-backend") == "flashinfer"
    assert decode.command.argv.count("--attention-backend") == 1
    assert flag(decode, "--attention-backend") == "fa3"
    assert (prefill.command.env["B"], decode.command.env["B"]) == ("1", "2")
    assert decode.command.env["A"] == "1" and "A" not in router.command.env
    with pytest.raises(ValueError, match="a plan that has them apart"):
        DeploymentSpec.model_validate({**spec, "plan": None})


def test_attention_ranks_of_older_versions_say_how_they_balance() -> None:
    roles = Role(prefill=1, decode=1, decode_layout={"tensor": 1, "data": 2})
    for version, told in (("0.5.5", True), ("0.5.23", False)):
        plan = pair(version, roles)
        _, prefill, decode = jobs_of(plan)
        assert ("--prefill-round-robin-balance" in decode.command.argv) == told
        assert "--prefill-round-robin-balance" not in prefill.command.argv
        assert flag(prefill, "--disaggregation-decode-dp") == ("2" if told else None)
        # Attention DP takes six more ports, 233 above the API.
        assert [flag(job, "--port") for job in (prefill, decode)] == ["4100", "4107"]


def test_what_cannot_be_is_refused() -> None:
    odd = Role(prefill=1, decode=1, decode_layout={"tensor": 3})
    with pytest.raises(UsageError, match="must have a multiple") as caught:
        jobs_of(pair(roles=odd), BOX.model_copy(update={"gpus_per_host": 8}))
    assert caught.value.where == "plan.roles.decode_layout"
    many = Role(prefill=4, decode=4)
    plan = pair(roles=many, layout={"tensor": 1, "replicas": 8})
    with pytest.raises(UsageError, match="more than 7 workers on one host"):
        jobs_of(plan, BOX.model_copy(update={"gpus_per_host": 8}))
    with pytest.raises(UsageError, match="need 8 GPUs, and the host has 4"):
        four = BOX.model_copy(update={"gpus_per_host": 4})
        jobs_of(pair(layout={"tensor": 4, "replicas": 2}), four)
    with pytest.raises(UsageError, match="not started on Ray"):
        jobs_of(pair(), BOX.model_copy(update={"ray": True}))


def test_a_group_is_one_unit_with_room_for_all_of_it() -> None:
    roles = Role(prefill=1, decode=2, decode_layout={"tensor": 4})
    plan = pair(roles=roles, layout={"tensor": 16})
    assert plan.proposal
    changed = {"gpu": "GB200", "nodes": 6, "gpus": 24}
    proposal = plan.proposal.model_copy(update=changed)
    plan = plan.model_copy(update={"proposal": proposal})
    shape = shape_of(plan)
    assert (shape.hosts, shape.gpus, shape.per_host) == (6, 4, 4)
    assert shape.multi_node_nvlink
    assert replicas_of(plan) == 1
    assert proposal.divided == "TP16 prefill, 2 x TP4 decode"
    whole = plan.model_copy(update={"engine": "vllm"})
    assert replicas_of(whole) == whole.layout.replicas


def test_late_values_stay_whole() -> None:
    """A scheduler's hosts and ports are tokens until the job starts."""
    from lemnos.launchers import late

    place = Place(
        hosts=(late.host(0), late.host(1)),
        gpus_per_host=2,
        port=late.PORT,
        inner_port=late.INNER_PORT,
    )
    router = jobs_of(pair(), place)[0]
    line = " ".join(late.quoted(word) for word in router.command.argv)
    assert 'http://"${LEMNOS_HOST_1}":"${LEMNOS_INNER_PORT}"' in line
    assert '"$((LEMNOS_INNER_PORT + 1))"' in line


@pytest.mark.parametrize(
    ("name", "hosts", "parts"),
    [
        ("single-node", 1, ["frontend", "worker"]),
        ("4p2d", 6, ["frontend", "etcd", "nats", *["prefill"] * 4, *["decode"] * 2]),
    ],
)
def test_seed_003s_example_is_what_the_seed_has(
    name: str, hosts: int, parts: list[str]
) -> None:
    """Each line would pass the parser of the version that the container has."""
    examples = Path(__file__).parents[3] / "examples" / "seed-003-dynamo-slurm"
    spec = load(examples / "specs" / f"{name}.yaml", DeploymentSpec)
    plan = plan_without_pulling(spec)
    assert shape_of(plan).hosts == hosts
    unit = units_of(plan)[1]
    assert [job.part for job in unit.jobs] == parts
    assert [refused(plan, job) for job in unit.jobs] == [[]] * len(parts)
    assert {flag(job, "--tp-size") for job in unit.jobs} - {None} == (
        {"16", "8"} if hosts == 6 else {"4"}
    )
