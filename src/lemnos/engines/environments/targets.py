"""Machines as targets of an installation: this one, and hosts over SSH."""

from __future__ import annotations

import contextlib
import platform
import secrets
import shlex
import subprocess
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.version import Version

from lemnos.engines.environments import machine, sharing
from lemnos.engines.environments.builds import Target
from lemnos.engines.environments.work import Say, run
from lemnos.errors import LemnosError
from lemnos.hardware import probe
from lemnos.hardware.remote import RemoteScript
from lemnos.spec.cluster import Node
from lemnos.transport.ssh import Ssh

FACTS_S = 120
UV_OLDEST = Version("0.9.0")
"""The oldest that ``venv --relocatable`` and ``pip compile --overrides`` were tried with."""
GIB = 1024**3


@dataclass(frozen=True)
class Machine:
    """A target, where its environments are, and how it is reached (None: it is this machine)."""

    target: Target
    root: str
    uvs: tuple[tuple[str, str], ...]
    """(version, path) of each uv that was found there."""
    ssh: Ssh | None = None


def here() -> Machine:
    """This machine."""
    node = probe.probe_here(note=_quiet).nodes[0]
    return _machine(machine.facts(), node, None)


def there(hosts: Sequence[Ssh], say: Say) -> list[Machine]:
    """The hosts. Raises LemnosError for the first that cannot be read."""
    cluster = probe.probe_hosts(hosts, measure_network=False, note=say)
    for node in cluster.nodes:
        if node.architecture is None:
            raise LemnosError("; ".join(node.unknown), where=node.name)
    with ThreadPoolExecutor(probe.AT_ONCE) as pool:
        found = list(pool.map(_facts, hosts))
    return [
        _machine(facts, node, host)
        for facts, node, host in zip(found, cluster.nodes, hosts, strict=True)
    ]


def alike(machines: Sequence[Machine]) -> list[list[Machine]]:
    """Hosts in lists of those that share their environments; each is asked what it sees.

    Raises LemnosError for one that cannot write there.
    """
    tokens = {m.target.name: f".host.{secrets.token_hex(8)}" for m in machines}
    names = {token: name for name, token in tokens.items()}
    with ThreadPoolExecutor(probe.AT_ONCE) as pool:
        scripts = dict(zip(tokens, pool.map(_Script, machines), strict=True))
        try:
            for name, why in pool.map(
                lambda n: (n, scripts[n].ask("leave", token=tokens[n])), tokens
            ):
                if why:
                    fix = "set LEMNOS_ENGINES there to a directory of yours"
                    raise LemnosError(why, where=name, fix=fix)
            answers = pool.map(
                lambda s: s.ask("seen", tokens=list(names)), scripts.values()
            )
            seen = {
                n: [names[t] for t in a] for n, a in zip(tokens, answers, strict=True)
            }
        finally:
            for name, script in scripts.items():
                with contextlib.suppress(LemnosError):
                    script.ask("take away", token=tokens[name])
                script.close()
    by_name = {m.target.name: m for m in machines}
    return [[by_name[name] for name in group] for group in sharing.groups(seen)]


def uv_here() -> str:
    """This machine's uv: the one that lemnos depends on."""
    from uv import find_uv_bin

    return find_uv_bin()


def uv_on(found: Machine, say: Say, bundled: Path | None = None) -> str:
    """uv on a machine: its own if that is new enough, else a copy of the ``bundled`` one or of
    ours. Raises LemnosError."""
    if found.ssh is None:
        return uv_here()
    for version, path in found.uvs:
        if Version(version) >= UV_OLDEST:
            return path
    version = run([uv_here(), "--version"], "say its version").split()[1]
    base = found.root.rpartition("/")[0]
    target = f"{base}/tools/uv-{version}-{found.target.architecture}"
    say(f"{found.target.name}: copying uv {version} to {target}")
    with tempfile.TemporaryDirectory() as work:
        uv = bundled or uv_for(found.target.architecture, Path(work))
        send(found.ssh, uv, target, mode="755")
    return target


def uv_for(architecture: str, work: Path) -> Path:
    """uv's program for an architecture: this machine's, or out of the wheel for it."""
    if architecture == platform.machine():
        return Path(uv_here())
    version = run([uv_here(), "--version"], "say its version").split()[1]
    command = [
        uv_here(),
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--target",
        str(work),
    ]
    command += [
        "--only-binary",
        ":all:",
        "--python-platform",
        f"{architecture}-manylinux_2_28",
    ]
    run([*command, f"uv=={version}"], f"fetch uv for {architecture}")
    return work / "bin" / "uv"


def python_on(found: Machine, uv: str, version: str) -> str:
    """A Python there that can run ``work.py``. Raises LemnosError."""
    assert found.ssh
    try:
        return found.ssh.output(uv, "python", "find", "--no-project", ">=3.9").strip()
    except LemnosError:
        found.ssh.output(uv, "python", "install", "--quiet", version)
        return found.ssh.output(uv, "python", "find", "--no-project", version).strip()


def send(host: Ssh, local: Path, path: str, *, mode: str = "644") -> None:
    """A file to ``path`` there, which gets its name when it is whole."""
    part = shlex.quote(f"{path}.part.{secrets.token_hex(4)}")
    parent = shlex.quote(path.rpartition("/")[0])
    with local.open("rb") as data:
        host.shell(
            f"mkdir -p {parent} && cat > {part} && chmod {mode} {part} && "
            f"mv {part} {shlex.quote(path)}",
            stdin=data,
        )


def send_directory(host: Ssh, local: Path, path: str) -> None:
    """A directory's files to ``path`` there, through tar."""
    quoted = shlex.quote(path)
    with subprocess.Popen(
        ["tar", "-C", str(local), "-chf", "-", "."], stdout=subprocess.PIPE
    ) as tar:
        host.shell(f"mkdir -p {quoted} && tar -C {quoted} -xf -", stdin=tar.stdout)


class _Script:
    """``machine.py`` on a host."""

    def __init__(self, found: Machine) -> None:
        assert found.ssh
        self._script = RemoteScript(found.ssh, machine, FACTS_S)
        self._script.answer(FACTS_S)  # to the first line, which asks for nothing

    def ask(self, do: str, **request: Any) -> Any:
        return self._script.ask(FACTS_S, do=do, **request)

    def close(self) -> None:
        self._script.close()


def _facts(host: Ssh) -> dict[str, Any]:
    with RemoteScript(host, machine, FACTS_S, do="facts") as script:
        answer: dict[str, Any] = script.answer(FACTS_S)
        return answer


def _machine(facts: dict[str, Any], node: Node, ssh: Ssh | None) -> Machine:
    target = Target(
        name=node.name,
        architecture=facts["architecture"],
        glibc=facts["glibc"],
        driver=node.driver,
        gpus=len(node.gpus),
        pythons=tuple(facts["pythons"]),
        free_gib=round(facts["free"] / GIB, 1) if facts["free"] is not None else None,
    )
    uvs = tuple((version, path) for version, path in facts["uvs"])
    return Machine(target, facts["root"], uvs, ssh)


def _quiet(_: str) -> None:
    """For probes whose progress is of no interest."""
