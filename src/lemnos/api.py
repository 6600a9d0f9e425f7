"""The Python API, which the command line is built on: ``import lemnos``.

>>> import lemnos
>>> endpoint = lemnos.up()                     # the model that this machine can run
>>> endpoint.url
'http://127.0.0.1:5366/v1'
>>> with endpoint.client() as client:
...     client.generate("The capital of France is", max_tokens=5)
>>> lemnos.down(endpoint.name)
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

import lemnos
from lemnos.benchmark.load import bench as run_bench
from lemnos.deployments import deploy, prepare
from lemnos.deployments import status as looking
from lemnos.deployments.endpoint import Endpoint, endpoint_of, key_of
from lemnos.deployments.targets import check_endpoint
from lemnos.deployments.waiting import Watch
from lemnos.errors import LemnosError, UsageError
from lemnos.models.progress import Progress, Silent
from lemnos.proposals import with_plan
from lemnos.records.store import Store, new_record_id
from lemnos.spec.cluster import Cluster
from lemnos.spec.deployment import (
    DeploymentSpec,
    EndpointSpec,
    ModelSpec,
    WorkloadSpec,
)
from lemnos.spec.document import load, validated
from lemnos.spec.place import OpenPort
from lemnos.spec.plan import Job, Plan
from lemnos.spec.record import BenchSpec, Record
from lemnos.spec.status import Phase, Status
from lemnos.spec.unit import Rendered
from lemnos.wire.client import Client


def deployment_spec(
    model: str | Path | DeploymentSpec, **changes: Any
) -> DeploymentSpec:
    """A spec from a model's name, source or path, from a ``.yaml`` file, or from a directory that
    ``lemnos import`` wrote.

    ``changes`` that are not None win over a file: ``name``, ``served_name``, ``revision``,
    ``file``, ``context``, ``concurrency``, ``host``, ``port``, ``api_key_file``, ``on``,
    ``via``, ``ready_timeout_s``, and ``settings``, a list of any keys: ``["slurm.partition=gpu"]``.
    Raises UsageError when something cannot be right.
    """
    if isinstance(model, str | Path) and os.path.exists(model):
        from lemnos.importing.writing import default_spec

        model = default_spec(Path(model)) or model
    if isinstance(model, DeploymentSpec):
        base = model
    elif str(model).endswith((".yaml", ".yml")):
        base = _paths_from(Path(model).parent, load(Path(model), DeploymentSpec))
    else:
        base = DeploymentSpec(model=ModelSpec(source=str(model)))
    given = {key: value for key, value in changes.items() if value is not None}
    return _paths_from(Path(), _changed(base, given))


def plan(
    model: str | Path | DeploymentSpec | None = None,
    *,
    progress: Progress | None = None,
    cluster: str | Path | None = None,
    **changes: Any,
) -> Plan:
    """How the model would run: memory, settings, and why. Starts nothing.

    ``cluster``: on what (``4xH200``, a cluster.yaml), if not on this machine. Nothing is downloaded:
    raises LemnosError for a model that is neither here nor known.
    """
    wanted = _spec_or_default(model, progress or Silent(), changes)
    return prepare.plan_without_pulling(with_plan(wanted, cluster, dry=True))


def probe(
    hosts: str | list[str] | None = None,
    *,
    network: bool = True,
    measure_disk: bool = False,
    ports: str | None = None,
    ssh_config: Path | None = None,
    note: Callable[[str], None] | None = None,
) -> Cluster:
    """What machines have: this one, or ``hosts`` (names, or a file with one a line) over SSH.

    Between hosts, latency, bandwidth and ``ports`` (``"29500,6379"``) are tried unless
    ``network`` is false. ``note`` is told what is going on. A host that cannot be read stays
    in the cluster and says why; raises LemnosError if none can be read.
    """
    from lemnos.hardware import probe as probing
    from lemnos.hardware.network import PORTS, parse_ports

    tell = note or (lambda _: None)
    if hosts is None:
        return probing.probe_here(measure_disk=measure_disk, note=tell)
    names = hosts if isinstance(hosts, str) else ",".join(hosts)
    return probing.probe_hosts(
        probing.hosts_named(names, ssh_config),
        ports=PORTS if ports is None else parse_ports(ports),
        measure_network=network,
        measure_disk=measure_disk,
        note=tell,
    )


def write_cluster(path: str | Path, cluster: Cluster, *, force: bool = False) -> None:
    """Write ``cluster.yaml``; replaces what a probe wrote, other files only by ``force``."""
    from lemnos.hardware import clusterfile

    clusterfile.write_cluster(Path(path), cluster, force=force)


def jobs(plan: Plan) -> list[Job]:
    """The processes that ``up`` would start for ``plan``."""
    return [job for unit in prepare.units_of(plan) for job in unit.jobs]


def rendered(plan: Plan) -> dict[str, Rendered]:
    """The files that ``up`` would write for ``plan``, and the commands that it would run, by unit."""
    return prepare.rendered(plan)


def ports(plan: Plan) -> list[OpenPort]:
    """The ports that ``plan``'s engines would open, and whether they demand a key."""
    return prepare.ports_of(plan)


def up(
    model: str | Path | DeploymentSpec | None = None,
    *,
    progress: Progress | None = None,
    watch: Watch | None = None,
    wait: bool = True,
    cluster: str | Path | None = None,
    **changes: Any,
) -> Endpoint:
    """Serve a model, and return when a real completion came through the endpoint.

    ``progress`` is told of downloads, ``watch`` of each change of status. Running already
    with the same spec, it is returned as it is; with another spec, that becomes a new revision,
    which takes over when it works. A Record is written in any case; on failure or interruption
    everything that was started is stopped. Without ``wait`` it returns once all is on its way.
    """
    wanted = _spec_or_default(model, progress or Silent(), changes)
    run = _Run("up", wanted)
    try:
        # What cannot work is said before a download.
        check_endpoint(wanted)
        deploy.check_port(wanted.endpoint)
        wanted = with_plan(wanted, cluster, dry=False)
        made = prepare.make_plan(wanted, progress or Silent())
        run.plan = made
        run.measured["pull_s"] = run.elapsed()
        tell = watch or (lambda _: None)
        status, already = deploy.bring_up(made, tell, wait=wait)
        if already or not wait or status.phase != Phase.ready:
            return endpoint_of(status, already_up=already)
        run.measured["ready_s"] = run.elapsed()
        run.measured["start_s"] = run.elapsed() - run.measured["pull_s"]
        run.measured |= _first_tokens(status)
        run.write("ok")
        return endpoint_of(status, measured=run.measured, record=run.id)
    except (LemnosError, KeyboardInterrupt) as error:
        run.write_failure(error)
        raise


def bench(
    target: str | BenchSpec | None = None,
    *,
    api_key: str | None = None,
    **settings: Any,
) -> Record:
    """Measure an endpoint: a deployment's name, a URL, or the only deployment.

    ``settings`` are BenchSpec's: requests, concurrency, input_tokens, output_tokens, model.
    """
    if isinstance(target, BenchSpec):
        wanted = target
    else:
        data = {"target": target or looking.resolve_name(None), **settings}
        wanted = validated(BenchSpec, data)
    url, model, key = _bench_target(wanted, api_key)
    run = _Run("bench", wanted)
    try:
        run.measured, problem = asyncio.run(run_bench(wanted, url, model, key))
        failed = f"{run.measured['failed']:.0f} requests failed: {problem}"
        error = LemnosError(failed, where=url).as_dict() if problem else None
        return run.write("ok", error)
    except (LemnosError, KeyboardInterrupt) as error:
        run.write_failure(error)
        raise


def list_records(kind: str | None = None) -> list[Record]:
    """Every record of this state directory, oldest first."""
    return Store().records(kind)


def get_record(id_: str) -> Record:
    """One record, by its id, the beginning of it, or ``last``."""
    return Store().record(id_)


def rerun(
    id_: str, *, progress: Progress | None = None, watch: Watch | None = None
) -> Endpoint | Record:
    """Do again what a record says was done: an ``up`` or a ``bench``."""
    again = get_record(id_).spec
    if isinstance(again, BenchSpec):
        return bench(again)
    return up(again, progress=progress, watch=watch)


class _Run:
    """A record in the making."""

    def __init__(self, kind: str, wanted: DeploymentSpec | BenchSpec) -> None:
        self.kind = kind
        self.spec = wanted
        self.plan: Plan | None = None
        self.measured: dict[str, float] = {}
        self.created = time.time()
        self.id = new_record_id(self.created)
        self._began = time.monotonic()

    def elapsed(self) -> float:
        return round(time.monotonic() - self._began, 3)

    def write(self, outcome: str, error: dict[str, str] | None = None) -> Record:
        log: list[str] = []
        if error and self.plan:
            failed = Store().failures(self.plan.name)
            log = list(failed[-1].lines) if failed else []
        embedded = self.plan.embedded if self.plan else None
        memory = embedded.memory if embedded else None
        made = Record.model_validate(
            {
                "id": self.id,
                "kind": self.kind,
                "created": self.created,
                "lemnos": lemnos.__version__,
                "outcome": outcome,
                "error": error,
                "spec": self.spec,
                "plan": self.plan,
                "predicted": {"memory_bytes": memory.total} if memory else {},
                "measured": self.measured,
                "engine_log": log,
            }
        )
        Store().add_record(made)
        return made

    def write_failure(self, error: LemnosError | KeyboardInterrupt) -> None:
        if isinstance(error, LemnosError):
            self.write("failed", error.as_dict())
        else:
            self.write("interrupted", {"what": "interrupted", "where": "", "fix": ""})


def _spec_or_default(
    model: str | Path | DeploymentSpec | None,
    progress: Progress,
    changes: dict[str, Any],
) -> DeploymentSpec:
    return deployment_spec(model or prepare.default_model(progress), **changes)


def _paths_from(directory: Path, spec: DeploymentSpec) -> DeploymentSpec:
    """The spec with its relative paths taken from ``directory``: the supervisor's is another."""
    data = spec.model_dump()
    for place in (data["endpoint"], *data["endpoint"]["cloud"]):
        for key in ("api_key_file", "keys_file", "key_file"):
            if name := place.get(key):
                place[key] = _absolute(directory, name)
    if spec.model.source.startswith(("./", "../")):
        data["model"]["source"] = _absolute(directory, spec.model.source)
    return validated(DeploymentSpec, data)


def _absolute(directory: Path, name: str) -> str:
    return str((directory / Path(name).expanduser()).absolute())


def _changed(base: DeploymentSpec, changes: dict[str, Any]) -> DeploymentSpec:
    settings = changes.pop("settings", None) or []
    data = base.model_dump()
    homes = {
        "model": ModelSpec.model_fields,
        "workload": WorkloadSpec.model_fields,
        "endpoint": EndpointSpec.model_fields,
    }
    for key, value in changes.items():
        home = next((name for name, fields in homes.items() if key in fields), None)
        (data[home] if home else data)[key] = value
    for setting in settings:
        _set(data, setting)
    return validated(DeploymentSpec, data)


def _set(data: dict[str, Any], setting: str) -> None:
    """``slurm.partition=gpu``: one key of a spec, its value as YAML has it."""
    path, equals, text = setting.partition("=")
    *above, last = path.strip().split(".")
    if not equals or not last:
        raise UsageError(
            f"'{setting}' sets nothing", where="--set", fix="write KEY=VALUE"
        )
    for key in above:
        data[key] = data.get(key) or {}
        if not isinstance(data[key], dict):
            raise UsageError(f"{key} has no keys below it", where=f"--set {path}")
        data = data[key]
    try:
        data[last] = yaml.safe_load(text)
    except yaml.YAMLError:
        data[last] = text


def _first_tokens(status: Status) -> dict[str, float]:
    """What one short streamed answer through the endpoint measures."""
    one = BenchSpec(target=status.name, requests=1, input_tokens=16, output_tokens=48)
    key = key_of(status)
    got, _ = asyncio.run(run_bench(one, status.url, status.model, key))
    # An answer of one token, or that came all at once, has no pace; one without text no first token.
    found = {}
    if ttft := got.get("ttft_ms_p50"):
        found["ttft_ms"] = round(ttft, 1)
    if tpot := got.get("tpot_ms_p50"):
        found["output_tokens_per_s"] = round(1000.0 / tpot, 1)
    return found


def _bench_target(
    wanted: BenchSpec, api_key: str | None
) -> tuple[str, str, str | None]:
    """URL without ``/v1``, model and key of what is to be measured."""
    if "://" in wanted.target:
        url = wanted.target.rstrip("/").removesuffix("/v1")
        if wanted.model:
            return url, wanted.model, api_key
        with Client(url, api_key=api_key) as client:
            return url, client.models()[0], api_key
    now = looking.status(looking.resolve_name(wanted.target))[0]
    if now.phase.over:
        raise UsageError(f"'{now.name}' is not running", fix=f"lemnos up {now.model}")
    return now.url, wanted.model or now.model, api_key or key_of(now)
