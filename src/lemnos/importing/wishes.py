"""Each model of the old configuration as a deployment without a plan, and what to ask of the planner. Pure."""

from __future__ import annotations

import re
import string
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lemnos.engines.flags.schema import schema_for
from lemnos.engines.vllm import OWNED
from lemnos.errors import UsageError
from lemnos.importing.config import OldModel, Written
from lemnos.importing.notes import Note, gone_keys, note
from lemnos.models.known import known_named
from lemnos.spec.deployment import name_from
from lemnos.spec.rooms import seconds_of

DEFAULT_CONTEXT = 32768
"""The scripts' own ``max_model_len_default``."""
ENDLESS = ("unlimited", "infinite", "-1")
PLACEHOLDER = re.compile(r"YOUR_|<[A-Za-z_ ]+>|/path/to/", re.IGNORECASE)
PORTS = range(1024, 60_001)
"""What ``slurm.port_base`` may be."""


@dataclass(frozen=True)
class Wish:
    """A model as the configuration wants it."""

    key: str
    """Its name there."""
    name: str
    """The deployment's."""
    source: str
    nodes: int
    gpus: int | None
    """Of all nodes; None: not said."""
    quantization: str | None
    ask: dict[str, Any]
    """For ``lemnos.propose``."""
    spec: dict[str, Any]
    """The deployment, without its plan."""
    notes: tuple[Note, ...] = ()


def common_of(
    written: Written, env: Mapping[str, str], flags: Mapping[str, Any]
) -> tuple[dict[str, Any], list[Note]]:
    """(the part of a spec that is the same for all models, notes about those sections).

    ``env``: variables that paths may name. ``flags``: as ``flags_of`` gives them. Raises UsageError where a value cannot be right.
    """
    config = written.config
    slurm, nccl, distributed = config.slurm, config.nccl, config.distributed
    notes: list[Note] = []
    for section in ("slurm", "cache", "paths", "vllm", "distributed", "nccl"):
        notes += gone_keys(written, section)

    def path(section: str, key: str) -> str | None:
        text: str | None = getattr(getattr(config, section), key)
        value, problem = path_of(text or "", env)
        if problem:
            notes.append(note(written, "wrong", problem, section, key))
        return value

    engine_env = {
        "TRITON_CACHE_DIR": path("cache", "triton_cache_dir"),
        "HF_HOME": path("cache", "huggingface_cache"),
        "NCCL_IB_TIMEOUT": None if nccl.ib_timeout is None else str(nccl.ib_timeout),
        "NCCL_DEBUG": nccl.debug,
    }
    memory = slurm.mem_per_gpu
    if memory and memory.isdecimal():  # Slurm's own unit
        memory = f"{memory}M"
    spec = {
        "engine": "vllm",
        "on": "slurm",
        "slurm": {
            "account": slurm.account,
            "partition": slurm.partition,
            "qos": slurm.qos,
            "constraint": slurm.constraint,
            "reservation": slurm.reservation,
            "nodelist": slurm.nodelist,
            "exclude": slurm.exclude,
            "exclusive": slurm.exclusive,
            "time": time_of(written, notes, "slurm", "time_default"),
            "cpus_per_gpu": slurm.cpus_per_task,
            "memory_per_gpu": memory,
            "port_base": _port_base(written, notes),
        },
        "venv": path("paths", "venv_dir"),
        "cache": path("cache", "xdg_cache_home"),
        "interface": nccl.socket_ifname,
        "engine_env": _given(engine_env),
        "engine_args": {key.replace("_", "-"): value for key, value in flags.items()},
        "ready_timeout_s": _whole(distributed.rdzv_timeout),
    }
    for key in flags:
        text = f"is handed to vLLM as --{key.replace('_', '-')}"
        notes.append(note(written, "told", text, "vllm", key))
    if config.vllm.dtype == "auto":
        notes.append(note(written, "gone", "auto is vLLM's default", "vllm", "dtype"))
    if slurm.account is None:
        why = (
            "is not given, and the scripts needed it: Slurm takes your default account"
        )
        notes.append(note(written, "told", why, "slurm", "account"))
    return spec, notes


def wish_of(
    written: Written, key: str, common: Mapping[str, Any], env: Mapping[str, str]
) -> Wish:
    """One model; ``common`` and ``env`` as in ``common_of``. Raises UsageError, with its line, where it cannot be what was meant."""
    config, model = written.config, written.config.models[key]
    notes = gone_keys(written, "models", key)
    source = _source(written, key, model, notes, env)
    nodes = model.nodes or 1
    if model.gpus and model.gpus % nodes:
        raise _bad(
            written,
            f"{model.gpus} GPUs cannot be divided evenly over {nodes} nodes",
            f"gpus counts those of all nodes together: write a multiple of {nodes}",
            *("models", key, "gpus"),
        )
    notes += _contradictions(written, key, model)
    vllm = config.vllm
    context = (
        model.max_model_len
        or vllm.max_model_len_default
        or vllm.max_model_len
        or DEFAULT_CONTEXT
    )
    seqs = _either(model.max_num_seqs, vllm.max_num_seqs)
    dtype = _either(model.dtype, vllm.dtype)
    own = {
        "account": model.account,
        "partition": model.partition,
        "qos": model.qos,
        "time": time_of(written, notes, "models", key, "time"),
        "nodes": nodes if nodes > 1 else None,
    }
    ask = {
        "context": context,
        "max_seqs": seqs,
        "concurrency": seqs,
        "max_batched_tokens": _either(
            model.max_num_batched_tokens, vllm.max_num_batched_tokens
        ),
        "utilization": _either(
            model.gpu_memory_utilization, vllm.gpu_memory_utilization
        ),
        "kv_cache_dtype": _either(model.kv_cache_dtype, vllm.kv_cache_dtype),
        "eager": _either(model.enforce_eager, vllm.enforce_eager) or None,
        "expert": _either(model.enable_expert_parallel, vllm.enable_expert_parallel),
    }
    name = name_from(key)
    if name != key:
        why = f"the deployment is called {name}: names are lower-case letters, digits and '-'"
        notes.append(note(written, "changed", why, "models", key))
    spec = {
        "name": name,
        "model": {"source": source, "served_name": model.name},
        **common,
        "slurm": common["slurm"] | _given(own),
        "engine_args": common["engine_args"]
        | ({} if dtype in (None, "auto") else {"dtype": dtype}),
        "seed": _either(model.seed, vllm.seed),
        "workload": {"context": max(64, context), "concurrency": seqs},
        "endpoint": {"port": model.port},
    }
    return Wish(
        key=key,
        name=name,
        source=source,
        nodes=nodes,
        gpus=model.gpus,
        quantization=model.quantization,
        ask=_given(ask),
        spec=spec,
        notes=tuple(notes),
    )


def flags_of(written: Written, version: str) -> dict[str, Any]:
    """Keys of the section vllm that the scripts did not have, and that are flags of this vLLM."""
    schema = schema_for("vllm", version)
    found = {}
    for key, value in (written.config.vllm.model_extra or {}).items():
        flag = f"--{key.replace('_', '-')}"
        if schema.named(flag) and flag not in OWNED:
            found[key] = value
    return found


def without_empty(data: Mapping[str, Any]) -> dict[str, Any]:
    """``data`` without the keys that say nothing, inside too: as a person would write it."""
    found = {}
    for key, value in data.items():
        if isinstance(value, Mapping):
            value = without_empty(value)
        if value is not None and value is not False and value != {}:
            found[key] = value
    return found


def path_of(text: str, env: Mapping[str, str]) -> tuple[str | None, str]:
    """(the path that a shell would have made of ``text``, what is wrong with it)."""
    if not text:
        return None, ""
    if PLACEHOLDER.search(text):
        return None, f"'{text}' is a placeholder: it is left out, write your own"
    if text == "~" or text.startswith("~/"):
        text = "${HOME}" + text[1:]
    found = string.Template(text).safe_substitute(env)
    if "$" in found:
        return None, (
            f"'{text}' names a variable that is not set here: it is left out, since a spec's "
            "paths are taken as they are"
        )
    if not found.startswith("/"):
        return None, f"'{text}' is no whole path: it is left out, write it from / on"
    return found, ""


def time_of(written: Written, notes: list[Note], *keys: str) -> str | None:
    """A time limit as it was typed. Raises UsageError for what Slurm would not take."""
    text = (written.raw(*keys) or "").strip()
    if text in ("", "~", "null"):
        return None
    if text.lower() in ENDLESS:
        why = "there is no limit to write: the partition's own holds, and jobs are chained"
        notes.append(note(written, "changed", why, *keys))
        return None
    if text.isdecimal():
        why = f"{text} are minutes, as Slurm reads a number alone"
        notes.append(note(written, "told", why, *keys))
        text = f"{text}m"
    try:
        seconds_of(text)
    except ValueError as error:
        raise _bad(written, str(error), "", *keys) from None
    return text


def tokens_of(text: str) -> int | None:
    """``128K``, ``10M``, ``32768`` in tokens: powers of two are of 1024. None: no such number."""
    match = re.fullmatch(r"(\d{1,9})(?:\.0)?\s*([km]?)(?:\s*tokens)?", text.lower())
    if not match:
        return None
    number = int(match[1])
    unit = 1024 if number & (number - 1) == 0 else 1000
    power = ("", "k", "m").index(match[2])
    return number * int(unit**power)


def _source(
    written: Written,
    key: str,
    model: OldModel,
    notes: list[Note],
    env: Mapping[str, str],
) -> str:
    """The model's source, in the form that specs have."""
    at = ("models", key)
    text = model.huggingface_id
    if not text:
        known = known_named(model.name or key) or known_named(key)
        if known is None:
            fix = "write huggingface_id: org/name, or a directory with the model"
            raise _bad(written, f"the model '{key}' has no huggingface_id", fix, *at)
        why = f"has no huggingface_id: taken to be {known.repository}"
        notes.append(note(written, "changed", why, *at))
        return known.source
    if text.startswith(("$", "~")):
        path, problem = path_of(text, env)
        if path is None:
            raise _bad(written, problem, "", *at, "huggingface_id")
        return path
    if "://" in text or text.startswith(("/", "./")):
        return text
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", text):
        known = known_named(text)
        if known is None:
            fix = "write it as org/name, or a directory that begins with /"
            raise _bad(
                written, f"'{text}' is no model of the hub", fix, *at, "huggingface_id"
            )
        return known.source
    return f"hf://{text}"


def _port_base(written: Written, notes: list[Note]) -> int | None:
    base = written.config.distributed.master_port_base
    if base is None or base in PORTS:
        return base
    why = f"{base} is no port that jobs may take ({PORTS.start} to {PORTS.stop - 1}): free ones are taken"
    notes.append(note(written, "wrong", why, "distributed", "master_port_base"))
    return None


def _contradictions(written: Written, key: str, model: OldModel) -> list[Note]:
    """Values that do not go together, whatever the hardware."""
    at = ("models", key)
    found = []
    script = model.job_script or ""
    for word, value in (("node", model.nodes or 1), ("gpu", model.gpus)):
        said = re.search(rf"(\d+)_?{word}s?(?![a-z])", script.lower())
        if said and value and int(said[1]) != value:
            why = f"{script} is for {said[1]} {word}s, and {word}s: {value} is written: that is taken"
            found.append(note(written, "wrong", why, *at, "job_script"))
    claimed = tokens_of(model.context) if model.context else None
    if model.context and claimed is None:
        why = f"'{model.context}' is no number of tokens, such as 128K"
        found.append(note(written, "wrong", why, *at, "context"))
    if claimed and model.max_model_len and model.max_model_len > claimed:
        why = (
            f"max_model_len {model.max_model_len} is more than context {model.context}"
        )
        found.append(note(written, "wrong", why, *at, "max_model_len"))
    same = [
        other
        for other, its in written.config.models.items()
        if other != key and model.port and its.port == model.port
    ]
    if same:
        why = f"{model.port} is also {' and '.join(same)}'s: only one of them can be up on a host"
        found.append(note(written, "told", why, *at, "port"))
    return found


def _bad(written: Written, what: str, fix: str, *keys: str) -> UsageError:
    where = f"{written.path}:{written.line(*keys)}"
    return UsageError(f"{'.'.join(keys)}: {what}", where=where, fix=fix)


def _whole(number: float | None) -> float | int | None:
    """1200 rather than 1200.0."""
    return int(number) if number and number.is_integer() else number


def _either(first: Any, second: Any) -> Any:
    return second if first is None else first


def _given(data: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in data.items() if value is not None}
