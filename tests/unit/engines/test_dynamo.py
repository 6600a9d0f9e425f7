"""Dynamo: a frontend and its workers, whole or apart, on one host or several."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lemnos.engines.base import engine_named
from lemnos.errors import UsageError
from lemnos.spec.place import Place
from lemnos.spec.plan import Plan
from lemnos.spec.proposal import Role
from tests.unit.engines.rendered import (
    FILES,
    flag,
    glm,
    jobs_of,
    plan_of,
    proposed,
    refused,
)

GB200 = Place(gpus_per_host=4, port=4000, inner_port=4100)
TWO_GB200 = GB200.model_copy(
    update={"hosts": ("10.0.0.1", "10.0.0.2"), "multi_node_nvlink": True}
)
APART = Role(prefill=1, decode=1)


def nvfp4(version: str = "1.6.1", worker: str = "sglang", **changes: Any) -> Plan:
    """GLM-4.7-NVFP4 at TP4 on GB200s, as seed 003 has it."""
    base = proposed("glm-4.7-nvfp4", "4xGB200", tensor=4, replicas=1)
    layout = base.layout.model_copy(update=changes.pop("layout", {}))
    roles = changes.pop("roles", None)
    base = base.model_copy(update={"engine": worker, "layout": layout, "roles": roles})
    return plan_of(base, "dynamo", version, **changes)


@pytest.mark.parametrize("version", ["0.8.1", "1.6.1"])
@pytest.mark.parametrize("worker", ["sglang", "vllm"])
def test_one_host_needs_no_etcd(version: str, worker: str) -> None:
    """Seed 003's single node: a frontend, a worker, and files to find each other."""
    plan = nvfp4(version, worker)
    frontend, own = jobs_of(plan, GB200)
    assert (frontend.part, own.part) == ("frontend", "worker")
    store = "--discovery-backend" if version == "1.6.1" else "--store-kv"
    for job in (frontend, own):
        assert flag(job, store) == "file"
        assert job.command.env["DYN_FILE_KV"] == f"/cache/{plan.name}-store"
        assert job.command.env["DYN_NAMESPACE"] == plan.name
        assert "ETCD_ENDPOINTS" not in job.command.env
        assert refused(plan, job) == []
    assert flag(frontend, "--http-host") == "127.0.0.1"
    assert flag(frontend, "--http-port") == "4000"
    assert (frontend.port, own.port) == (4000, 0)
    assert flag(frontend, "--router-mode") == "kv"
    events = "--no-router-kv-events" if version == "1.6.1" else "--no-kv-events"
    assert events in frontend.command.argv  # nobody publishes any


def test_the_whole_worker_of_seed_003() -> None:
    _, job = jobs_of(nvfp4(), GB200)
    assert job.command.argv == (
        *("python3", "-m", "dynamo.sglang"),
        *("--model-path", "/models/glm-4.7-nvfp4"),
        *("--served-model-name", "glm-4.7-nvfp4"),
        *("--tp-size", "4"),
        *("--context-length", "202752"),
        *("--max-running-requests", "1024"),
        *("--chunked-prefill-size", "8192"),
        *("--mem-fraction-static", "0.92"),
        "--enable-metrics",
        *("--dyn-tool-call-parser", "glm47"),
        *("--dyn-reasoning-parser", "glm45"),
        *("--discovery-backend", "file"),
    )
    assert job.command.env["CUDA_VISIBLE_DEVICES"] == "0,1,2,3"


@pytest.mark.parametrize("version", ["0.8.1", "0.9.0", "1.0.0", "1.6.1"])
@pytest.mark.parametrize("worker", ["sglang", "vllm"])
def test_prompts_and_answers_apart_over_two_hosts(version: str, worker: str) -> None:
    plan = nvfp4(version, worker, roles=APART, layout={"replicas": 2})
    jobs = jobs_of(plan, TWO_GB200)
    assert [(job.part, job.host) for job in jobs] == [
        ("frontend", "10.0.0.1"),
        ("etcd", "10.0.0.1"),
        ("nats", "10.0.0.1"),
        ("prefill", "10.0.0.1"),
        ("decode", "10.0.0.2"),
    ]
    assert [job.rank for job in jobs] == [0, 1, 2, 3, 4]
    for job in (jobs[0], *jobs[3:]):
        env = job.command.env
        assert env["ETCD_ENDPOINTS"] == "http://10.0.0.1:4106"
        assert env["NATS_SERVER"] == "nats://10.0.0.1:4107"
        assert "DYN_FILE_KV" not in env
        assert refused(plan, job) == []
        if version in ("1.0.0", "1.6.1"):
            assert flag(job, "--discovery-backend") == "etcd"


def test_sglang_sends_its_cache_through_nixl() -> None:
    plan = nvfp4(roles=APART, layout={"replicas": 2})
    *_, prefill, decode = jobs_of(plan, TWO_GB200)
    for job, role in ((prefill, "prefill"), (decode, "decode")):
        assert flag(job, "--disaggregation-mode") == role
        assert flag(job, "--disaggregation-transfer-backend") == "nixl"
        assert flag(job, "--disaggregation-bootstrap-port") == "4108"
        assert job.command.env["SGLANG_HOST_IP"] == job.host


def test_vllm_sends_its_cache_through_nixl() -> None:
    plan = nvfp4(worker="vllm", roles=APART, layout={"replicas": 2})
    *_, prefill, decode = jobs_of(plan, TWO_GB200)
    for job, role in ((prefill, "prefill"), (decode, "decode")):
        assert flag(job, "--disaggregation-mode") == role
        config = json.loads(flag(job, "--kv-transfer-config") or "")
        assert config == {"kv_connector": "NixlConnector", "kv_role": "kv_both"}
        assert job.command.env["VLLM_NIXL_SIDE_CHANNEL_HOST"] == job.host
        assert job.command.env["VLLM_NIXL_SIDE_CHANNEL_PORT"] == "4108"


def test_older_vllm_workers_connect_by_themselves() -> None:
    """They refuse ``--kv-transfer-config`` beside their default connector."""
    plan = nvfp4("0.9.0", "vllm", roles=APART, layout={"replicas": 2})
    *_, prefill, decode = jobs_of(plan, TWO_GB200)
    assert "--is-prefill-worker" in prefill.command.argv
    assert "--is-decode-worker" in decode.command.argv
    assert flag(prefill, "--kv-transfer-config") is None
    _, whole = jobs_of(nvfp4("0.9.0", "vllm"), GB200)
    assert flag(whole, "--connector") == "none"


def test_the_oldest_vllm_workers_decode_by_default() -> None:
    plan = glm("dynamo", "0.6.0", worker="vllm", roles=APART, layout={"replicas": 2})
    *_, prefill, decode = jobs_of(plan, TWO_GB200)
    assert "--is-prefill-worker" in prefill.command.argv
    assert not any("decode-worker" in word for word in decode.command.argv)


def test_a_frontend_that_would_let_decode_workers_answer_alone_is_told() -> None:
    """From 1.3 on it waits for both kinds by itself."""
    for version, told in (("0.8.1", True), ("1.1.0", True), ("1.6.1", False)):
        plan = nvfp4(version, "vllm", roles=APART, layout={"replicas": 2})
        frontend = jobs_of(plan, TWO_GB200)[0]
        assert ("--enforce-disagg" in frontend.command.argv) == told
        whole = jobs_of(nvfp4(version, "vllm"), GB200)[0]
        assert "--enforce-disagg" not in whole.command.argv


TP16_TO_TP8 = Role(
    prefill=1, decode=1, decode_layout={"tensor": 8}, decode_settings=None
)
SIX_GB200 = GB200.model_copy(
    update={
        "hosts": tuple(f"10.0.0.{i}" for i in range(1, 7)),
        "multi_node_nvlink": True,
    }
)


def test_seed_003_has_one_prefill_worker_over_four_trays_and_a_smaller_one() -> None:
    image = {"image": "sglang-runtime:0.8.1", "runtime": "pyxis"}
    plan = nvfp4("0.8.1", roles=TP16_TO_TP8, layout={"tensor": 16}, container=image)
    jobs = jobs_of(plan, SIX_GB200)
    workers = [job for job in jobs if job.part in ("prefill", "decode")]
    assert [(job.part, job.host) for job in workers] == [
        *[("prefill", f"10.0.0.{i}") for i in range(1, 5)],
        *[("decode", f"10.0.0.{i}") for i in range(5, 7)],
    ]
    for number, job in enumerate(workers):
        prefill = job.part == "prefill"
        assert flag(job, "--tp-size") == ("16" if prefill else "8")
        assert flag(job, "--nnodes") == ("4" if prefill else "2")
        assert flag(job, "--node-rank") == str(number if prefill else number - 4)
        address = "10.0.0.1:4100" if prefill else "10.0.0.5:4100"
        assert flag(job, "--dist-init-addr") == address
        assert flag(job, "--dist-timeout") == "3600"
        assert flag(job, "--disaggregation-decode-tp") == ("8" if prefill else None)
        assert flag(job, "--disaggregation-transfer-backend") == "nixl"
        assert flag(job, "--enable-symm-mem") == ""
        assert job.command.env["NCCL_MNNVL_ENABLE"] == "1"
        assert job.command.env["NCCL_CUMEM_ENABLE"] == "1"
        assert refused(plan, job) == []
    rendezvous = [
        (each.host, each.port)
        for each in engine_named("dynamo").ports(plan, SIX_GB200)
        if each.purpose == "torch.distributed rendezvous"
    ]
    assert rendezvous == [("10.0.0.1", 4100), ("10.0.0.5", 4100)]


def test_no_port_is_taken_twice_on_a_host() -> None:
    """Small decode workers share the last host."""
    roles = Role(prefill=1, decode=2, decode_layout={"tensor": 2})
    plan = nvfp4(roles=roles, layout={"tensor": 8})
    place = SIX_GB200.model_copy(update={"hosts": SIX_GB200.hosts[:3]})
    listed = engine_named("dynamo").ports(plan, place)
    assert len({(each.host, each.port) for each in listed}) == len(listed)
    *_, first, second = jobs_of(plan, place)
    assert first.host == second.host == "10.0.0.3"
    assert first.command.env["CUDA_VISIBLE_DEVICES"] == "0,1"
    assert second.command.env["CUDA_VISIBLE_DEVICES"] == "2,3"


def test_symmetric_memory_is_for_a_rack_and_an_image_that_has_a_compiler() -> None:
    plan = nvfp4(layout={"tensor": 8})
    assert flag(jobs_of(plan, TWO_GB200)[-1], "--enable-symm-mem") is None
    image = {"image": "x.sif", "runtime": "apptainer"}
    plan = nvfp4(layout={"tensor": 8}, container=image)
    assert flag(jobs_of(plan, TWO_GB200)[-1], "--enable-symm-mem") == ""
    apart = TWO_GB200.model_copy(update={"multi_node_nvlink": False})
    assert flag(jobs_of(plan, apart)[-1], "--enable-symm-mem") is None
    given = nvfp4(
        layout={"tensor": 8}, container=image, engine_args={"enable-symm-mem": True}
    )
    argv = jobs_of(given, TWO_GB200)[-1].command.argv
    assert argv.count("--enable-symm-mem") == 1


def test_workers_on_one_host_share_its_gpus_and_not_its_ports() -> None:
    plan = nvfp4(roles=Role(prefill=2, decode=2), layout={"replicas": 4, "tensor": 2})
    place = GB200.model_copy(update={"gpus_per_host": 8})
    _, *workers = jobs_of(plan, place)
    devices = [job.command.env["CUDA_VISIBLE_DEVICES"] for job in workers]
    assert devices == ["0,1", "2,3", "4,5", "6,7"]
    ports = [flag(job, "--disaggregation-bootstrap-port") for job in workers]
    ports += [job.command.env["DYN_SYSTEM_PORT"] for job in workers]
    assert len(set(ports)) == 8
    assert {job.command.env["DYN_SYSTEM_HOST"] for job in workers} == {"127.0.0.1"}
    listed = {each.port for each in engine_named("dynamo").ports(plan, place)}
    assert listed == {4000, *(int(port) for port in ports if port)}


def test_a_worker_over_several_hosts_gets_their_links() -> None:
    """Seed 003's decode workers: one model over two trays of a rack."""
    plan = nvfp4(layout={"tensor": 8})
    jobs = jobs_of(plan, TWO_GB200)
    workers = [job for job in jobs if job.part == "worker"]
    for rank, job in enumerate(workers):
        assert flag(job, "--nnodes") == "2"
        assert flag(job, "--node-rank") == str(rank)
        assert job.command.env["NCCL_MNNVL_ENABLE"] == "1"
        assert job.command.env["NCCL_CUMEM_ENABLE"] == "1"
        assert refused(plan, job) == []


def test_vllm_workers_over_several_hosts_are_headless() -> None:
    plan = nvfp4(worker="vllm", layout={"tensor": 8})
    head, worker = (job for job in jobs_of(plan, TWO_GB200) if job.part == "worker")
    assert "--headless" not in head.command.argv
    assert "--headless" in worker.command.argv
    assert refused(plan, worker) == []


def test_workers_before_1_0_span_no_hosts() -> None:
    with pytest.raises(UsageError, match="ranks without an API"):
        jobs_of(nvfp4("0.9.0", "vllm", layout={"tensor": 8}), TWO_GB200)


def test_its_parsers_are_dynamos_whatever_the_worker() -> None:
    for worker in ("sglang", "vllm"):
        base = proposed("gpt-oss-120b", "H100").model_copy(update={"engine": worker})
        plan = plan_of(base, "dynamo", "1.6.1")
        _, job = jobs_of(plan, GB200)
        assert flag(job, "--dyn-tool-call-parser") == "harmony"
        assert flag(job, "--dyn-reasoning-parser") == "gpt_oss"
        assert flag(job, "--tool-call-parser") is None
        assert "--enable-auto-tool-choice" not in job.command.argv


def test_reasoning_off_is_dynamos_own_switch() -> None:
    plan = nvfp4(reasoning="off")
    _, job = jobs_of(plan, GB200)
    assert flag(job, "--dyn-default-thinking-mode") == "disabled"
    assert refused(plan, job) == []
    with pytest.raises(UsageError, match="cannot do reasoning off by default"):
        jobs_of(nvfp4("1.0.0", reasoning="off"), GB200)


def test_no_part_of_it_is_told_a_key() -> None:
    plan = nvfp4(roles=APART, layout={"replicas": 2})
    for job in jobs_of(plan, TWO_GB200):
        told = json.dumps([job.command.argv, job.command.env])
        assert FILES.key_file not in told
        assert job.command.secrets == ()
    ports = engine_named("dynamo").ports(plan, TWO_GB200)
    assert not any(each.keyed for each in ports)
    assert {each.purpose for each in ports} == {
        "frontend",
        "etcd",
        "NATS",
        "KV transfer of prefill",
        "KV transfer of decode",
        "worker's status",
    }


def test_the_stores_listen_on_the_fabric_only() -> None:
    plan = nvfp4(roles=APART, layout={"replicas": 2})
    etcd, nats = jobs_of(plan, TWO_GB200)[1:3]
    assert flag(etcd, "--listen-client-urls") == "http://10.0.0.1:4106"
    assert flag(etcd, "--listen-peer-urls") == "http://127.0.0.1:4114"
    assert flag(nats, "--addr") == "10.0.0.1"
    assert flag(nats, "--port") == "4107"
    assert not any(
        "0.0.0.0" in word for word in (*etcd.command.argv, *nats.command.argv)
    )


def test_what_does_not_go_on_the_hosts_is_refused() -> None:
    with pytest.raises(UsageError, match="need 8 GPUs, and the host has 4"):
        jobs_of(nvfp4(layout={"replicas": 2}), GB200)
    with pytest.raises(UsageError, match="need 3 hosts of 4 GPUs, and 2 are given"):
        jobs_of(nvfp4(layout={"replicas": 3}), TWO_GB200)
    with pytest.raises(UsageError, match="9 workers on one host"):
        larger = GB200.model_copy(update={"gpus_per_host": 16})
        jobs_of(nvfp4(layout={"replicas": 9, "tensor": 1}), larger)
    with pytest.raises(UsageError, match="needs 8 GPUs"):
        jobs_of(nvfp4(layout={"replicas": 2, "tensor": 8}), TWO_GB200)


def test_a_version_without_a_file_store_needs_etcd() -> None:
    with pytest.raises(UsageError, match="needs etcd even on one host") as error:
        jobs_of(glm("dynamo", "0.5.1"), GB200)
    assert "0.7.0" in error.value.fix


def test_on_a_cpu_workers_have_no_devices() -> None:
    _, job = jobs_of(glm("dynamo"), Place(port=4000, inner_port=4100))
    assert "CUDA_VISIBLE_DEVICES" not in job.command.env


def test_without_a_cache_the_store_is_dynamos_own() -> None:
    files = FILES.model_copy(update={"cache": ""})
    frontend, _ = engine_named("dynamo").jobs(nvfp4(), 0, GB200, files)
    assert "DYN_FILE_KV" not in frontend.command.env


def test_the_engine_knows_itself() -> None:
    engine = engine_named("dynamo")
    assert engine.version() == "1.6.1"
    assert engine.refusal(None) is None  # type: ignore[arg-type]
