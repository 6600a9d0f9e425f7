"""The planner's side of the Python API: ``lemnos.propose``.

Apart from ``lemnos.api`` because a plan needs nothing that runs: it is quick to import.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from lemnos.errors import LemnosError, UsageError
from lemnos.hardware.catalogue import cluster_named, gpu_kind
from lemnos.models.describe import describe
from lemnos.models.known import known_named
from lemnos.models.sources import parse_source
from lemnos.paths import replace_file
from lemnos.planning.calibration import Constants, constants_for
from lemnos.planning.fitting import Measured, MeasuredFile, refit
from lemnos.planning.measured import predicted
from lemnos.planning.options import Variant
from lemnos.planning.replay import parse_log
from lemnos.planning.search import propose_plans
from lemnos.planning.sites import sites_of
from lemnos.spec.cluster import Cluster
from lemnos.spec.deployment import DeploymentSpec, ModelSpec, WorkloadSpec
from lemnos.spec.document import load, validated
from lemnos.spec.proposal import Ask, Proposals

WITHOUT_HARDWARE = ("H100", "H200")
"""Kinds of GPU that a plan looks at where there is no hardware: the commonest for serving."""


def for_gpus(
    model: str | Path | None, cluster: str | None = None, file: str | None = None
) -> bool:
    """Whether ``model`` is planned for GPUs, or for this machine's embedded engine (GGUF)."""
    if cluster:
        return True
    text = str(model or "")
    if not text or file or text.endswith((".gguf", ".yaml", ".yml")):
        return False
    path = os.path.expanduser(text)  # os.path takes names that are too long for a file
    if known_named(text) or os.path.exists(os.path.join(path, "config.json")):
        return True
    if os.path.exists(path):
        return os.path.basename(path) == "config.json"
    try:
        source = parse_source(text)
    except UsageError:
        return False
    if source.kind not in ("hf", "modelscope") or source.file:
        return False
    from lemnos.models.pull import at_hand

    here = at_hand(ModelSpec(source=text), source)
    return here is None or here.format != "gguf"


def propose(
    model: str | Path,
    cluster: str | Path | Cluster | None = None,
    *,
    workload: str | Path | None = None,
    calibrate: str | Path | None = None,
    trust_headers: bool = False,
    revision: str | None = None,
    **asked: Any,
) -> Proposals:
    """Plans for ``model`` on ``cluster`` (``4xH200``, a cluster.yaml, or this machine's GPUs).

    ``asked`` are the fields of ``lemnos.spec.proposal.Ask``; None leaves one to the planner.
    ``workload``: a log to replay. ``calibrate``: measurements to refit the speed model to.
    Where nothing fits, ``plans`` is empty and ``smallest`` says what would do. Raises
    UsageError for what cannot be right, LemnosError for what cannot be read.
    """
    ask = asked_for(**asked)
    constants: Sequence[Constants] = ()
    if calibrate:
        constants = (recalibrated(calibrate),)
    log = None
    if workload is not None:
        log = parse_log(_text_of(workload), str(workload))
    described = describe(
        str(model),
        quantization=ask.quantization,
        trust_headers=trust_headers,
        revision=revision,
    )
    variants = [
        Variant(each.name, each.source, each.architecture, number)
        for number, each in enumerate(described)
    ]
    if cluster is None:
        found = _here()
        if found is None:
            return _without_hardware(variants, ask, constants)
        return propose_plans(variants, sites_of(found), ask, constants, log)
    return propose_plans(variants, sites_of(cluster_of(cluster)), ask, constants, log)


def cluster_of(cluster: str | Path | Cluster) -> Cluster:
    """A cluster from its file, or from a word such as ``4xH200``."""
    if isinstance(cluster, Cluster):
        return cluster
    text = str(cluster)
    if text.endswith((".yaml", ".yml")) or Path(text).is_file():
        return load(Path(text), Cluster)
    return cluster_named(text)


def asked_for(**asked: Any) -> Ask:
    """An Ask from keywords; lengths that are not given follow from the context."""
    given = {key: value for key, value in asked.items() if value is not None}
    context = given.get("context")
    if isinstance(context, int) and context > 0:
        defaults = Ask()
        spare = max(1, context // 4)
        output = given.setdefault("output_tokens", min(defaults.output_tokens, spare))
        room = max(1, context - int(output))
        given.setdefault("input_tokens", min(defaults.input_tokens, room))
    return validated(Ask, given)


def recalibrated(path: str | Path) -> Constants:
    """The engine's constants, refitted to the measurements in ``path`` (JSON or YAML)."""
    measured = load(Path(path), MeasuredFile)
    architectures = {
        name: describe(name)[0].architecture
        for name in {point.model for point in measured.points}
    }
    kinds = {point.gpu: gpu_kind(point.gpu) for point in measured.points}

    def predict(point: Measured, constants: Constants) -> tuple[float, float]:
        return predicted(point, architectures[point.model], kinds[point.gpu], constants)

    start = constants_for(measured.engine)
    return refit(
        start.model_copy(update={"engine": measured.engine}),
        measured.points,
        predict,
        f"refitted to {len(measured.points)} points of {Path(path).name}",
    )


def planned_spec(proposals: Proposals) -> DeploymentSpec:
    """The chosen plan as a deployment, which ``lemnos up`` takes."""
    chosen = proposals.plans[0]
    return DeploymentSpec(
        model=ModelSpec(source=chosen.source.removeprefix("file://")),
        engine=chosen.engine,
        workload=WorkloadSpec(
            context=max(64, chosen.settings.context),
            concurrency=min(4096, proposals.asked.concurrency),
        ),
        plan=chosen,
    )


def with_plan(
    spec: DeploymentSpec, cluster: str | Path | Cluster | None, *, dry: bool
) -> DeploymentSpec:
    """``spec`` with the plan that the planner chooses, where it needs one and has none.

    On ``cluster``, else on what the spec's machine room has. Without any GPU a ``dry`` run is planned
    for the smallest hardware that holds the model, and says so; what is to be started is left to
    the embedded engine. Raises LemnosError where nothing fits, with what would.
    """
    if spec.plan or spec.engine == "llamacpp":
        return spec
    source = spec.model.source
    if not for_gpus(source, str(cluster or "") or None, spec.model.file):
        return spec
    if cluster is None and spec.on not in ("local", "systemd"):
        cluster = _inventory(spec)
    elif cluster is None and not dry and spec.engine is None and _here() is None:
        return spec
    worker = "sglang" if spec.engine in ("sglang", "dynamo") else spec.engine
    found = propose(
        source,
        cluster,
        revision=spec.model.revision,
        context=spec.workload.context,
        concurrency=spec.workload.concurrency,
        engine=worker,
        engine_version=spec.engine_version if spec.engine != "dynamo" else None,
        replicas=spec.replicas,
    )
    if not found.plans:
        why = (
            f"; {found.rejected[0].option}: {found.rejected[0].reason}"
            if found.rejected
            else ""
        )
        raise LemnosError(
            f"{source} does not fit{why}",
            fix=found.smallest or "lemnos plan shows what would",
        )
    chosen = found.plans[0]
    notes = (*chosen.reasons, *chosen.warnings)
    chosen = chosen.model_copy(update={"reasons": notes})
    model = spec.model.model_copy(
        update={"source": chosen.source.removeprefix("file://")}
    )
    engine = spec.engine or chosen.engine
    return spec.model_copy(update={"model": model, "plan": chosen, "engine": engine})


def _inventory(spec: DeploymentSpec) -> Cluster:
    """What the machine room has, as its scheduler tells."""
    from lemnos.deployments.units import site_of
    from lemnos.launchers.registry import launcher_for

    return launcher_for(site_of(spec, spec.name or "plan")).inventory()


def save_spec(path: str | Path, spec: DeploymentSpec) -> None:
    """Write ``spec`` as a deployment.yaml. Raises LemnosError where it cannot be written."""
    data = spec.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
    text = yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=100)
    try:
        replace_file(Path(path).absolute(), text.encode())
    except OSError as error:
        raise LemnosError(
            f"cannot be written ({error.strerror})", where=str(path)
        ) from None


def _here() -> Cluster | None:
    """This machine, if it has GPUs."""
    from lemnos.hardware.probe import probe_here

    found = probe_here(note=lambda _: None)
    return found if any(node.gpus for node in found.nodes) else None


def _without_hardware(
    variants: Sequence[Variant], ask: Ask, constants: Sequence[Constants]
) -> Proposals:
    """No GPU here: the fewest GPUs of a common kind that hold what was asked for."""
    for count in (1, 2, 4, 8, 16, 32):
        for kind in WITHOUT_HARDWARE:
            sites = sites_of(cluster_named(f"{count}x{kind}"))
            found = propose_plans(variants[:1], sites, ask, constants)
            if found.plans:
                note = (
                    f"this machine has no GPU: planned on {count}x{kind}, the smallest of "
                    f"{' and '.join(WITHOUT_HARDWARE)} that holds it; --cluster says what you have"
                )
                first = found.plans[0].model_copy(
                    update={"warnings": (note, *found.plans[0].warnings)}
                )
                return found.model_copy(update={"plans": (first, *found.plans[1:])})
    return propose_plans(variants, sites_of(cluster_named("8xH200")), ask, constants)


def _ledger_text() -> str:
    """What the gateways wrote down, as a log's CSV."""
    from lemnos.gateway.ledger import Ledger, default_path, sqlite_url

    path = default_path()
    if not path.exists():
        raise LemnosError(
            "there is no ledger yet: no gateway has served a request",
            where=str(path),
            fix="give a CSV or JSONL file with time, input_tokens, output_tokens",
        )
    with contextlib.closing(Ledger(sqlite_url(path))) as ledger:
        rows = [f"{at},{read},{written}" for at, read, written in ledger.traffic()]
    return "\n".join(["at,input_tokens,output_tokens", *rows])


def _text_of(workload: str | Path) -> str:
    if str(workload) == "ledger":
        return _ledger_text()
    try:
        return Path(workload).expanduser().read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise UsageError("is not UTF-8 text", where=str(workload)) from None
    except OSError as error:
        raise LemnosError(
            f"cannot be read ({error.strerror})", where=str(workload)
        ) from None
