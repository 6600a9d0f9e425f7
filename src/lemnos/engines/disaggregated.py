"""SGLang's prefill and decode servers as one unit: their flags, their ports, and the router in front
of them. Pure.

The router is smg, not the older sglang-router: SGLang's README names it for deployments (0.5.23), it
demands a key on its own port, and lemnos' gateway runs the same one for ``gateway.yaml``.
"""

from __future__ import annotations

from collections.abc import Sequence

from lemnos.engines import smg
from lemnos.engines.base import JobFiles
from lemnos.engines.command import CommandLine
from lemnos.engines.environment import reach
from lemnos.engines.placing import planned
from lemnos.engines.workers import Worker, parts_of
from lemnos.errors import UsageError
from lemnos.spec.place import INNER_PORTS, OpenPort, Place, Role
from lemnos.spec.plan import Command, Job, Plan
from lemnos.spec.targets import PrefillWorker, Router
from lemnos.transport.base import url_of

METRICS = INNER_PORTS - 1
"""The place of the router's own numbers among the inner ports, on its loopback."""
STEP, STEP_DP = 2, 7
"""Ports from one worker's API to the next one's on a host: its API and its bootstrap. With attention
DP SGLang takes six more in a row, 233 above its API (PortArgs.init_new in server_args.py)."""
DIST = 2
"""Of a worker over several hosts, which has them for itself: torch's rendezvous, and the next few."""
POLICY = "cache_aware"
ROUND_ROBIN = "--prefill-round-robin-balance"


def servers(plan: Plan, workers: Sequence[Worker]) -> list[Place]:
    """The place of each server: its own hosts, and the port of its API."""
    step = STEP_DP if any(w.proposal.layout.data > 1 for w in workers) else STEP
    most = METRICS // step
    if any(worker.slot >= most for worker in workers):
        raise UsageError(
            f"{plan.name} would have more than {most} workers on one host",
            fix="plan fewer and larger ones, or more hosts",
        )
    found = []
    for worker in workers:
        port = worker.place.inner_port + step * worker.slot
        inner = worker.place.inner_port + DIST
        changed = {"port": port, "inner_port": inner}
        found.append(worker.place.model_copy(update=changed))
    return found


def bootstrap_port(server: Place) -> int:
    """Where a decode server fetches the KV cache of this prefill server."""
    return server.port + 1


def router_job(
    plan: Plan, index: int, place: Place, servers: Sequence[Place], files: JobFiles
) -> Job:
    """What has the unit's API: asks a prefill and a decode server for each answer."""
    router = Router(
        target=plan.name,
        program="",
        prefill=tuple(
            PrefillWorker(url=_url(each), bootstrap_port=bootstrap_port(each))
            for each in servers
            if each.role == "prefill"
        ),
        decode=tuple(_url(each) for each in servers if each.role == "decode"),
        policy=POLICY,
    )
    words = smg.arguments(
        router,
        place.port,
        place.inner_port + METRICS,
        host=reach(place),
        grace_s=smg.UNIT_GRACE_S,
    )
    python = plan.router or plan.program or ("python3",)
    return Job(
        deployment=plan.name,
        role="engine",
        index=index,
        part="router",
        command=Command(
            argv=(*python, "-I", "-c", smg.ENTRY_CODE, files.key_file, *words),
            env={"NO_COLOR": "1"},
        ),
        host=place.hosts[0],
        port=place.port,
        log=files.log_of(0),
    )


def add_role(line: CommandLine, plan: Plan, role: Role, bootstrap: int) -> None:
    """Prefill or decode, the KV cache sent through NIXL: of SGLang's servers and Dynamo's workers.

    Until 0.5.13 a prefill server is told how wide decode servers are, and one is several times as
    wide as the other (``validate_disagg_tp_size`` in server_args.py). ``bootstrap``: its port.
    """
    why = "prefill and decode apart"
    parts = dict(parts_of(planned(plan)))
    prefill, decode = parts["prefill"].layout, parts["decode"].layout
    widths = prefill.tensor * prefill.data, decode.tensor * decode.data
    if max(widths) % min(widths):
        raise UsageError(
            f"SGLang sends no KV cache from {prefill} to {decode}: the wider one must have a "
            "multiple of the other's GPUs",
            where="plan.roles.decode_layout",
            fix=f"give decode workers TP{widths[0]}, or half of it, or twice as much",
        )
    line.add("--disaggregation-mode", role, why=why)
    line.add("--disaggregation-bootstrap-port", bootstrap, why=why)
    line.add("--disaggregation-transfer-backend", "nixl", why=why)
    if role == "prefill" and widths[0] != widths[1]:
        _add_where_known(line, "--disaggregation-decode-tp", widths[1])
    if role == "prefill" and prefill.data != decode.data:
        _add_where_known(line, "--disaggregation-decode-dp", decode.data)
    if role == "decode" and prefill.pipeline > 1:
        _add_where_known(line, "--disaggregation-prefill-pp", prefill.pipeline)
    balanced = line.schema.named(ROUND_ROBIN)
    if role == "decode" and decode.data > 1 and balanced and not balanced.deprecated:
        line.add(ROUND_ROBIN, why=why)  # refused without it, before 0.5.8


def ports(place: Place, servers: Sequence[Place]) -> list[OpenPort]:
    """The router's, each server's, and those of the KV transfer, which carry no key."""
    head = place.hosts[0]
    found = [OpenPort(host=head, port=place.port, purpose="API", keyed=True)]
    metrics = place.inner_port + METRICS
    found.append(
        OpenPort(
            host="127.0.0.1", port=metrics, purpose="router's metrics", keyed=False
        )
    )
    for each in servers:
        host, role = each.hosts[0], each.role
        found.append(OpenPort(host=host, port=each.port, purpose=role, keyed=True))
        if role == "prefill":
            port, purpose = bootstrap_port(each), "KV transfer bootstrap"
            found.append(OpenPort(host=host, port=port, purpose=purpose, keyed=False))
        if len(each.hosts) > 1:
            port, purpose = each.inner_port, "torch.distributed rendezvous"
            found.append(OpenPort(host=host, port=port, purpose=purpose, keyed=False))
    return found


def _url(server: Place) -> str:
    return url_of(server.hosts[0], server.port)


def _add_where_known(line: CommandLine, name: str, value: int) -> None:
    """What newer versions find out by themselves."""
    if line.has(name):
        line.add(name, value, why="prefill and decode of different sizes")
