"""What a batch file asks for: nodes and GPUs, from its #SBATCH and #PBS lines. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Gpus:
    """GPUs of all nodes together; ``kind`` where the text names it (``h100``)."""

    nodes: int
    per_node: int
    kind: str | None = None

    @property
    def count(self) -> int:
        return self.nodes * self.per_node


_LINE = re.compile(r"^#(SBATCH|PBS)[ \t]+(.*?)(?:[ \t]+#.*)?$", re.MULTILINE)
_GRES = re.compile(
    r"(?:gpu|gres/gpu)(?::(?P<kind>[A-Za-z][\w-]*))?(?::|=)(?P<count>\d+)"
)


def batch_gpus(text: str) -> Gpus | None:
    """The GPUs that ``text`` asks for; None where it does not say, or says it in variables."""
    slurm: dict[str, str] = {}
    for line in _LINE.finditer(text):
        if line[1] == "PBS":
            if found := _pbs(line[2]):
                return found
            continue
        for name, value in re.findall(r"--?([A-Za-z][\w-]*)(?:=|[ \t]+)(\S+)", line[2]):
            slurm[name] = value
    return _slurm(slurm)


def _slurm(asked: dict[str, str]) -> Gpus | None:
    nodes = _number(asked.get("nodes") or asked.get("N") or "1")
    if nodes is None:
        return None
    if "gres" in asked:
        found = _GRES.search(asked["gres"])
        return Gpus(nodes, int(found["count"]), found["kind"]) if found else None
    for name, each_node in (("gpus-per-node", True), ("gpus", False), ("G", False)):
        if name not in asked:
            continue
        kind, _, count = asked[name].rpartition(":")
        number = _number(count)
        if number is None:
            return None
        if each_node:
            return Gpus(nodes, number, kind or None)
        return (
            Gpus(nodes, number // nodes, kind or None) if number % nodes == 0 else None
        )
    if "gpus-per-task" in asked:
        tasks = _number(asked.get("ntasks-per-node", ""))
        number = _number(asked["gpus-per-task"].rpartition(":")[2])
        if tasks and number:
            return Gpus(nodes, tasks * number)
    return None


def _pbs(line: str) -> Gpus | None:
    """``-l select=2:ncpus=64:ngpus=8:gpu_type=H200``, ``-l nodes=2:gpus=4``."""
    found = re.search(r"-l[ \t]*(?:select|nodes)=(\d+)(\S*)", line)
    if not found:
        return None
    count = re.search(r":n?gpus=(\d+)", found[2])
    kind = re.search(r":(?:gpu_type|gpu_model|accelerator_model)=([\w-]+)", found[2])
    return (
        Gpus(int(found[1]), int(count[1]), kind[1] if kind else None) if count else None
    )


def _number(text: str) -> int | None:
    return int(text) if text.isdecimal() and 0 < int(text) < 100_000 else None
