"""What of a plan is otherwise where replicas are pods: their programs are an image's, their model a volume's."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from lemnos import paths
from lemnos.errors import UsageError
from lemnos.spec.clusters import MODELS
from lemnos.spec.deployment import DeploymentSpec
from lemnos.spec.facts import LocalModel
from lemnos.spec.plan import Plan

PYTHON = "python3"
"""Of an image that has lemnos."""


def is_in_pods(spec: DeploymentSpec) -> bool:
    """Whether replicas are pods."""
    return spec.on == "kubernetes"


def in_a_pod(plan: Plan) -> Plan:
    """``plan`` of an engine that lemnos has itself, with the program and the path of the pod."""
    path = _path(plan.spec, plan.model.source, Path(plan.model.path))
    model = plan.model.model_copy(update={"path": path})
    program = plan.program or (PYTHON,)
    return plan.model_copy(update={"model": model, "program": program})


def model_in_a_pod(spec: DeploymentSpec, source: str, size: int) -> LocalModel:
    """A model that GPU engines serve from the pods' volume; nothing of it need be here."""
    return LocalModel(
        name=source.rpartition("/")[2].partition("@")[0],
        source=source,
        revision=spec.model.revision,
        format="safetensors",
        path=_path(spec, source, None),
        bytes=size,
    )


def _path(spec: DeploymentSpec, source: str, here: Path | None) -> str:
    """Below the volume: where the spec says that it is, where lemnos' own store has it, or by the
    source's name. Raises UsageError for a path of this machine, which no pod has."""
    weights = spec.kubernetes.weights
    if weights.path:
        below = PurePosixPath(weights.path)
        if below.is_absolute() or ".." in below.parts:
            raise UsageError(
                f"'{weights.path}' is not below the volume",
                where="kubernetes.weights.path",
                fix="give the path from the volume's own root: 'GLM-4.6-FP8'",
            )
        return f"{MODELS}/{below}"
    if here and here.is_relative_to(paths.models_dir()):
        return f"{MODELS}/{here.relative_to(paths.models_dir())}"
    if source.startswith("file://"):
        raise UsageError(
            f"{source.removeprefix('file://')} is on this machine, and pods do not see it",
            where="model",
            fix="put it on a volume and give kubernetes.weights.claim or host_path, with its path there, or "
            "name a model of a hub",
        )
    name = re.sub(r"[^A-Za-z0-9._-]+", "--", source.partition("://")[2])
    return f"{MODELS}/{name}"
