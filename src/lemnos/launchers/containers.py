"""A job's command within a container: Docker, Podman, Apptainer, or Slurm's Pyxis. Pure.

Variables, keys among them, go in by their names alone: their values are in the environment of whatever
starts the container, never in an argv. What must be looked up as the job starts (the user's numbers,
the GPUs that a scheduler gave) is looked up by a few lines of sh around the runtime.

Sources: docs.docker.com/reference/cli/docker/container/run, docs.podman.io podman-run(1), NVIDIA Container
Toolkit (CDI; ``--gpus``), apptainer-exec(1), github.com/NVIDIA/pyxis (wiki, Usage).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from typing import Any

from lemnos.errors import UsageError
from lemnos.spec.plan import Job
from lemnos.spec.rooms import ContainerSpec, bare

Mount = tuple[str, str, bool]
"""Source, target, whether only for reading."""
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ALWAYS = ("LEMNOS_JOB", "USER", "LOGNAME")
"""Passed on, too: the mark, by which a job's processes are found wherever they are; and who we are,
since the images' own /etc/passwd does not know us (torch asks)."""
_MODEL_FLAGS = ("serve", "--model", "--model-path", "--tokenizer", "--tokenizer-path")
"""What engines are given a model's directory after."""
_OWNED = {
    "name": "lemnos finds the container by it",
    "entrypoint": "the engine's command is it",
    "detach": "the launcher watches the container",
    "rm": "nothing is left behind",
    "env": "use engine_env",
    "mount": "use container.mounts",
    "volume": "use container.mounts",
    "bind": "use container.mounts",
    "container-mounts": "use container.mounts",
    "container-image": "use container.image",
    "container-env": "use engine_env",
    "gpus": "the plan and the launcher decide them",
    "nv": "the plan and the launcher decide them",
}

# ``$0 NAME OPTIONS... IMAGE ARGUMENTS...``. What an earlier start left is removed first. The user is the caller,
# with all groups: models are often readable for a group only.
_USER = """for group in $(id -G); do set -- --group-add "$group" "$@"; done
set -- --user "$(id -u):$(id -g)" "$@"
"""
# A scheduler's variables name the node's GPUs; CUDA_VISIBLE_DEVICES may count within what the job was given.
_GIVEN = "devices=${SLURM_STEP_GPUS:-${SLURM_JOB_GPUS:-${CUDA_VISIBLE_DEVICES-all}}}\n"
_DOCKER_GPUS = """case $devices in
  '') ;;
  all) set -- --gpus all "$@" ;;
  *) set -- --gpus "\\"device=$devices\\"" "$@" ;;
esac
"""
_PODMAN_GPUS = """for device in $(echo "$devices" | tr , ' '); do
  set -- --device "nvidia.com/gpu=$device" "$@"
done
"""
_RUN = """exec "$0" run --name "$name" "$@"
"""
_BEGIN = """name=$1; shift
"$0" rm --force "$name" >/dev/null 2>&1
"""
# ``$0 "NAMES" OPTIONS... IMAGE ARGUMENTS...``. Apptainer takes variables for the container under a prefix.
_APPTAINER = """for name in $1; do
  eval "[ -z \\"\\${$name+x}\\" ] || export \\"APPTAINERENV_$name=\\$$name\\""
done
shift
exec "$0" exec "$@"
"""


def inside(
    job: Job,
    container: ContainerSpec,
    *,
    gpus: Sequence[str] | bool,
    writable: Iterable[str] = (),
    readable: Iterable[str] = (),
) -> Job:
    """``job`` with its command within ``container``.

    ``gpus``: indices or UUIDs; True for those that the scheduler gave (or all); False or none
    for no GPU. ``writable`` and ``readable``: directories and files that it must see, under their own
    paths; the model that the command names and the spec's mounts are added. The last writable
    directory is the engine's home. Raises UsageError with the key to change.
    """
    _check(container)
    writable = [path for path in writable if path]
    home = writable[-1] if writable else ""
    mounts = _mounts(job, container, writable, readable)
    match container.runtime:
        case "docker" | "podman":
            argv = _oci(job, container, gpus, mounts, home)
        case "apptainer":
            argv = _apptainer(job, container, gpus, mounts, home)
        case "pyxis":
            raise UsageError(
                "pyxis is a part of Slurm: only its jobs have such containers",
                where="container.runtime",
                fix="use docker, podman or apptainer here, or on: slurm",
            )
        case "cluster":
            raise UsageError(
                "only Kubernetes has a runtime of its own",
                where="container.runtime",
                fix="use docker, podman or apptainer",
            )
    command = job.command.model_copy(update={"argv": argv})
    return job.model_copy(update={"command": command})


def step_flags(
    job: Job,
    container: ContainerSpec,
    *,
    writable: Iterable[str] = (),
    readable: Iterable[str] = (),
) -> tuple[str, ...]:
    """The flags with which ``srun`` starts ``job`` in a Pyxis container; its command stays as it is."""
    _check(container)
    mounts = _mounts(job, container, writable, readable)
    pairs = [f"{a}:{b}{':ro' if read_only else ''}" for a, b, read_only in mounts]
    flags = {
        "container-image": _enroot_image(container.image),
        "container-mounts": ",".join(pairs),
        # the environment goes in by itself, but what the image sets would win
        "container-env": ",".join(_names(job)),
        "no-container-mount-home": True,
        "no-container-entrypoint": True,
    }
    return tuple(bare(flags | _args(container)))


def name_of(job: Job) -> str:
    """The container's name: Docker's and Podman's containers are no children of ours."""
    where = hashlib.sha256(job.log.encode()).hexdigest()[:8]  # tells homes apart
    return f"lemnos-{job.id.replace('/', '-')}-{where}"


def removal(job: Job, container: ContainerSpec) -> tuple[str, ...]:
    """The command that ends and removes the job's container, whoever started it; () where the
    container's processes are the launcher's own children."""
    if container.runtime in ("docker", "podman"):
        return (container.runtime, "rm", "--force", name_of(job))
    return ()


def _oci(
    job: Job,
    container: ContainerSpec,
    gpus: Sequence[str] | bool,
    mounts: list[Mount],
    home: str,
) -> tuple[str, ...]:
    """Docker or Podman."""
    runtime = container.runtime
    script, chosen = _BEGIN, []
    if runtime == "docker":
        script += _USER
    if gpus is True:
        script += _GIVEN + (_DOCKER_GPUS if runtime == "docker" else _PODMAN_GPUS)
    elif gpus and runtime == "docker":
        chosen = ["--gpus", f'"device={",".join(gpus)}"']  # a field of CSV, so quoted
    elif gpus:
        chosen = [w for gpu in gpus for w in ("--device", f"nvidia.com/gpu={gpu}")]
    args = _args(container)
    defaults: dict[str, Any] = {
        "rm": True,
        "init": True,  # passes signals on, and buries what the engine leaves
        "pull": "never",  # an image is fetched when somebody wants it, not as an engine starts
        "network": "host",
        "log-driver": "none",  # the log is ours
    }
    if "shm-size" not in args:
        defaults["ipc"] = "host"  # /dev/shm for tensor parallelism; theirs has 64 MB
    if runtime == "podman":
        # Rootless: root inside is the caller outside, whose limits hold.
        defaults |= {"ulimit": "host", "security-opt": "label=disable"}
    else:
        defaults |= {"ulimit": "memlock=-1"}  # RDMA pins memory
    words = [*bare(defaults | args), *chosen]
    for source, target, read_only in mounts:
        words += ["--mount", f"type=bind,source={source},target={target}" + (",readonly" if read_only else "")]  # fmt: skip
    if home:
        words += ["--env", f"HOME={home}"]
    visible = (
        "CUDA_VISIBLE_DEVICES",
    )  # counts within the container, where they begin at 0
    for name in _names(job):
        words += ["--env", name] if name not in visible else []
    program, *rest = job.command.argv
    words += [f"--entrypoint={program}", container.image, *rest]
    return ("sh", "-c", script + _RUN, runtime, name_of(job), *words)


def _apptainer(
    job: Job,
    container: ContainerSpec,
    gpus: Sequence[str] | bool,
    mounts: list[Mount],
    home: str,
) -> tuple[str, ...]:
    if "://" in container.image:
        raise UsageError(
            f"'{container.image}' would be fetched and converted at every start",
            where="container.image",
            fix=f"do it once: apptainer pull engine.sif {container.image}; then image: /path/engine.sif",
        )
    defaults: dict[str, Any] = {"cleanenv": True, "nv": bool(gpus)}
    # The user's own home would bring ~/.local's Python packages along.
    defaults |= {"home": home} if home else {"no-home": True}
    words = bare(defaults | _args(container))
    for source, target, read_only in mounts:
        words += ["--bind", f"{source}:{target}" + (":ro" if read_only else "")]
    names = [*_names(job)]
    if gpus:  # all of the node's are there: which are ours is told as outside
        names += [n for n in ("CUDA_VISIBLE_DEVICES",) if n not in names]
    words += [container.image, *job.command.argv]
    return ("sh", "-c", _APPTAINER, "apptainer", " ".join(names), *words)


def _mounts(
    job: Job, container: ContainerSpec, writable: Iterable[str], readable: Iterable[str]
) -> list[Mount]:
    """Source, target and whether only for reading; each target once, the spec's own first."""
    own = []
    for text in container.mounts:
        source, _, rest = text.partition(":")
        target, _, mode = rest.partition(":")
        if mode not in ("", "ro", "rw"):
            raise UsageError(
                f"'{text}' is no mount",
                where="container.mounts",
                fix="/data:/models:ro",
            )
        own.append((source, target or source, mode == "ro"))
    ours = [(path, path, False) for path in writable if path]
    there = [path for _, path, _ in own + ours]
    wanted = [path for path in (*readable, *_models(job)) if path]
    ours += [(path, path, True) for path in wanted if not _below(path, there)]
    found: dict[str, Mount] = {}
    for mount in [*own, *ours]:
        for path in mount[:2]:
            if not path.startswith("/") or re.search(r'[,:"\x00-\x1f]', path):
                raise UsageError(
                    f"'{path}' cannot be mounted: paths must be absolute, without commas, colons and quotes",
                    where="container.mounts",
                    fix="move it, or mount a directory above it by another path",
                )
        found.setdefault(mount[1], mount)
    return list(found.values())


def _models(job: Job) -> list[str]:
    argv = job.command.argv
    after = [b for a, b in zip(argv, argv[1:], strict=False) if a in _MODEL_FLAGS]
    return [path for path in after if path.startswith("/")]


def _below(path: str, directories: list[str]) -> bool:
    return any(f"{path}/".startswith(f"{d.rstrip('/')}/") for d in directories)


def _names(job: Job) -> list[str]:
    """The variables that the container is given."""
    names = [*job.command.env, *(s.env for s in job.command.secrets if s.env)]
    for name in names:
        if not _NAME.fullmatch(name):
            raise UsageError(f"'{name}' is no variable's name", where="engine_env")
    return [*dict.fromkeys([*names, *_ALWAYS])]


def _args(container: ContainerSpec) -> dict[str, Any]:
    return {
        key.lstrip("-").replace("_", "-"): value
        for key, value in container.args.items()
    }


def _check(container: ContainerSpec) -> None:
    for key in _args(container):
        if why := _OWNED.get(key):
            raise UsageError(f"'{key}' is lemnos' own: {why}", where="container.args")
    if container.image.startswith("-"):
        raise UsageError(f"'{container.image}' is no image", where="container.image")


def _enroot_image(image: str) -> str:
    """``nvcr.io/nvidia/x`` as Pyxis writes it: ``nvcr.io#nvidia/x``. Paths stay."""
    registry, slash, rest = image.partition("/")
    is_host = "." in registry or ":" in registry or registry == "localhost"
    if not slash or not registry or "#" in image or not is_host or registry == ".":
        return image
    return f"{registry}#{rest}"
