"""SGLang: ``python -m sglang.launch_server``, on one node or several. Pure but for ``version``."""

from __future__ import annotations

from collections.abc import Iterable

from lemnos.engines import disaggregated
from lemnos.engines.base import JobFiles, Metrics
from lemnos.engines.command import CommandLine
from lemnos.engines.environment import links_of, reach
from lemnos.engines.flags.schema import Schema, schema_for, versions
from lemnos.engines.logs import EngineFacts, facts_of, stage_of
from lemnos.engines.placing import planned, possible, reasoning_switch, speculation
from lemnos.engines.workers import Worker, args_of, workers_of
from lemnos.engines.workers import env_of as added
from lemnos.errors import LemnosError, UsageError
from lemnos.spec.facts import Host, ModelFormat
from lemnos.spec.place import OpenPort, Place
from lemnos.spec.plan import Command, Job, Plan, Secret
from lemnos.spec.proposal import Proposal

OWNED = {
    "--model-path": "model",
    "--served-model-name": "model.served_name",
    "--host": "endpoint (the engine's own port is lemnos')",
    "--port": "endpoint (the engine's own port is lemnos')",
    "--api-key": "endpoint.api_key_file",
    "--config": "engine_args: lemnos writes this file",
    "--tp-size": "the plan's layout: lemnos plan --tp",
    "--pp-size": "the plan's layout: lemnos plan --pp",
    "--dp-size": "the plan's layout: lemnos plan --dp",
    "--ep-size": "the plan's layout: lemnos plan --ep",
    "--enable-dp-attention": "the plan's layout: lemnos plan --dp",
    "--dcp-size": "nothing: lemnos does not start SGLang so",
    "--context-length": "workload.context, or lemnos plan --context",
    "--max-running-requests": "lemnos plan --max-num-seqs",
    "--chunked-prefill-size": "lemnos plan --max-batched-tokens",
    "--mem-fraction-static": "lemnos plan --gpu-memory-utilization",
    "--kv-cache-dtype": "lemnos plan --kv-cache-dtype",
    "--quantization": "lemnos plan --quantization",
    "--disable-cuda-graph": "lemnos plan --enforce-eager",
    "--cpu-offload-gb": "lemnos plan --cpu-offload-gib",
    "--speculative-algorithm": "lemnos plan --speculative",
    "--random-seed": "seed",
    "--nnodes": "--cluster: lemnos counts the nodes",
    "--node-rank": "--cluster: lemnos counts the nodes",
    "--dist-init-addr": "--cluster: lemnos names the nodes",
    "--disaggregation-mode": "lemnos plan --split",
    "--disaggregation-bootstrap-port": "nothing: lemnos chooses the port",
}
"""Flags that only lemnos writes, with what to write in the spec instead."""
KV_DTYPES = {"fp8": "fp8_e4m3"}
"""SGLang's names where they differ from vLLM's."""
DIST = 0
"""The place of torch's rendezvous among the inner ports; it takes the next few too."""
DIST_TIMEOUT_S = 3600
"""Ranks on several hosts wait for each other while CUDA graphs are captured, 10 to 20 minutes (seed
003, issue 2). Its NCCL_TIMEOUT is no variable of NCCL or torch; this flag is what torch is given."""


class Sglang:
    """SGLang for GPUs."""

    name = "sglang"
    formats: tuple[ModelFormat, ...] = ("safetensors",)
    health = "/health"
    metrics = Metrics(
        running="sglang:num_running_reqs",
        waiting="sglang:num_queue_reqs",
        kv_usage="sglang:token_usage",
        prompt_tokens="sglang:prompt_tokens_total",
        output_tokens="sglang:generation_tokens_total",
        ttft="sglang:time_to_first_token_seconds",
        tpot="sglang:inter_token_latency_seconds",
        latency="sglang:e2e_request_latency_seconds",
    )

    def version(self) -> str:
        """The newest that lemnos has the flags of."""
        return versions("sglang")[-1]

    def refusal(self, host: Host) -> LemnosError | None:
        """Builds differ by machine: ``lemnos engines install`` decides."""
        return None

    def jobs(
        self, plan: Plan, index: int, place: Place, files: JobFiles
    ) -> tuple[Job, ...]:
        """The same command on each host, with its rank; the first has the API. Prefill and decode
        apart: the router, then each server's ranks, prefill first."""
        proposal = planned(plan)
        if place.ray:
            raise UsageError(
                "SGLang finds its nodes by itself: it is not started on Ray",
                fix="leave Ray out, or use engine: vllm",
            )
        schema = schema_for("sglang", plan.engine_version)
        if proposal.roles:
            return _group(plan, index, place, files, schema)
        possible(proposal.layout, place, "SGLang", data_over_hosts=True)
        secret = _secret(schema, files)
        return tuple(
            _job(plan, proposal, index, place, files, rank, schema, secret)
            for rank in range(len(place.hosts))
        )

    def ports(self, plan: Plan, place: Place) -> tuple[OpenPort, ...]:
        """The API's, and those of the ranks among themselves, which carry no key."""
        if planned(plan).roles:
            servers = disaggregated.servers(plan, _workers(plan, place))
            return tuple(disaggregated.ports(place, servers))
        head = place.hosts[0]
        found = [OpenPort(host=head, port=place.port, purpose="API", keyed=True)]
        if len(place.hosts) > 1:
            port, purpose = place.inner_port + DIST, "torch.distributed rendezvous"
            found.append(OpenPort(host=head, port=port, purpose=purpose, keyed=False))
        return tuple(found)

    def stage(self, line: str) -> str | None:
        """``starting`` to ``listening``."""
        return stage_of(self.name, line)

    def facts(self, lines: Iterable[str]) -> EngineFacts:
        """Weights, KV cache, times and backends of a start."""
        return facts_of(self.name, lines)


def _workers(plan: Plan, place: Place) -> list[Worker]:
    return workers_of(planned(plan), place, "SGLang", data_over_hosts=True)


def _group(
    plan: Plan, index: int, place: Place, files: JobFiles, schema: Schema
) -> tuple[Job, ...]:
    """Prefill and decode servers behind their router, which has the API and the engines' key."""
    workers = _workers(plan, place)
    servers = disaggregated.servers(plan, workers)
    jobs = [disaggregated.router_job(plan, index, place, servers, files)]
    for worker, own in zip(workers, servers, strict=True):
        for rank in range(len(own.hosts)):
            number = len(jobs)
            secret = _secret(schema, files, f".{index}-{number}")
            job = _job(plan, worker.proposal, index, own, files, rank, schema, secret)
            changed = {"rank": number, "port": 0, "part": worker.role}
            jobs.append(job.model_copy(update={**changed, "log": files.log_of(number)}))
    return tuple(jobs)


def _secret(schema: Schema, files: JobFiles, mark: str = "") -> Secret:
    """The key, in the configuration file that ``--config`` names.

    SGLang has no variable for it, and on the command line every user of the machine reads it.
    ``mark``: of one job among several on a host, each of which writes its own file.
    """
    if not schema.named("--config"):
        raise UsageError(
            f"SGLang {schema.version} takes its key on the command line only, where every user "
            "of the machine can read it",
            fix="use a version that has --config, or engine: dynamo or vllm",
        )
    return Secret(
        key_file=files.key_file,
        file=f"{files.key_file}{mark}.yaml",
        text="api-key: {key}\n",
    )


def _job(
    plan: Plan,
    proposal: Proposal,
    index: int,
    place: Place,
    files: JobFiles,
    rank: int,
    schema: Schema,
    secret: Secret,
) -> Job:
    line = CommandLine(schema)
    line.add("--model-path", plan.model.path, why="a model")
    line.add("--config", secret.file, why="a key")
    line.add("--served-model-name", plan.served_name, why="a name for clients")
    line.add("--host", reach(place), why="an address")
    line.add("--port", place.port, why="a port")
    add_settings(line, plan, proposal, place)
    _add_parsers(line, plan)
    if place.role != "both":
        bootstrap = disaggregated.bootstrap_port(place)
        disaggregated.add_role(line, plan, place.role, bootstrap)
    add_nodes(line, place, rank)
    line.add_free(args_of(plan, place.role), OWNED)
    host = place.hosts[rank]
    env = env_of(files, plan, place, host) | links_of(place, proposal.layout)
    program = plan.program or ("python3",)
    return Job(
        deployment=plan.name,
        role="engine",
        index=index,
        rank=rank,
        command=Command(
            argv=(*program, "-m", "sglang.launch_server", *line.words),
            env=env | added(plan, place.role),
            secrets=(secret,),
        ),
        host=host,
        port=place.port if rank == 0 else 0,
        log=files.log_of(rank),
    )


def add_settings(
    line: CommandLine, plan: Plan, proposal: Proposal, place: Place
) -> None:
    """Layout, memory and the model's own flags: also what Dynamo's SGLang workers take.

    With data-parallel attention SGLang counts differently from vLLM: ``--tp-size`` is all of a
    replica's GPUs, of which ``--dp-size`` groups divide the attention.
    """
    settings, layout, quirks = proposal.settings, proposal.layout, plan.quirks
    names = ("--tp-size", "--tensor-parallel-size")
    line.add(names, layout.tensor * layout.data, why="tensor parallelism")
    if layout.pipeline > 1:
        names = ("--pp-size", "--pipeline-parallel-size")
        line.add(names, layout.pipeline, why="pipeline parallelism")
    if layout.data > 1:
        line.add(
            ("--dp-size", "--data-parallel-size"), layout.data, why="data parallelism"
        )
        line.add("--enable-dp-attention", why="data parallelism of the attention")
    if layout.expert:
        ranks = layout.tensor * layout.data
        line.add(
            ("--ep-size", "--expert-parallel-size"), ranks, why="expert parallelism"
        )
    if layout.context > 1:
        raise UsageError(
            "lemnos does not start SGLang with decode context parallelism, which few of its "
            "attention backends have",
            fix="plan without it: --dcp 1",
        )
    if settings.kv_offload_gib:
        raise UsageError(
            "lemnos does not offload SGLang's KV cache",
            fix="engine_args: {enable-hierarchical-cache: true, hicache-size: GB}, or engine: vllm",
        )
    line.add("--context-length", settings.context, why="a context length")
    # Both are of all data-parallel ranks together, which divide them; vLLM's are of each rank.
    requests = settings.max_seqs * layout.data
    line.add("--max-running-requests", requests, why="a number of requests")
    batched = settings.max_batched_tokens * layout.data
    line.add("--chunked-prefill-size", batched, why="a batch size")
    if place.gpus_per_host:
        line.add("--mem-fraction-static", settings.utilization, why="a share of memory")
    if settings.kv_cache_dtype != "auto":
        dtype = KV_DTYPES.get(settings.kv_cache_dtype, settings.kv_cache_dtype)
        line.add("--kv-cache-dtype", dtype, why="a KV cache of another type")
    line.add("--quantization", settings.quantization, why="quantizing on load")
    if settings.eager:
        _add_eager(line)
    if settings.cpu_offload_gib:
        gib = round(settings.cpu_offload_gib)
        line.add("--cpu-offload-gb", gib, why="offloading weights")
    line.add("--random-seed", plan.spec.seed, why="a seed")
    for name, value in speculation(plan, proposal).items():
        line.add(name, value, why="speculation with the model's MTP layers")
    if quirks.trust_remote_code:
        line.add("--trust-remote-code", why="the model's own code")
    line.add("--enable-metrics", why="metrics")
    fused = "--enforce-disable-flashinfer-allreduce-fusion"
    if not place.multicast and layout.tensor > 1 and line.has(fused):
        line.add(
            fused, why="all-reduces without multicast"
        )  # on by default for GLM, gpt-oss
    _add_symmetric_memory(line, plan, place)
    for name, value in quirks.flags.items():
        line.add(name, value, why="what this model needs")


def _add_parsers(line: CommandLine, plan: Plan) -> None:
    """Tool calls and reasoning, and whether the model reasons where a request does not say."""
    quirks = plan.quirks
    line.add("--tool-call-parser", quirks.tool_parser, why="tool calls")
    line.add("--reasoning-parser", quirks.reasoning_parser, why="reasoning")
    switch = reasoning_switch(plan)
    if switch:
        why = f"reasoning {plan.spec.reasoning} by default"
        line.add("--default-chat-template-kwargs", switch, why=why)


def _add_symmetric_memory(line: CommandLine, plan: Plan, place: Place) -> None:
    """Collectives over the NVLink between hosts, for prefill and decode alike, as seed 003 has it.

    SGLang has it since 0.5.1, sets NCCL_CUMEM_ENABLE with it (``_set_envs_and_config`` in
    entrypoints/engine.py), and builds a part of it as it starts
    (device_communicators/pynccl_allocator.py): an image has the compiler, other machines may not.
    """
    flag = "--enable-symm-mem"
    args = args_of(plan, place.role)
    given = {key.lstrip("-").replace("_", "-") for key in args}
    rack = place.multi_node_nvlink and place.multicast and len(place.hosts) > 1
    if rack and plan.spec.container and line.has(flag) and flag[2:] not in given:
        line.add(flag, why="symmetric memory")


def _add_eager(line: CommandLine) -> None:
    """CUDA graphs off: one flag, or since 0.5.14 one for each phase."""
    if line.has("--cuda-graph-backend-decode"):
        for phase in ("decode", "prefill"):
            name = f"--cuda-graph-backend-{phase}"
            line.add(name, "disabled", why="running without CUDA graphs")
        return
    line.add("--disable-cuda-graph", why="running without CUDA graphs")


def add_nodes(line: CommandLine, place: Place, rank: int) -> None:
    """How the ranks on several hosts find each other."""
    if len(place.hosts) == 1:
        return
    why = "several nodes"
    address = f"{place.hosts[0]}:{place.inner_port + DIST}"
    line.add("--nnodes", len(place.hosts), why=why)
    line.add("--node-rank", rank, why=why)
    line.add(("--dist-init-addr", "--nccl-init-addr"), address, why=why)
    line.add("--dist-timeout", DIST_TIMEOUT_S, why=why)


def env_of(files: JobFiles, plan: Plan, place: Place, host: str) -> dict[str, str]:
    """Caches that outlive a start, no look-ups of what is here, and the address between hosts."""
    env = {"DO_NOT_TRACK": "1"}
    if files.cache:
        env["TRITON_CACHE_DIR"] = f"{files.cache}/triton"
        env["TORCHINDUCTOR_CACHE_DIR"] = f"{files.cache}/inductor"
        env["FLASHINFER_WORKSPACE_BASE"] = files.cache
    if plan.model.path.startswith("/"):
        env["HF_HUB_OFFLINE"] = "1"
    if len(place.hosts) > 1 or place.role != "both":
        env["SGLANG_HOST_IP"] = host
    return env
