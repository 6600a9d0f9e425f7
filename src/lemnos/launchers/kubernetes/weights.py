"""How the model's files come to pods: a claim that a Job fills, a directory of each node, or neither. Pure.

A marker below the volume, named after the source, says that a model is whole: a Job writes it last,
and pods wait for it.
"""

from __future__ import annotations

import copy
import hashlib
import math
from importlib import resources

from lemnos.errors import UsageError
from lemnos.launchers.kubernetes.argv import literal
from lemnos.launchers.kubernetes.names import (
    ROLE,
    NodeFacts,
    checked,
    declared,
    labels,
)
from lemnos.launchers.kubernetes.pods import (
    FS_GROUP,
    Object,
    confined,
    gpus_of,
    image_of,
    placed,
)
from lemnos.launchers.site import Site
from lemnos.models.sources import Source, parse_source
from lemnos.spec.clusters import MODELS
from lemnos.spec.facts import LocalModel
from lemnos.spec.unit import Served, Unit

SPARE = 1.1
"""Of a claim's size over the model's: file systems take their part."""
KEPT_S = 24 * 3600
"""How long a pull Job that is done can be looked at."""


def with_weights(template: Object, unit: Unit, site: Site) -> Object:
    """A pod's template with the model's volume; the first container sees it, for reading only, and starts
    when the model is whole."""
    served = unit.served
    if served is None:
        return template
    found = copy.deepcopy(template)
    spec = found["spec"]
    spec["volumes"].append(_volume(unit, site))
    main = [spec["mainContainer"]] if "mainContainer" in spec else []
    for each in [*spec.get("containers", []), *main]:
        mount = {"name": "models", "mountPath": MODELS, "readOnly": True}
        each["volumeMounts"].append(mount)
    weights = site.spec.kubernetes.weights
    if weights.path:
        return found
    first = _puller(unit, site) if weights.host_path else _waiter(unit, site)
    found["spec"] = {"initContainers": [first]} | spec
    return found


def claim(unit: Unit, site: Site) -> list[Object]:
    """The claim that lemnos makes, where the spec names no volume. It outlives the deployment: models
    are large. Raises UsageError where nobody knows how large."""
    weights = site.spec.kubernetes.weights
    served = unit.served
    if served is None or weights.claim or weights.host_path:
        return []
    if weights.path:
        raise UsageError(
            f"'{weights.path}' is below a volume, and none is named",
            where="kubernetes.weights.path",
            fix="give kubernetes.weights.claim or host_path too",
        )
    size = weights.size or _size(served)
    spec: Object = {
        "accessModes": [weights.access],
        "resources": {"requests": {"storage": size}},
    }
    if weights.storage_class:
        spec["storageClassName"] = weights.storage_class
    return [declared("v1", "PersistentVolumeClaim", claim_name(unit, site), site, spec)]


def pull_job(unit: Unit, site: Site, nodes: NodeFacts) -> list[Object]:
    """The Job that fills a claim; none where the model is there already, or nodes pull themselves."""
    weights = site.spec.kubernetes.weights
    if unit.served is None or weights.host_path or weights.path:
        return []
    pod: Object = {"automountServiceAccountToken": False}
    # Where the replicas go: the volume may be bound to a zone, or a node.
    spec_ = site.spec.kubernetes
    pod |= placed(spec_, nodes if gpus_of(unit, spec_) else NodeFacts())
    pod["securityContext"] = {
        "fsGroup": FS_GROUP,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    pod["restartPolicy"] = "OnFailure"
    pod["containers"] = [_puller(unit, site)]
    pod["volumes"] = [_volume(unit, site)]
    marked = labels(site) | {ROLE: "pull"}
    spec = {
        "backoffLimit": 6,
        "ttlSecondsAfterFinished": KEPT_S,
        "template": {"metadata": {"labels": marked}, "spec": pod},
    }
    return [declared("batch/v1", "Job", job_name(unit, site, pod), site, spec)]


def claim_name(unit: Unit, site: Site) -> str:
    """The claim with the model: the spec's, or one of this deployment and model."""
    given = site.spec.kubernetes.weights.claim
    if given:
        return given
    return _named(site, "model", _digest(unit), "PersistentVolumeClaim")


def job_name(unit: Unit, site: Site, pod: Object) -> str:
    """A Job cannot be changed: another pod is another Job."""
    return _named(site, "pull", repr((_digest(unit), pod)), "Job")


def _named(site: Site, what: str, of: str, kind: str) -> str:
    """``chat-model-6c59b4``; of long names the beginning, and a digest of all."""
    told = hashlib.sha256(f"{site.deployment} {of}".encode()).hexdigest()[:6]
    return checked(f"{site.deployment[:48].rstrip('-')}-{what}-{told}", kind)


def marker(unit: Unit) -> str:
    """The file that says that the model is whole."""
    return f"{MODELS}/.lemnos/{_digest(unit)}"


def _digest(unit: Unit) -> str:
    assert unit.served is not None
    model = unit.served.model
    told = f"{model.source} {model.revision} {model.path}"
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def _size(served: Served) -> str:
    if not served.model.bytes:
        raise UsageError(
            f"how large {served.model.name} is is not known",
            where="kubernetes.weights.size",
            fix="give it: 500Gi",
        )
    return f"{math.ceil(served.model.bytes * SPARE / 2**30)}Gi"


def _volume(unit: Unit, site: Site) -> Object:
    weights = site.spec.kubernetes.weights
    if weights.host_path:
        kind = "Directory" if weights.path else "DirectoryOrCreate"
        at = {"path": weights.host_path, "type": kind}
        return {"name": "models", "hostPath": at}
    held = {"claimName": claim_name(unit, site)}
    return {"name": "models", "persistentVolumeClaim": held}


def _waiter(unit: Unit, site: Site) -> Object:
    """Says what a pod waits for, until the marker is there. The first process of a container ends by
    SIGTERM only where it says so."""
    wait = (
        "trap 'exit 143' TERM; "
        'until [ -e "$MARKER" ]; do echo "waits for the model: the Job that pulls it has not '
        'finished"; sleep 10 & wait $!; done'
    )
    return {
        "name": "model",
        "image": image_of(unit, site),
        "command": ["sh", "-c", wait],
        "env": [{"name": "MARKER", "value": literal(marker(unit))}],
        "resources": {
            "requests": {"cpu": "10m", "memory": "16Mi"},
            "limits": {"memory": "64Mi"},
        },
        "securityContext": confined(site.spec.kubernetes),
        "volumeMounts": [{"name": "models", "mountPath": MODELS, "readOnly": True}],
    }


def _puller(unit: Unit, site: Site) -> Object:
    """Pulls the model unless it is whole: huggingface_hub of the engine's image, or lemnos' own pull
    where the image has lemnos. Raises UsageError for sources that an engine's image cannot pull."""
    served = unit.served
    assert served is not None
    model = served.model
    weights = site.spec.kubernetes.weights
    env = {"MARKER": marker(unit)}
    if served.engine == "llamacpp":
        pull = '{ mkdir -p "${MARKER%/*}" && python3 -m lemnos models pull "$@" && : > "$MARKER"; }'
        pinned = ["--revision", model.revision or ""] if _is_unpinned(model) else []
        words = [literal(word) for word in (model.source, *pinned)]
        command = ["sh", "-c", f'[ -e "$MARKER" ] || {pull}', "sh", *words]
        env |= {"LEMNOS_MODELS": MODELS, "LEMNOS_HOME": "/tmp/lemnos"}
    else:
        source = _hub(model.source)
        text = resources.files(__package__).joinpath("pull.py").read_text()
        command = ["python3", "-c", literal(text)]
        env |= {"REPO": source.name, "TARGET": model.path}
        env |= {"REVISION": model.revision or source.revision or "main"}
        env |= {"HF_HOME": "/tmp/huggingface"}
    variables: list[Object] = [{"name": k, "value": literal(v)} for k, v in env.items()]
    if weights.token_secret:
        key = {"name": weights.token_secret, "key": "token"}
        variables.append({"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": key}})
    return {
        "name": "model",
        "image": image_of(unit, site),
        "command": command,
        "env": variables,
        "resources": {"requests": {"cpu": "1", "memory": "4Gi"}, "limits": {"memory": "16Gi"}},
        "securityContext": confined(site.spec.kubernetes),
        "volumeMounts": [{"name": "models", "mountPath": MODELS}],
    }  # fmt: skip


def _is_unpinned(model: LocalModel) -> bool:
    """Whether the source alone would pull what the hub has by then."""
    source = parse_source(model.source)
    return bool(model.revision) and source.kind != "pypi" and not source.revision


def _hub(text: str) -> Source:
    source = parse_source(text)
    if source.kind == "hf":
        return source
    raise UsageError(
        f"the engine's image cannot pull {text}",
        where="model",
        fix="put it on a volume, and give kubernetes.weights.path with claim or host_path",
    )
