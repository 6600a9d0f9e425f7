"""What Slurm's clients print, as values: JSON of 22.05 to 25.x, and plain text of 20.11 and later. Pure.

Between versions ``job_state`` changed from "RUNNING" to ["RUNNING"], numbers from 7 to
{"set": true, "infinite": false, "number": 7}, and nodes from ``nodes`` to ``sinfo``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from datetime import datetime
from typing import Any

import orjson

from lemnos.errors import LemnosError
from lemnos.launchers.slurm.hostlist import expand
from lemnos.spec.base import Value
from lemnos.spec.rooms import seconds_of

JOB_FIELDS = "JobID State Reason RestartCnt exit_code SubmitTime StartTime EndTime NodeList Comment".split()
"""Of ``squeue --Format``, in the order in which ``jobs_of_plain`` reads them; what people write is last."""
NODE_FORMAT = "%N|%P|%T|%c|%m|%G|%f"
"""Of ``sinfo -N --format``, as ``nodes_of_plain`` reads it."""
_GAP = re.compile(r"[\s,]*")
_DECODE = json.JSONDecoder().raw_decode


class SlurmJob(Value):
    """A job, as the queue has it."""

    id: int
    states: tuple[str, ...]
    """The state, then flags such as COMPLETING."""
    reason: str = ""
    comment: str = ""
    restarts: int = 0
    code: int | None = None
    """Exit code of its script."""
    signal: int | None = None
    """That ended its script."""
    submitted: float = 0.0
    starts_at: float | None = None
    """Epoch seconds; of a pending job when it is expected to start."""
    ends_at: float | None = None
    nodes: tuple[str, ...] = ()

    @property
    def state(self) -> str:
        return self.states[0]


class SlurmNode(Value):
    """A node, as sinfo has it."""

    name: str
    partitions: tuple[str, ...]
    state: str
    """``idle``, ``down*``, ``mixed+drain``: lower case."""
    cpus: int
    memory_mb: int
    gres: str
    features: tuple[str, ...] = ()

    @property
    def usable(self) -> bool:
        """Whether jobs run there, now or when others have ended."""
        gone = ("down", "drain", "fail", "unknown", "future", "inval", "not_resp")
        return not any(word in self.state for word in gone) and "*" not in self.state


class Partition(Value):
    """A partition, as ``scontrol show partition`` has it."""

    name: str
    up: bool = True
    default: bool = False
    max_s: float | None = None
    """The longest time of a job; None: no limit."""


def jobs_of_json(text: str) -> list[SlurmJob]:
    """``squeue --json``. Raises LemnosError for what is no such thing.

    Read job after job: a whole one is 6 KB and more, most of it cores, and many times that as dicts.
    """
    start = re.search(r'"jobs"\s*:\s*\[', text)
    found, at = [], start.end() if start else len(text)
    try:
        while text[at := _GAP.match(text, at).end()] != "]":  # type: ignore[union-attr]
            each, at = _DECODE(text, at)
            found.append(_job(each))
    except (ValueError, LookupError, TypeError, AttributeError):
        raise _strange("squeue", text) from None
    return found


def jobs_of_plain(text: str) -> list[SlurmJob]:
    """Lines of ``JOB_FIELDS`` with a bar after each, and times in epoch seconds."""
    found = []
    for line in text.splitlines():
        parts = line.split("|", len(JOB_FIELDS) - 1)
        if len(parts) < len(JOB_FIELDS) or not parts[0].strip().isdecimal():
            continue  # the rest of somebody's comment over several lines
        values = [part.strip() for part in parts]
        status = int(values[4]) if values[4].isdecimal() else 0
        found.append(
            SlurmJob(
                id=int(values[0]),
                states=(values[1].upper(),),
                reason=values[2].strip("()"),
                restarts=int(values[3]) if values[3].isdecimal() else 0,
                code=status >> 8,
                signal=status & 0x7F or None,
                submitted=_time(values[5]) or 0.0,
                starts_at=_time(values[6]),
                ends_at=_time(values[7]),
                nodes=expand(_none(values[8])),
                comment=_none(values[9].removesuffix("|")),
            )
        )
    return found


def nodes_of_json(text: str) -> list[SlurmNode]:
    """``sinfo --json``: a list of nodes (22.05), or of groups of nodes that are alike (23.02 and later)."""
    found: dict[str, SlurmNode] = {}
    for each in _listed(text, "sinfo", "nodes", "sinfo"):
        for node in _group(each) if "nodes" in each else [_node(each)]:
            known = found.get(node.name)
            if known:
                both = dict.fromkeys((*known.partitions, *node.partitions))
                node = node.model_copy(update={"partitions": tuple(both)})
            found[node.name] = node
    return list(found.values())


def nodes_of_plain(text: str) -> list[SlurmNode]:
    """Lines of ``NODE_FORMAT``: one for each node and partition."""
    found: dict[str, SlurmNode] = {}
    for line in text.splitlines():
        parts = [part.strip() for part in line.split("|")]
        if len(parts) != 7:
            continue
        name, partition, state, cpus, memory, gres, features = parts
        before = found[name].partitions if name in found else ()
        found[name] = SlurmNode(
            name=name,
            partitions=(*before, partition.removesuffix("*")),
            state=state.lower(),
            cpus=_first_number(cpus),
            memory_mb=_first_number(memory),
            gres=_none(gres),
            features=tuple(_none(features).split(",")) if _none(features) else (),
        )
    return list(found.values())


def partitions_of(text: str) -> dict[str, Partition]:
    """``scontrol --oneliner show partition``, by name."""
    found = {}
    for line in text.splitlines():
        values = dict(re.findall(r"(\w+)=(\S*)", line))
        if name := values.get("PartitionName"):
            found[name] = Partition(
                name=name,
                up=values.get("State", "UP") == "UP",
                default=values.get("Default") == "YES",
                max_s=_limit(values.get("MaxTime", "UNLIMITED")),
            )
    return found


def gpus_of(gres: str) -> list[tuple[str | None, int]]:
    """(type, count) of the GPUs in ``gpu:h100:4(S:0-1),gpu:2,shard:8``; None: a type is not told."""
    found = re.finditer(
        r"(?:^|,)(?:gres[/:])?gpu(?::([A-Za-z][^:,()=]*))?[:=](\d+)", gres
    )
    return [(match[1], int(match[2])) for match in found if int(match[2])]


def start_of(said: str) -> float | None:
    """When ``sbatch --test-only`` expects the job to start, epoch seconds; None where it does not say.

    It writes the time without a zone (and does not follow SLURM_TIME_FORMAT): ask it with TZ=UTC0.
    """
    match = re.search(r"to start at (\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)", said)
    return datetime.fromisoformat(match[1] + "Z").timestamp() if match else None


def version_of(said: str) -> tuple[int, int]:
    """``slurm 22.05.8``, ``slurm-wlm 24.11.5`` -> (22, 5), (24, 11); (0, 0) for anything else."""
    match = re.search(r"(\d+)\.(\d+)", said)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def _listed(text: str, program: str, *keys: str) -> Iterable[dict[str, Any]]:
    try:
        document = orjson.loads(text)
        return next(document[key] for key in keys if key in document)
    except (ValueError, TypeError, StopIteration):
        raise _strange(program, text) from None


def _strange(program: str, text: str) -> LemnosError:
    return LemnosError(
        f"{program} --json answered what lemnos cannot read: {text.strip()[:80]!r}"
    )


def _job(each: dict[str, Any]) -> SlurmJob:
    code, signal = _ended(each.get("exit_code"))
    return SlurmJob(
        id=each["job_id"],
        states=tuple(_words(each.get("job_state"))) or ("UNKNOWN",),
        reason=each.get("state_reason") or "",
        comment=_text(each.get("comment")),
        restarts=_number(each.get("restart_cnt")) or 0,
        code=code,
        signal=signal,
        submitted=_number(each.get("submit_time")) or 0,
        starts_at=_number(each.get("start_time")) or None,
        ends_at=_number(each.get("end_time")) or None,
        nodes=expand(each.get("nodes") or ""),
    )


def _ended(value: Any) -> tuple[int | None, int | None]:
    """Exit code and signal: a wait status in 22.05, ``return_code`` and ``signal`` later."""
    if isinstance(value, dict) and "return_code" in value:
        signal = value.get("signal") or {}
        number = signal.get("id", signal.get("signal_id"))
        return _number(value["return_code"]), _number(number) or None
    status = _number(value)
    return (None, None) if status is None else (status >> 8, status & 0x7F or None)


def _node(each: dict[str, Any]) -> SlurmNode:
    """Of 22.05, and of ``scontrol show node --json``."""
    states = [*_words(each.get("state")), *_words(each.get("state_flags"))]
    return SlurmNode(
        name=each["name"],
        partitions=tuple(_words(each.get("partitions"))),
        state="+".join(states).lower(),
        cpus=_number(each.get("cpus")) or 0,
        memory_mb=_number(each.get("real_memory")) or 0,
        gres=each.get("gres") or "",
        features=tuple(_words(each.get("features"), ",")),
    )


def _group(each: dict[str, Any]) -> list[SlurmNode]:
    names = [name for word in each["nodes"]["nodes"] for name in expand(word)]
    one = SlurmNode(
        name="",
        partitions=(each["partition"]["name"],),
        state="+".join(_words(each["node"]["state"])).lower(),
        cpus=each["cpus"]["minimum"],
        memory_mb=each["memory"]["minimum"],
        gres=each["gres"]["total"] or "",
        features=tuple(_words(each["features"]["total"], ",")),
    )
    return [one.model_copy(update={"name": name}) for name in names]


def _words(value: Any, separator: str | None = None) -> list[str]:
    """``["A", "B"]`` of ``"A"``, ``["A", "B"]``, ``"A,B"`` or nothing."""
    if isinstance(value, str):
        return [word for word in value.split(separator) if word]
    return [str(word) for word in value or ()]


def _text(value: Any) -> str:
    """A comment: a string, or its kinds (``{"job": ..., "system": ...}``) in some versions."""
    return value.get("job") or "" if isinstance(value, dict) else value or ""


def _number(value: Any) -> Any:
    if isinstance(value, dict):
        known = value.get("set") and not value.get("infinite")
        return value.get("number") if known else None
    return value


def _time(text: str) -> float | None:
    """Epoch seconds, or a time without a zone where SLURM_TIME_FORMAT is not followed."""
    if text.isdecimal():
        return float(text) or None
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return None  # N/A, Unknown, NONE


def _limit(text: str) -> float | None:
    try:
        return seconds_of(text)
    except ValueError:
        return None  # UNLIMITED, NONE


def _first_number(text: str) -> int:
    """``16``, and ``16+`` of nodes that differ."""
    match = re.match(r"\d+", text)
    return int(match[0]) if match else 0


def _none(text: str) -> str:
    return "" if text in ("(null)", "N/A", "n/a", "None") else text
