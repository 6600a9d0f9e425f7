"""A real Slurm: ``login`` with slurmctld, and nodes ``n1``, ``n2`` ... with GPUs that are not there.

Debian 12's 22.05 on this machine's own system, or the one of another root (slurm24.py).
Partitions: ``gpu`` (default), ``short`` (one minute at most), ``down`` (takes jobs, runs none),
``cheap`` (requeued when ``urgent`` wants its nodes). Nodes have the features ``h100`` and
``rack1`` (n1) or ``rack2`` (the others).
"""

from __future__ import annotations

import os
import shlex
import shutil
import stat
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from string import Template

import pytest

from tests.testbeds.cgroups import FREEZER
from tests.testbeds.hosts import HERE, SYSTEM, Hosts, environment, hosts
from tests.testbeds.hosts import why_not as no_hosts
from tests.waiting import until

CLIENTS = (
    "sbatch",
    "srun",
    "salloc",
    "squeue",
    "scancel",
    "scontrol",
    "sinfo",
    "sacct",
)
MUNGED = (
    "mkdir -p /run/munge && exec munged --force --key-file={key} --seed-file=/run/munge/seed"
    " --pid-file=/run/munge/pid --log-file=/run/munge/log"
)
ACCOUNTING = (
    "AccountingStorageType=accounting_storage/slurmdbd",
    "AccountingStorageHost=login",
    "AccountingStorageEnforce=associations,limits,qos",
    "AccountingStorageTRES=gres/gpu",
    "JobAcctGatherType=jobacct_gather/linux",
)
SLURMDBD = """
AuthType=auth/munge
DbdHost=login
SlurmUser=root
LogFile={directory}/log/slurmdbd
PidFile=/run/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=accounting
"""


@dataclass
class Slurm:
    """A running cluster. ``proctrack`` says how Slurm finds a job's processes here: ``cgroup``
    finds all, ``linuxproc`` loses those that left their session."""

    hosts: Hosts
    nodes: list[str]
    proctrack: str

    @property
    def directory(self) -> Path:
        """The bed's files; logs are under ``log``."""
        return self.hosts.directory

    @property
    def bin(self) -> Path:
        """For the front of PATH: Slurm's clients, run on ``login`` from anywhere here."""
        return self.directory / "bin"

    @property
    def ssh_config(self) -> Path:
        """For ``ssh -F`` on the bed's hosts, which use it anyway."""
        return self.hosts.ssh_config

    def at(self, host: str) -> list[str]:
        """The words before a command that is to run on ``host``."""
        return self.hosts.at(host)

    def start(
        self, host: str, *command: str, env: Mapping[str, str] | None = None
    ) -> subprocess.Popen[str]:
        """The command on ``host``, with pipes."""
        return self.hosts.start(host, *command, env=env)

    def run(
        self,
        host: str,
        *command: str,
        code: int = 0,
        env: Mapping[str, str] | None = None,
    ) -> str:
        """What the command printed on ``host``; it must leave with ``code``."""
        return self.hosts.run(host, *command, code=code, env=env)

    def submit(self, *words: str) -> str:
        """``sbatch WORDS`` on ``login``: the job's number. Its output is nobody's, unless they say whose."""
        quiet = ("--parsable", "--output=/dev/null")
        return self.run("login", "sbatch", *quiet, *words).strip()

    def state(self, job: str) -> str:
        """The job's state, as RUNNING."""
        words = ("squeue", "--noheader", "--states=all", "--format=%T", f"--jobs={job}")
        return self.run("login", *words).strip()

    def node_state(self, node: str) -> str:
        """The node's state, as ``idle``, ``down*``."""
        return self.run("login", "sinfo", "-h", "-N", "-n", node, "-p", "gpu", "-o", "%t").strip()  # fmt: skip

    def kill_node(self, host: str) -> None:
        """Cut its power: slurmd and all that runs there dies at once."""
        self.hosts.kill(host)

    def revive_node(self, host: str) -> None:
        """Switch it on again, and wait until it runs jobs (``login``: until it answers)."""
        self.hosts.boot(host)
        self.wait([host] if host in self.nodes else [])

    def reserve(self, name: str, nodes: str, *words: str, minutes: int = 60) -> None:
        """Reserve nodes from now on, for root."""
        self.run("login", "scontrol", "create", "reservation", f"reservationname={name}",
                 f"nodes={nodes}", "starttime=now", f"duration={minutes}", "users=root", *words)  # fmt: skip

    def clear(self) -> None:
        """Cancel every job and wait until the nodes are free: between tests of one bed."""
        self.run("login", "scancel", "--user=root")
        until(lambda: not self.run("login", "squeue", "--noheader"))

    def wait(self, nodes: list[str]) -> None:
        """Until these nodes are idle. The clients' scripts are written for the present login."""
        self.bin.mkdir(exist_ok=True)
        for name in CLIENTS:
            script = self.bin / name
            real = f"/usr/bin/{name}"  # PATH may be taken along to a host
            there = f'[ -e /run/lemnos-bed ] && exec {real} "$@"'
            words = shlex.join([*self.at("login"), real])
            script.write_text(f'#!/bin/sh\n{there}\nexec {words} "$@"\n')
            script.chmod(0o755)
        ask = [*self.at("login"), "sinfo", "-h", "-N", "-p", "gpu", "-t", "idle", "-o", "%N"]  # fmt: skip

        def idle() -> bool:  # slurmctld may not answer yet
            asked = subprocess.run(ask, capture_output=True, text=True, check=False, env=environment())  # fmt: skip
            return asked.returncode == 0 and {*asked.stdout.split()} >= {*nodes}

        until(idle, within_s=60)


@contextmanager
def slurm(
    directory: Path,
    nodes: int = 3,
    gpus: int = 8,
    *,
    cpus: int = 16,
    memory_mb: int = 16_000,
    down_after_s: int = 6,
    grace_s: int = 5,
    accounting: bool = False,
    more: str = "",
    root: Path | None = None,
    shared: Sequence[Path] = (),
) -> Iterator[Slurm]:
    """A cluster while the body runs; the test is skipped where there can be none.

    ``down_after_s``: how long a silent node counts as there; ``grace_s``: what a job of
    ``cheap`` has between SIGTERM and its end when it is preempted; ``accounting``: sacct
    answers, jobs need an account that the user has (``lab``; there is ``other``, too) and a QoS
    of it (``normal``, or ``brief``: two minutes at most), which takes 3 s more; ``more``: further lines of
    slurm.conf; ``root``: the directory of a system whose Slurm it is; ``shared``: what of this machine's
    files that sees, too."""
    if reason := why_not(root, accounting=accounting):
        pytest.skip(reason)
    names = [f"n{number}" for number in range(1, nodes + 1)]
    for name in ("etc", "state", "spool", "log", "gpus"):
        (directory / "slurm" / name).mkdir(parents=True)
    proctrack = "cgroup" if FREEZER.is_dir() else "linuxproc"
    racks = {name: 1 if name == "n1" else 2 for name in names}
    values = {
        "directory": directory / "slurm",
        "proctrack": proctrack,
        "nodes": "\n".join(f"NodeName={n} Feature=h100,rack{racks[n]}" for n in names),
        "cpus": cpus,
        "cores": cpus // 2,
        "memory_mb": memory_mb,
        "gpus": gpus,
        "down_after_s": down_after_s,
        "grace_s": grace_s,
        "more": "\n".join([*(ACCOUNTING if accounting else ()), more]),
    }
    etc = directory / "slurm/etc"
    (etc / "slurm.conf").write_text(Template((HERE / "slurm.conf").read_text()).substitute(values))  # fmt: skip
    (etc / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\nCgroupMountpoint=/sys/fs/cgroup\n")  # fmt: skip
    # Devices that take everything: Slurm refuses GPUs that are only a number.
    for number in range(gpus):
        os.mknod(directory / f"slurm/gpus/nvidia{number}", 0o666 | stat.S_IFCHR, os.makedev(1, 3))  # fmt: skip
    gres = f"AutoDetect=off\nName=gpu Type=h100 File={directory}/slurm/gpus/nvidia[0-{gpus - 1}]\n"  # fmt: skip
    (etc / "gres.conf").write_text(gres if gpus else "")
    key = directory / "slurm/munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o600)
    munged = ["sh", "-c", MUNGED.format(key=shlex.quote(str(key)))]
    (etc / "slurmdbd.conf").write_text(SLURMDBD.format(directory=directory / "slurm"))
    (etc / "slurmdbd.conf").chmod(0o600)
    dbd = (
        [["sh", str(HERE / "accounting.sh"), f"{directory}/slurm"]]
        if accounting
        else []
    )
    # With accounting it takes a while until slurmctld is there; slurmd would try again late.
    first = [["sh", "-c", "until scontrol ping | grep -q UP; do sleep 0.1; done"]] if accounting else []  # fmt: skip
    services = {"login": [munged, *dbd, ["slurmctld", "-c"]]} | {n: [munged, *first, ["slurmd"]] for n in names}  # fmt: skip
    with hosts(
        directory,
        "login",
        *names,
        services=services,
        files={str(etc): "/etc/slurm"},
        root=root,
        shared=shared,
    ) as there:
        bed = Slurm(there, names, proctrack)
        bed.wait(names)
        yield bed


def why_not(root: Path | None = None, *, accounting: bool = False) -> str | None:
    """Why there can be no cluster here; None if there can."""
    tools = ["slurmctld", "slurmd", "sbatch", "munged"]
    tools += ["slurmdbd", "mariadbd"] if accounting else []
    where = ":".join(f"{root or ''}{directory}" for directory in SYSTEM.split(":"))
    if missing := [tool for tool in tools if not shutil.which(tool, path=where)]:
        return f"needs {', '.join(missing)} (Debian: slurmctld, slurmd, slurm-client, munge; slurmdbd, mariadb-server-core)"  # fmt: skip
    return no_hosts()
