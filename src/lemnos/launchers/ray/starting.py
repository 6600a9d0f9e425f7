"""How lemnos' own Ray is started on hosts: commands, ports, and whether the hosts are fit for it. Pure."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence

from packaging.version import InvalidVersion, Version

from lemnos.errors import LemnosError, UsageError
from lemnos.launchers import late
from lemnos.launchers.ray.render import python_of
from lemnos.launchers.site import Site
from lemnos.spec.base import Value
from lemnos.spec.clusters import RaySpec
from lemnos.spec.plan import Command, Job
from lemnos.spec.unit import Rendered

WORKER_PORTS = 200
"""For Ray's workers on each host: one for each of its actors and drivers there."""
FIRST_WORKER = 10
"""Behind the agents' ports."""
TOKENS_SINCE = Version("2.52")
"""RAY_AUTH_MODE=token."""
STORE_BYTES = 1024**3
"""Of shared memory: engines' data do not go through Ray's store, and its default is a third of the host's memory."""
PARTS = (
    "node-manager-port",
    "object-manager-port",
    "dashboard-agent-listen-port",
    "dashboard-agent-grpc-port",
    "runtime-env-agent-port",
    "metrics-export-port",
)
"""What listens on every host, from ``ray.first_port`` on."""
# A node that is lost is noticed within 1 + 3 x 1 s of it, instead of half a minute; nodes without their head end after
# 10 s, instead of a minute.
ENV = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_gcs_rpc_server_reconnect_timeout_s": "10",
    "RAY_agent_register_timeout_ms": "30000",
    "RAY_USAGE_STATS_ENABLED": "0",
}


class Said(Value):
    """What ``ask.py`` printed on a host."""

    python: str
    ray: str
    """Empty: there is none."""
    dashboard: bool
    """The head's dashboard can run: ``ray[default]``."""
    cpus: int
    blocked: tuple[tuple[str, int, str], ...] = ()
    """Addresses and ports that it does not reach, and why."""
    taken: tuple[int, ...] = ()


def said_of(text: str, host: str) -> Said:
    """Raises LemnosError where the host said something else."""
    for line in text.splitlines():
        if line.startswith("LEMNOS "):
            return Said.model_validate(json.loads(line.removeprefix("LEMNOS ")))
    raise LemnosError("the host's Python does not tell its versions", where=host)


def job_of(site: Site, index: int, addresses: Sequence[str], *, tokens: bool) -> Job:
    """Ray on the host of this number; the head is the first. ``addresses``: the hosts', of the network between
    them."""
    spec = site.spec.ray
    own = ("--node-ip-address", addresses[index])
    how: tuple[str, ...] = ("--address", f"{addresses[0]}:{spec.port}")
    if not index:
        how = ("--head", "--port", str(spec.port))
        how += ("--include-dashboard=true", "--dashboard-host", "127.0.0.1")
        how += ("--dashboard-port", str(spec.dashboard_port))
        how += ("--ray-client-server-port", str(spec.first_port + len(PARTS)))
    first = spec.first_port + FIRST_WORKER
    ports = [f"--{part}={spec.first_port + n}" for n, part in enumerate(PARTS)]
    ports += [f"--min-worker-port={first}"]
    ports += [f"--max-worker-port={first + WORKER_PORTS - 1}"]
    env = dict(ENV)
    if tokens:
        env |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": token_path(site)}
    argv = (
        *(python_of(site.spec), "-m", "ray.scripts.scripts", "start"),
        *(*how, *own, *ports, "--object-store-memory", str(STORE_BYTES)),
        *("--temp-dir", f"{temporary(site)}/{index}"),  # hosts may share /tmp
        *("--disable-usage-stats", "--block"),
    )
    return Job(
        deployment=site.deployment,
        role="ray",
        index=index,
        command=Command(argv=argv, env=env),
        host=spec.hosts[index],
        port=0,
        log=f"{site.directory}/ray-{index}.log",
    )


def rendered(site: Site) -> Rendered:
    """What starting it would run, as far as that is known before hosts are asked for their addresses."""
    hosts = site.spec.ray.hosts
    addresses = [late.host(rank) for rank in range(len(hosts))]
    commands = []
    for index, host in enumerate(hosts):
        job = job_of(site, index, addresses, tokens=True)
        words = [late.filled(word, shown(hosts), 0, 0) for word in job.command.argv]
        env = [f"{key}={value}" for key, value in job.command.env.items()]
        commands.append(("ssh", host, "--", "env", *env, *words))
    return Rendered(files={}, commands=tuple(commands), notes=notes(site.spec.ray))


def shown(hosts: Sequence[str]) -> tuple[str, ...]:
    """Addresses that are not known yet."""
    return tuple(f"ADDRESS-OF-{host}" for host in hosts)


def notes(spec: RaySpec) -> tuple[str, ...]:
    """The ports that must be open between the hosts: none of them carries a key but by Ray's token."""
    first, last = spec.first_port, _last(spec)
    engines = "20000-31999"
    return (
        f"between all of {', '.join(spec.hosts)} these ports must be open: {first}-{last} (Ray's nodes, agents and "
        f"workers) and {engines} (the engine's own); to {spec.hosts[0]} also {spec.port} (Ray's control store)",
        f"Ray's dashboard listens on {spec.hosts[0]}'s own loopback, port {spec.dashboard_port}: who reaches it can run "
        "anything there, so it demands a token (Ray 2.52 or newer)",
    )


def question(spec: RaySpec, index: int, addresses: Mapping[int, str], new: set[int]) -> str:  # fmt: skip
    """What ``ask.py`` is to try on the host of this number; ``new``: the hosts on which no Ray of ours runs.
    (Ports of those that run are in use, and so are open.)"""
    ways = [
        [address, port]
        for other, address in addresses.items()
        if other != index
        for port in _tried(spec, head=other == 0)
    ]
    own = [spec.first_port + n for n in range(len(PARTS))] if index in new else []
    if index == 0 and index in new:
        own += [spec.port, spec.dashboard_port]
    return json.dumps({"ways": ways, "own": own})


def check(spec: RaySpec, said: Mapping[str, Said], addresses: Mapping[str, str], python: str) -> None:  # fmt: skip
    """Raises UsageError for hosts without Ray or with another one, LemnosError for ports that are closed or taken."""
    for host, own in said.items():
        if not own.ray:
            raise UsageError(
                f"{python} has no Ray (Python {own.python})",
                where=host,
                fix="install ray[default] there, and name its Python with ray.python (or its environment with venv)",
            )
    head = said.get(spec.hosts[0])
    if head and not head.dashboard:
        raise UsageError(
            "Ray's dashboard and its jobs API are not installed",
            where=spec.hosts[0],
            fix=f"{python} -m pip install 'ray[default]=={head.ray}'",
        )
    versions = {host: f"Ray {s.ray} and Python {s.python}" for host, s in said.items()}
    if len(set(versions.values())) > 1:
        each = "; ".join(f"{host} has {text}" for host, text in versions.items())
        raise UsageError(
            f"the hosts have mixed versions: {each}",
            where="ray.hosts",
            fix="Ray needs the same of both everywhere: install them alike, and name that Python with ray.python",
        )
    for host, own in said.items():
        if own.taken:
            ports = ", ".join(map(str, own.taken))
            raise LemnosError(
                f"another process has port {ports}",
                where=host,
                fix="another Ray there? join it with ray.address, or give this one other ports "
                "(ray.port, ray.dashboard_port, ray.first_port)",
            )
    names = {address: host for host, address in addresses.items()}
    for host, own in said.items():
        if own.blocked:
            address, port, why = own.blocked[0]
            more = f" (and {len(own.blocked) - 1} more)" if len(own.blocked) > 1 else ""
            raise LemnosError(
                f"{host} does not reach port {port} of {names.get(address, address)} ({address}): {why}{more}",
                where="ray.hosts",
                fix=f"open {spec.port} and {spec.first_port}-{_last(spec)} between the hosts, or name the network "
                "between them with interface",
            )


def last_words(log: str) -> str:
    """Of a Ray that ended: its exception, else its last line."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"[\w.]*(Error|Exception): ", line)]
    return [*lines, *errors][-1][:300] if lines else "it said nothing"


def has_tokens(version: str) -> bool:
    """Whether this Ray can demand one."""
    try:
        return Version(version) >= TOKENS_SINCE
    except InvalidVersion:
        return False


def temporary(site: Site) -> str:
    """Ray's sessions. Short: its sockets' paths may have 107 bytes."""
    return f"/tmp/lemnos-ray-{session_hash(site.mark(''))}"  # noqa: S108  # Ray makes it; the name is ours alone


def session_hash(mark: str) -> str:
    """Tells deployments' sessions apart, in few characters."""
    return hashlib.sha256(mark.encode()).hexdigest()[:10]


def token_path(site: Site) -> str:
    """On every host."""
    return f"{site.directory}/ray.token"


def _last(spec: RaySpec) -> int:
    return spec.first_port + FIRST_WORKER + WORKER_PORTS - 1


def _tried(spec: RaySpec, *, head: bool) -> list[int]:
    """Ports of a host that the others try: each of Ray's own, and the ends of the workers'."""
    ports = [spec.first_port + n for n in range(len(PARTS))]
    ports += [spec.first_port + FIRST_WORKER, _last(spec)]
    return [*ports, spec.port] if head else ports
