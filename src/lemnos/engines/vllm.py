"""vLLM: ``vllm serve``, on one node, over nodes by itself, or on a Ray cluster. Pure but for ``version``."""

from __future__ import annotations

from collections.abc import Iterable

from packaging.version import Version

from lemnos.engines.base import JobFiles, Metrics
from lemnos.engines.command import CommandLine
from lemnos.engines.environment import links_of, reach
from lemnos.engines.flags.schema import schema_for, versions
from lemnos.engines.logs import EngineFacts, facts_of, stage_of
from lemnos.engines.placing import planned, possible, reasoning_switch, speculation
from lemnos.errors import LemnosError, UsageError
from lemnos.spec.facts import Host, ModelFormat
from lemnos.spec.place import OpenPort, Place
from lemnos.spec.plan import Command, Job, Plan, Secret
from lemnos.spec.proposal import Proposal

OWNED = {
    "--model": "model",
    "--served-model-name": "model.served_name",
    "--host": "endpoint (the engine's own port is lemnos')",
    "--port": "endpoint (the engine's own port is lemnos')",
    "--api-key": "endpoint.api_key_file",
    "--tensor-parallel-size": "the plan's layout: lemnos plan --tp",
    "--pipeline-parallel-size": "the plan's layout: lemnos plan --pp",
    "--data-parallel-size": "the plan's layout: lemnos plan --dp",
    "--enable-expert-parallel": "the plan's layout: lemnos plan --ep",
    "--decode-context-parallel-size": "the plan's layout: lemnos plan --dcp",
    "--max-model-len": "workload.context, or lemnos plan --context",
    "--max-num-seqs": "lemnos plan --max-num-seqs",
    "--max-num-batched-tokens": "lemnos plan --max-batched-tokens",
    "--gpu-memory-utilization": "lemnos plan --gpu-memory-utilization",
    "--kv-cache-dtype": "lemnos plan --kv-cache-dtype",
    "--quantization": "lemnos plan --quantization",
    "--enforce-eager": "lemnos plan --enforce-eager",
    "--cpu-offload-gb": "lemnos plan --cpu-offload-gib",
    "--kv-offloading-size": "lemnos plan --kv-offload-gib",
    "--speculative-config": "lemnos plan --speculative",
    "--seed": "seed",
    "--nnodes": "--cluster: lemnos counts the nodes",
    "--node-rank": "--cluster: lemnos counts the nodes",
    "--master-addr": "--cluster: lemnos names the nodes",
    "--master-port": "nothing: lemnos chooses the port",
    "--headless": "nothing: lemnos adds it to all but the first node",
    "--distributed-executor-backend": "nothing: lemnos chooses it with the launcher",
    "--data-parallel-address": "--cluster: lemnos names the nodes",
    "--data-parallel-rpc-port": "nothing: lemnos chooses the port",
    "--data-parallel-size-local": "nothing: it follows from the layout",
    "--data-parallel-start-rank": "nothing: it follows from the layout",
    "--data-parallel-rank": "nothing: it follows from the layout",
    "--data-parallel-backend": "nothing: lemnos chooses it with the launcher",
    "--data-parallel-external-lb": "nothing: the gateway balances",
    "--data-parallel-hybrid-lb": "nothing: the gateway balances",
    "--config": "engine_args: its flags are written there",
    "--kv-transfer-config": "lemnos plan --split",
}
"""Flags that only lemnos writes, with what to write in the spec instead."""
FUSION = "pass_config.fuse_allreduce_rms"
FUSES_SINCE = Version("0.13")
"""vLLM 0.13 gave the pass this name and turned it on where it helps (config/compilation.py)."""
MASTER, RPC, RAY = 0, 1, 2
"""Places of the inner ports: torch's rendezvous, data-parallel messages, Ray's GCS."""


class Vllm:
    """vLLM for GPUs, and its CPU build."""

    name = "vllm"
    formats: tuple[ModelFormat, ...] = ("safetensors",)
    health = "/health"
    metrics = Metrics(
        running="vllm:num_requests_running",
        waiting="vllm:num_requests_waiting",
        kv_usage="vllm:kv_cache_usage_perc",
        prefix_hits="vllm:prefix_cache_hits_total",
        prefix_queries="vllm:prefix_cache_queries_total",
        preemptions="vllm:num_preemptions_total",
        prompt_tokens="vllm:prompt_tokens_total",
        output_tokens="vllm:generation_tokens_total",
        ttft="vllm:time_to_first_token_seconds",
        tpot="vllm:request_time_per_output_token_seconds",
        latency="vllm:e2e_request_latency_seconds",
    )

    def version(self) -> str:
        """The newest that lemnos has the flags of."""
        return versions("vllm")[-1]

    def refusal(self, host: Host) -> LemnosError | None:
        """Builds differ by machine: ``lemnos engines install`` decides."""
        return None

    def jobs(
        self, plan: Plan, index: int, place: Place, files: JobFiles
    ) -> tuple[Job, ...]:
        """A ``vllm serve`` on each host; with Ray, one on the first, and Ray itself on all where it is not there."""
        proposal = planned(plan)
        possible(proposal.layout, place, "vLLM")
        if place.role != "both":
            raise UsageError(
                "vLLM's own server does not divide prompts and answers among replicas",
                fix="use engine: dynamo, which routes between them",
            )
        if place.ray and len(place.hosts) > 1:
            return _on_ray(plan, proposal, index, place, files)
        return tuple(
            _job(plan, proposal, index, place, files, rank)
            for rank in range(len(place.hosts))
        )

    def ports(self, plan: Plan, place: Place) -> tuple[OpenPort, ...]:
        """The API's, and those of the ranks among themselves, which carry no key."""
        head = place.hosts[0]
        found = [OpenPort(host=head, port=place.port, purpose="API", keyed=True)]
        if len(place.hosts) == 1:
            return tuple(found)
        layout = planned(plan).layout
        if place.ray_is_there:
            inner = []
        elif place.ray:
            inner = [(RAY, "Ray's GCS")]
        elif layout.data > 1:
            inner = [(RPC, "data-parallel messages")]
        else:
            inner = [(MASTER, "torch.distributed rendezvous")]
        for offset, purpose in inner:
            port = place.inner_port + offset
            found.append(OpenPort(host=head, port=port, purpose=purpose, keyed=False))
        return tuple(found)

    def stage(self, line: str) -> str | None:
        """``starting`` to ``listening``."""
        return stage_of(self.name, line)

    def facts(self, lines: Iterable[str]) -> EngineFacts:
        """Weights, KV cache, times and backends of a start."""
        return facts_of(self.name, lines)


def _job(
    plan: Plan, proposal: Proposal, index: int, place: Place, files: JobFiles, rank: int
) -> Job:
    line = _settings(plan, proposal, place)
    add_nodes(line, proposal, place, rank)
    line.add_free(plan.spec.engine_args, OWNED)
    host = place.hosts[rank]
    head = rank == 0
    env = env_of(plan, proposal, place, files, host)
    return Job(
        deployment=plan.name,
        role="engine",
        index=index,
        rank=rank,
        command=Command(
            argv=(*_program(plan), "serve", *line.before, *line.words),
            env=env | plan.quirks.env | plan.spec.engine_env,
            secrets=(Secret(key_file=files.key_file, env="VLLM_API_KEY"),)
            if head
            else (),
        ),
        host=host,
        port=place.port if head else 0,
        log=files.log_of(rank),
    )


def _program(plan: Plan) -> tuple[str, ...]:
    """``vllm``, or the module in the interpreter of an environment that lemnos installed."""
    if not plan.program:
        return ("vllm",)
    return (*plan.program, "-m", "vllm.entrypoints.cli.main")


def _settings(plan: Plan, proposal: Proposal, place: Place) -> CommandLine:
    """The flags that are the same on every rank."""
    line = CommandLine(schema_for("vllm", plan.engine_version), plan.model.path)
    line.add("--served-model-name", plan.served_name, why="a name for clients")
    line.add("--host", reach(place), why="an address")
    line.add("--port", place.port, why="a port")
    add_settings(line, plan, proposal, place)
    add_parsers(line, plan)
    return line


def add_settings(
    line: CommandLine, plan: Plan, proposal: Proposal, place: Place
) -> None:
    """Layout, memory and the model's own flags: also what Dynamo's vLLM workers take."""
    settings, layout, quirks = proposal.settings, proposal.layout, plan.quirks
    line.add("--tensor-parallel-size", layout.tensor, why="tensor parallelism")
    if layout.pipeline > 1:
        line.add(
            "--pipeline-parallel-size", layout.pipeline, why="pipeline parallelism"
        )
    if layout.data > 1:
        line.add("--data-parallel-size", layout.data, why="data parallelism")
    if layout.expert:
        line.add("--enable-expert-parallel", why="expert parallelism")
    if layout.context > 1:
        why = "decode context parallelism"
        line.add("--decode-context-parallel-size", layout.context, why=why)
    line.add("--max-model-len", settings.context, why="a context length")
    line.add("--max-num-seqs", settings.max_seqs, why="a number of requests")
    batched = settings.max_batched_tokens
    line.add("--max-num-batched-tokens", batched, why="a batch size")
    if place.gpus_per_host:
        share = settings.utilization
        line.add("--gpu-memory-utilization", share, why="a share of memory")
    if settings.kv_cache_dtype != "auto":
        dtype = settings.kv_cache_dtype
        line.add("--kv-cache-dtype", dtype, why="a KV cache of another type")
    line.add("--quantization", settings.quantization, why="quantizing on load")
    if settings.eager:
        line.add("--enforce-eager", why="running without CUDA graphs")
    if settings.cpu_offload_gib:
        gib = settings.cpu_offload_gib
        line.add("--cpu-offload-gb", gib, why="offloading weights")
    if settings.kv_offload_gib:
        gib = settings.kv_offload_gib
        line.add("--kv-offloading-size", gib, why="offloading the KV cache")
    line.add("--seed", plan.spec.seed, why="a seed")
    for name, value in speculation(plan, proposal).items():
        line.add(name, value, why="speculation with the model's MTP layers")
    if quirks.trust_remote_code:
        line.add("--trust-remote-code", why="the model's own code")
    if not place.multicast and layout.tensor > 1 and _fuses(line.schema.version):
        line.words += [f"--compilation-config.{FUSION}=false"]
    for name, value in quirks.flags.items():
        line.add(name, value, why="what this model needs")


def add_parsers(line: CommandLine, plan: Plan) -> None:
    """Tool calls and reasoning, and whether the model reasons where a request does not say."""
    quirks = plan.quirks
    if quirks.tool_parser:
        line.add("--enable-auto-tool-choice", why="tool calls")
        line.add("--tool-call-parser", quirks.tool_parser, why="tool calls")
    if quirks.reasoning_parser:
        old = line.schema.named("--enable-reasoning")
        if old and not old.deprecated:
            line.add("--enable-reasoning", why="reasoning")
        line.add("--reasoning-parser", quirks.reasoning_parser, why="reasoning")
    switch = reasoning_switch(plan)
    if switch:
        why = f"reasoning {plan.spec.reasoning} by default"
        line.add("--default-chat-template-kwargs", switch, why=why)


def _fuses(version: str) -> bool:
    """Whether all-reduces are fused with norms by default, over NVLink multicast."""
    return Version(version) >= FUSES_SINCE


def add_nodes(line: CommandLine, proposal: Proposal, place: Place, rank: int) -> None:
    """How the ranks on several hosts find each other.

    Data-parallel ranks, each whole on its host, by ``--data-parallel-address``; one model over
    the hosts by ``--nnodes``, without Ray.
    """
    hosts, layout = len(place.hosts), proposal.layout
    if hosts == 1:
        return
    head = place.hosts[0]
    if layout.data > 1:
        local = layout.data // hosts
        port = place.inner_port + RPC
        line.add("--data-parallel-size-local", local, why="data parallelism over hosts")
        line.add("--data-parallel-address", head, why="data parallelism over hosts")
        line.add("--data-parallel-rpc-port", port, why="data parallelism over hosts")
        if rank:
            start = rank * local
            line.add(
                "--data-parallel-start-rank", start, why="data parallelism over hosts"
            )
    else:
        why = "several nodes without Ray"
        line.add("--nnodes", hosts, why=why)
        line.add("--node-rank", rank, why=why)
        line.add("--master-addr", head, why=why)
        line.add("--master-port", place.inner_port + MASTER, why=why)
        line.add("--distributed-executor-backend", "mp", why=why)
    if rank:
        line.add("--headless", why="ranks without an API")


def _on_ray(
    plan: Plan, proposal: Proposal, index: int, place: Place, files: JobFiles
) -> tuple[Job, ...]:
    """Ray on every host, and on the first vLLM, which places its ranks through it.

    The engine's job comes first, because it has the API; it waits for the hosts by itself,
    since Ray's placement group does. In a cluster that is there it is the only one.
    """
    line = _settings(plan, proposal, place)
    line.add("--distributed-executor-backend", "ray", why="Ray")
    if proposal.layout.data > 1:
        line.add("--data-parallel-backend", "ray", why="data parallelism on Ray")
    line.add_free(plan.spec.engine_args, OWNED)
    address = f"{place.hosts[0]}:{place.inner_port + RAY}"

    def job(rank: int, part: str, host: str, words: tuple[str, ...]) -> Job:
        env = env_of(plan, proposal, place, files, host)
        env |= plan.quirks.env | plan.spec.engine_env
        own = part == "" and not place.ray_is_there
        more = {"RAY_ADDRESS": address} if own else {}
        secret = Secret(key_file=files.key_file, env="VLLM_API_KEY")
        return Job(
            deployment=plan.name,
            role="engine",
            index=index,
            rank=rank,
            part=part,
            command=Command(
                argv=words,
                env=env | more,
                secrets=(secret,) if part == "" else (),
            ),
            host=host,
            port=place.port if part == "" else 0,
            log=files.log_of(rank),
        )

    gpus = ("--num-gpus", str(place.gpus_per_host))
    ray = (*plan.program, "-m", "ray.scripts.scripts") if plan.program else ("ray",)
    head = place.hosts[0]
    own = (f"--port={place.inner_port + RAY}", f"--node-ip-address={head}")
    quiet = ("--include-dashboard=false", "--disable-usage-stats", "--block")
    serve = (*_program(plan), "serve", *line.before, *line.words)
    if place.ray_is_there:
        return (job(0, "", head, serve),)
    jobs = [
        job(0, "", head, serve),
        job(1, "ray-head", head, (*ray, "start", "--head", *own, *gpus, *quiet)),
    ]
    for rank, host in enumerate(place.hosts[1:], start=2):
        words = (
            *ray,
            "start",
            f"--address={address}",
            f"--node-ip-address={host}",
            *gpus,
        )
        jobs.append(
            job(rank, "ray-worker", host, (*words, "--disable-usage-stats", "--block"))
        )
    return tuple(jobs)


def env_of(
    plan: Plan, proposal: Proposal, place: Place, files: JobFiles, host: str
) -> dict[str, str]:
    """Caches that outlive a start, no telemetry, and what the host's links need."""
    env = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    if files.cache:
        env["VLLM_CACHE_ROOT"] = f"{files.cache}/vllm"
        env["TRITON_CACHE_DIR"] = f"{files.cache}/triton"
        env["FLASHINFER_WORKSPACE_BASE"] = files.cache
    if plan.model.path.startswith("/"):
        env["HF_HUB_OFFLINE"] = "1"  # the files are here: nothing is to be asked for
    if len(place.hosts) > 1:
        env["VLLM_HOST_IP"] = host
    if not place.multicast and proposal.layout.tensor > 1:
        env["VLLM_ALLREDUCE_USE_SYMM_MEM"] = "0"
        env["VLLM_FLASHINFER_ALLREDUCE_BACKEND"] = "trtllm"
    return env | links_of(place, proposal.layout)
