"""NVIDIA Dynamo: a frontend, and vLLM or SGLang workers, whole or prefill and decode apart. Pure but for ``version``."""

from __future__ import annotations

from collections.abc import Iterable

from lemnos.engines import sglang, vllm
from lemnos.engines.base import JobFiles, Metrics
from lemnos.engines.command import CommandLine
from lemnos.engines.disaggregated import add_role
from lemnos.engines.environment import links_of, reach
from lemnos.engines.flags.schema import Schema, lifetime, schema_for, versions
from lemnos.engines.logs import EngineFacts, facts_of, stage_of
from lemnos.engines.placing import planned, reasoning_switch
from lemnos.engines.workers import Worker, args_of, env_of, workers_of
from lemnos.errors import LemnosError, UsageError
from lemnos.spec.facts import Host, ModelFormat
from lemnos.spec.place import INNER_PORTS, OpenPort, Place, Role
from lemnos.spec.plan import Command, Job, Plan
from lemnos.spec.proposal import Proposal

STORE, EVENTS, SIDE, PEER = 6, 7, 8, 14
"""Places of the inner ports over several hosts, after those of torch's rendezvous: etcd, NATS, two of
each worker on a host, and etcd's for its peers, of which there are none."""
MOST, MOST_BESIDE = INNER_PORTS // 2, (PEER - SIDE) // 2
"""Workers on a host, each with two ports: on the only one, which has no stores, and on one of several."""
NIXL = {"kv_connector": "NixlConnector", "kv_role": "kv_both"}


class Dynamo:
    """Dynamo around SGLang (the default) or vLLM, as its worker's flags say."""

    name = "dynamo"
    formats: tuple[ModelFormat, ...] = ("safetensors",)
    health = "/health"
    metrics = Metrics(
        running="dynamo_frontend_inflight_requests",
        waiting="dynamo_frontend_queued_requests",
        output_tokens="dynamo_frontend_output_sequence_tokens_sum",
        prompt_tokens="dynamo_frontend_input_sequence_tokens_sum",
        ttft="dynamo_frontend_time_to_first_token_seconds",
        tpot="dynamo_frontend_inter_token_latency_seconds",
        latency="dynamo_frontend_request_duration_seconds",
    )

    def version(self) -> str:
        """The newest that lemnos has the flags of."""
        return versions("dynamo.frontend")[-1]

    def refusal(self, host: Host) -> LemnosError | None:
        """Builds differ by machine: ``lemnos engines install`` decides."""
        return None

    def jobs(
        self, plan: Plan, index: int, place: Place, files: JobFiles
    ) -> tuple[Job, ...]:
        """The frontend; etcd and NATS where there are several hosts; then each worker's ranks.

        The hosts of ``place`` are taken by the workers in order: prefill first.
        """
        several = len(place.hosts) > 1
        jobs = [_frontend(plan, index, place, files, several)]
        if several:
            jobs += _stores(plan, index, place, files)
        for worker in _workers(plan, place):
            for rank in range(len(worker.place.hosts)):
                jobs.append(_worker(plan, index, place, worker, files, len(jobs), rank))
        return tuple(jobs)

    def ports(self, plan: Plan, place: Place) -> tuple[OpenPort, ...]:
        """The frontend takes no key, so that only the gateway's host may reach it; nor do the others."""
        head, first = place.hosts[0], place.inner_port
        found = [OpenPort(host=head, port=place.port, purpose="frontend", keyed=False)]
        if len(place.hosts) > 1:
            for offset, purpose in ((STORE, "etcd"), (EVENTS, "NATS")):
                found.append(
                    OpenPort(
                        host=head, port=first + offset, purpose=purpose, keyed=False
                    )
                )
        for worker in _workers(plan, place):
            own, role, there = _own_port(place, worker), worker.role, worker.place
            purposes = [] if role == "both" else [(own, f"KV transfer of {role}")]
            purposes.append((own + 1, "worker's status"))
            if len(there.hosts) > 1:
                purposes.append((there.inner_port, "torch.distributed rendezvous"))
            for port, purpose in purposes:
                found.append(
                    OpenPort(
                        host=there.hosts[0], port=port, purpose=purpose, keyed=False
                    )
                )
        return tuple(found)

    def stage(self, line: str) -> str | None:
        """What a worker does."""
        return stage_of("sglang", line) or stage_of("vllm", line)

    def facts(self, lines: Iterable[str]) -> EngineFacts:
        """What a worker's log tells."""
        kept = list(lines)
        found = facts_of("vllm", kept)
        return found if found.weights_gib is not None else facts_of("sglang", kept)


def backend_of(plan: Plan) -> str:
    """``vllm`` or ``sglang``: the workers that the plan was made for."""
    engine = planned(plan).engine
    return "vllm" if engine == "vllm" else "sglang"


def _workers(plan: Plan, place: Place) -> list[Worker]:
    """Raises UsageError where they do not go on the hosts."""
    workers = workers_of(planned(plan), place, "Dynamo")
    most = MOST if len(place.hosts) == 1 else MOST_BESIDE
    count = max(worker.slot for worker in workers) + 1
    if count > most:
        raise UsageError(
            f"{count} workers on one host are more than {most}",
            fix="plan fewer replicas, or more hosts",
        )
    return workers


def _own_port(place: Place, worker: Worker) -> int:
    """The first of a worker's two ports: where others fetch its KV cache; its status is next.

    Workers on one host need ports of their own, those on different hosts do not.
    """
    first = place.inner_port + (SIDE if len(place.hosts) > 1 else 0)
    return first + 2 * worker.slot


def _frontend(
    plan: Plan, index: int, place: Place, files: JobFiles, several: bool
) -> Job:
    line = CommandLine(schema_for("dynamo.frontend", plan.engine_version))
    names = ("--http-host", "--host")
    if line.has(*names):
        line.add(names, reach(place), why="an address")
    line.add(("--http-port", "--port"), place.port, why="a port")
    line.add("--router-mode", "kv", why="routing by cached prefixes")
    # Workers publish events only where told to, on ports of their own: the router predicts instead.
    line.add(("--no-router-kv-events", "--no-kv-events"), why="routing without events")
    _discover(line, several)
    # Else decode workers of vLLM answer alone before prefill workers are there: ready too early. Since
    # 1.3 the kinds of workers that have registered decide.
    enforced = line.schema.named("--enforce-disagg")
    if planned(plan).roles and enforced and not enforced.deprecated:
        line.add("--enforce-disagg", why="prefill and decode apart")
    return Job(
        deployment=plan.name,
        role="engine",
        index=index,
        part="frontend",
        command=Command(
            argv=(*_python(plan), "-m", "dynamo.frontend", *line.words),
            env=_shared_env(plan, place, files, several),
        ),
        host=place.hosts[0],
        port=place.port,
        log=files.log_of(0),
    )


def _discover(line: CommandLine, several: bool) -> None:
    """Where the parts find each other: files on one host, etcd over several.

    The flag was ``--store-kv`` until it became ``--discovery-backend``; older frontends know etcd
    only, which a single host then needs as well.
    """
    names = ("--discovery-backend", "--store-kv")
    if line.has(*names):
        line.add(names, "etcd" if several else "file", why="finding each other")
    elif not several:
        first = lifetime("dynamo.frontend", names[1])
        raise UsageError(
            f"Dynamo {line.schema.version} needs etcd even on one host",
            fix=f"use {first.first if first else 'a newer version'} or newer, or several hosts",
        )


def _stores(plan: Plan, index: int, place: Place, files: JobFiles) -> list[Job]:
    """etcd for discovery and NATS for events, on the first host; both without keys."""
    head = place.hosts[0]
    client = place.inner_port + STORE
    peer = place.inner_port + PEER
    data = f"{files.cache or '/tmp'}/{plan.name}-{index}"
    etcd = (
        *("etcd", "--data-dir", f"{data}-etcd"),
        *("--listen-client-urls", f"http://{head}:{client}"),
        *("--advertise-client-urls", f"http://{head}:{client}"),
        *("--listen-peer-urls", f"http://127.0.0.1:{peer}"),
        *("--initial-advertise-peer-urls", f"http://127.0.0.1:{peer}"),
        *("--initial-cluster", f"default=http://127.0.0.1:{peer}"),
    )
    port = str(place.inner_port + EVENTS)
    nats = (
        *("nats-server", "--addr", head, "--port", port),
        *("--jetstream", "--store_dir", f"{data}-nats"),
    )
    return [
        Job(
            deployment=plan.name,
            role="engine",
            index=index,
            rank=rank,
            part=part,
            command=Command(argv=argv),
            host=head,
            port=0,
            log=files.log_of(rank),
        )
        for rank, part, argv in ((1, "etcd", etcd), (2, "nats", nats))
    ]


def _worker(
    plan: Plan,
    index: int,
    whole: Place,
    worker: Worker,
    files: JobFiles,
    job: int,
    rank: int,
) -> Job:
    """Rank ``rank`` of a worker on its part of the ``whole`` place."""
    backend = backend_of(plan)
    schema = schema_for(f"dynamo.{backend}", plan.engine_version)
    proposal, own = worker.proposal, worker.place
    side = _own_port(whole, worker)
    if backend == "vllm":
        line = _vllm_words(schema, plan, proposal, own, rank)
    else:
        line = _sglang_words(schema, plan, proposal, own, rank, side)
    _add_parsers(line, plan)
    several = len(whole.hosts) > 1
    _discover(line, several)
    owned = vllm.OWNED if backend == "vllm" else sglang.OWNED
    line.add_free(args_of(plan, worker.role), owned)
    host = own.hosts[rank]
    env = _shared_env(plan, whole, files, several)
    if backend == "vllm":
        env |= vllm.env_of(plan, proposal, own, files, host)
        env |= {"VLLM_NIXL_SIDE_CHANNEL_PORT": str(side)}
        env |= {"VLLM_NIXL_SIDE_CHANNEL_HOST": host}
    else:
        env |= sglang.env_of(files, plan, own, host)
        env |= links_of(own, proposal.layout)
    env |= {"DYN_SYSTEM_HOST": host, "DYN_SYSTEM_PORT": str(side + 1)}
    return Job(
        deployment=plan.name,
        role="engine",
        index=index,
        rank=job,
        part="worker" if own.role == "both" else own.role,
        command=Command(
            argv=(*_python(plan), "-m", f"dynamo.{backend}", *line.words),
            env=env | env_of(plan, worker.role),
        ),
        host=host,
        port=0,
        log=files.log_of(job),
    )


def _vllm_words(
    schema: Schema, plan: Plan, proposal: Proposal, own: Place, rank: int
) -> CommandLine:
    line = CommandLine(schema)
    line.add("--model", plan.model.path, why="a model")
    line.add("--served-model-name", plan.served_name, why="a name for clients")
    vllm.add_settings(line, plan, proposal, own)
    _connect(line, own.role)
    vllm.add_nodes(line, proposal, own, rank)
    return line


def _sglang_words(
    schema: Schema, plan: Plan, proposal: Proposal, own: Place, rank: int, side: int
) -> CommandLine:
    line = CommandLine(schema)
    line.add("--model-path", plan.model.path, why="a model")
    line.add("--served-model-name", plan.served_name, why="a name for clients")
    sglang.add_settings(line, plan, proposal, own)
    if own.role != "both":
        add_role(line, plan, own.role, side)
    sglang.add_nodes(line, own, rank)
    return line


def _connect(line: CommandLine, role: Role) -> None:
    """KV cache through NIXL, for vLLM workers with a part of the work.

    Workers before Dynamo 1.0 connect through it by themselves, whole ones too, and refuse
    ``--kv-transfer-config`` beside it (dynamo/vllm/args.py).
    """
    implied = not line.has("--disaggregation-mode")
    if role == "both":
        if implied:
            line.add("--connector", "none", why="whole requests")
        return
    _divide(line, role)
    if not implied:
        line.add("--kv-transfer-config", NIXL, why="sending KV cache")


def _divide(line: CommandLine, role: Role) -> None:
    """Prefill or decode: ``--disaggregation-mode``, or older vLLM workers' ``--is-...-worker``."""
    if line.has("--disaggregation-mode"):
        line.add("--disaggregation-mode", role, why="prefill and decode apart")
    elif role == "prefill" or line.has("--is-decode-worker"):
        line.add(f"--is-{role}-worker", why="prefill and decode apart")


def _add_parsers(line: CommandLine, plan: Plan) -> None:
    """Dynamo's frontend parses by itself, whatever the worker; its workers say with what."""
    quirks = plan.quirks
    if quirks.tool_parser and line.has("--dyn-tool-call-parser"):
        line.add("--dyn-tool-call-parser", quirks.tool_parser, why="tool calls")
    if quirks.reasoning_parser and line.has("--dyn-reasoning-parser"):
        line.add("--dyn-reasoning-parser", quirks.reasoning_parser, why="reasoning")
    if reasoning_switch(plan):
        mode = "enabled" if plan.spec.reasoning == "on" else "disabled"
        why = f"reasoning {plan.spec.reasoning} by default"
        line.add("--dyn-default-thinking-mode", mode, why=why)


def _shared_env(
    plan: Plan, place: Place, files: JobFiles, several: bool
) -> dict[str, str]:
    """The namespace that a deployment's parts share, and where they find each other."""
    env = {"DYN_NAMESPACE": plan.name}
    if several:
        head = place.hosts[0]
        env["ETCD_ENDPOINTS"] = f"http://{head}:{place.inner_port + STORE}"
        env["NATS_SERVER"] = f"nats://{head}:{place.inner_port + EVENTS}"
    elif files.cache:
        env["DYN_FILE_KV"] = f"{files.cache}/{plan.name}-store"
    return env


def _python(plan: Plan) -> tuple[str, ...]:
    return plan.program or ("python3",)
