"""From config.yaml to specs: read, convert each model, plan it, and try what the engine would be told."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from lemnos.deployments.prepare_gpu import places_of, plan_on_gpus
from lemnos.engines.base import JobFiles, engine_named
from lemnos.errors import LemnosError, UsageError, near
from lemnos.importing.config import Written, read_config
from lemnos.importing.fitting import Fitted, fitted
from lemnos.importing.notes import Note, note, unknown_notes
from lemnos.importing.wishes import (
    Wish,
    common_of,
    flags_of,
    path_of,
    wish_of,
    without_empty,
)
from lemnos.importing.writing import FOLDER_FILE, folder_text, spec_text
from lemnos.proposals import asked_for, cluster_of
from lemnos.spec.base import Value
from lemnos.spec.cluster import Cluster
from lemnos.spec.deployment import DeploymentSpec, name_from
from lemnos.spec.document import validated

WRITTEN_FOR = "0.15.0"
"""The vLLM that the scripts were written for; a venv on this machine says its own."""
GPU = "H100"
"""What the scripts were written for."""


class ImportedModel(Value):
    """What became of a model."""

    key: str
    name: str
    file: str | None = None
    """None: it fits in no form, and ``refused`` says why."""
    refused: dict[str, str] | None = None
    source: str = ""
    layout: str = ""
    gpus: int = 0
    gpu: str = ""
    nodes: int = 0
    context: int = 0
    notes: tuple[Note, ...] = ()


class Imported(Value):
    """What became of a configuration."""

    config: str
    default: str | None
    """The deployment that ``lemnos up DIR`` starts: what ``active_model`` named."""
    engine_version: str
    models: tuple[ImportedModel, ...]
    notes: tuple[Note, ...]
    """About what is not a model's."""
    files: dict[str, str] = Field(exclude=True)
    """Name -> text of what is to be written."""


def import_config(
    path: str | Path,
    cluster: str | Path | Cluster | None = None,
    *,
    engine_version: str | None = None,
    env: Mapping[str, str] | None = None,
) -> Imported:
    """The specs of the configuration at ``path``; nothing is written.

    ``cluster``: ``4x4xH100`` or a cluster.yaml with the nodes that there are; without one each
    model gets nodes with as many H100s as it asks for. ``env``: variables that paths may name.
    Raises UsageError with file and line for a configuration that cannot be read or contradicts
    itself; a model that fits nowhere is told in its ``refused``.
    """
    written = read_config(Path(path))
    _check_names(written)
    nodes: Cluster | str = GPU if cluster is None else cluster_of(cluster)
    env = os.environ if env is None else env
    version, told = _version(written, engine_version, env)
    flags = flags_of(written, version)
    common, notes = common_of(written, env, flags)
    notes += [*told, *unknown_notes(written, known=flags)]
    if cluster is None:
        text = f"planned for {GPU}s, as many as each model asks for: --cluster says what you have"
        notes.append(note(written, "told", text))
    files: dict[str, str] = {}
    models = []
    for key in written.config.models:
        model, text = _model(written, key, common, env, nodes, version)
        if model.file:
            files[model.file] = text
        models.append(model)
    default = _default(written, models)
    if default:
        files[FOLDER_FILE] = folder_text(default)
    return Imported(
        config=written.path,
        default=default,
        engine_version=version,
        models=tuple(models),
        notes=tuple(notes),
        files=files,
    )


def _model(
    written: Written,
    key: str,
    common: Mapping[str, Any],
    env: Mapping[str, str],
    cluster: Cluster | str,
    version: str,
) -> tuple[ImportedModel, str]:
    """What became of a model, and its file's text."""
    try:
        wish = wish_of(written, key, common, env)
        found = fitted(written, wish, cluster, version)
        data = _spec(wish, found, version)
        _try_to_render(data)
    except LemnosError as error:
        name = f"models.{key}"
        where = error.where or f"{written.path}:{written.line('models', key)}"
        refused = {**error.as_dict(), "where": where}
        return ImportedModel(key=key, name=name, refused=refused), ""
    notes = (*wish.notes, *found.notes, *unknown_notes(written, key))
    plan = found.plan
    model = ImportedModel(
        key=key,
        name=wish.name,
        file=f"{wish.name}.yaml",
        source=plan.source,
        layout=str(plan.layout),
        gpus=plan.gpus,
        gpu=plan.gpu,
        nodes=plan.nodes,
        context=plan.settings.context,
        notes=notes,
    )
    at = f"{Path(written.path).name}:{written.line('models', key)}"
    description = written.config.models[key].description or ""
    return model, spec_text(data, at, key, description, notes)


def _spec(wish: Wish, found: Fitted, version: str) -> dict[str, Any]:
    """The document, in the order in which a person would write it."""
    plan, spec = found.plan, dict(wish.spec)
    spec["model"] = spec["model"] | {"source": plan.source.removeprefix("file://")}
    nodes = plan.nodes if plan.nodes > 1 else None
    spec["slurm"] = spec["slurm"] | {"nodes": nodes}
    context = max(64, plan.settings.context)
    spec["workload"] = spec["workload"] | {"context": context}
    head = {key: spec.pop(key) for key in ("name", "model", "engine")}
    dumped = plan.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
    # what says nothing is left out of what people wrote; a plan's zeros are figures
    people = without_empty({**head, "engine_version": version, **spec})
    return {**people, "plan": dumped}


def _try_to_render(data: dict[str, Any]) -> None:
    """Raises LemnosError where ``lemnos up`` would refuse the spec."""
    plan = plan_on_gpus(validated(DeploymentSpec, data))
    files = JobFiles(log="engine.log", key_file="key", cache="/cache")
    for index, place in enumerate(places_of(plan)):
        engine_named(plan.engine).jobs(plan, index, place, files)


def _check_names(written: Written) -> None:
    """Two names that become one deployment's cannot both be written. Raises UsageError."""
    first: dict[str, str] = {"lemnos": FOLDER_FILE}
    for key in written.config.models:
        name = name_from(key)
        if name in first:
            raise UsageError(
                f"models.{key}: becomes the deployment '{name}', as {first[name]} does",
                where=f"{written.path}:{written.line('models', key)}",
                fix="give one of them another name",
            )
        first[name] = f"models.{key}"


def _version(
    written: Written, asked: str | None, env: Mapping[str, str]
) -> tuple[str, list[Note]]:
    """(the vLLM that will run, what to say of it)."""
    if asked:
        return str(asked_for(engine_version=asked).engine_version), []
    at = ("paths", "venv_dir")
    venv, _ = path_of(written.config.paths.venv_dir or "", env)
    if venv:
        for path in sorted(Path(venv).glob("lib/python3*/site-packages/vllm-*")):
            if found := re.fullmatch(r"vllm-(\d+(?:\.\d+)+).*\.dist-info", path.name):
                text = f"vLLM {found[1]} is installed there: specs are written for it"
                return found[1], [note(written, "told", text, *at)]
        text = f"no vLLM is seen there from this machine: specs are written for {WRITTEN_FOR}"
        return WRITTEN_FOR, [note(written, "told", f"{text}; --engine-version", *at)]
    text = (
        f"no environment is named: 'lemnos engines install vllm=={WRITTEN_FOR}' makes one, or write "
        "venv: PATH into the specs"
    )
    return WRITTEN_FOR, [note(written, "told", text, *at)]


def _default(written: Written, models: list[ImportedModel]) -> str | None:
    """The deployment of ``active_model``. Raises UsageError where there is no such model."""
    active = written.config.active_model
    if active is None:
        return None
    keys = list(written.config.models)
    if active not in keys:
        raise UsageError(
            f"active_model: there is no model '{active}'",
            where=f"{written.path}:{written.line('active_model')}",
            fix=near(active, keys) or f"there are {', '.join(keys[:20])}",
        )
    return next((m.name for m in models if m.key == active and m.file), None)
