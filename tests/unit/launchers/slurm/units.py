"""Deployments on Slurm, and units of them, for tests of what is pure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lemnos.launchers import late
from lemnos.launchers.site import Site
from lemnos.launchers.slurm.parse import SlurmJob
from lemnos.launchers.slurm.render import late_hosts
from lemnos.spec.place import Place
from lemnos.spec.plan import Command, Job, Secret
from lemnos.spec.unit import Unit
from lemnos.transport.here import Here
from tests import samples


def site(directory: str = "/shared/box", **keys: Any) -> Site:
    """The deployment ``box``; ``keys`` are the spec's."""
    return Site(
        deployment="box",
        spec=samples.spec(on="slurm", **keys),
        transport=Here(),
        directory=directory,
        cache="/shared/cache",
        key_file=Path("/home/me/engine.key"),
        owner="me",
    )


def unit(
    at: Site,
    hosts: int = 1,
    gpus: int = 0,
    *,
    argv: tuple[str, ...] = ("serve", "--port", str(late.PORT)),
    env: dict[str, str] | None = None,
    interface: str | None = None,
) -> Unit:
    """``engine-0``: a process on each host."""
    files = at.files("engine-0")
    place = Place(
        hosts=late_hosts(hosts),
        gpus_per_host=gpus,
        port=late.PORT,
        inner_port=late.INNER_PORT,
        interface=interface,
    )
    jobs = tuple(
        Job(
            deployment="box",
            role="engine",
            rank=rank,
            command=Command(
                argv=argv,
                env={"HOST": place.hosts[rank], **(env or {})},
                secrets=() if rank else (Secret(key_file=files.key_file, env="KEY"),),
            ),
            host=place.hosts[rank],
            port=0 if rank else place.port,
            log=files.log_of(rank),
        )
        for rank in range(hosts)
    )
    return Unit(
        deployment="box", name="engine-0", jobs=jobs, place=place, start_s=240.0
    )


def job(number: int = 7, state: str = "RUNNING", **changes: Any) -> SlurmJob:
    """A job of ``engine-0`` on n1."""
    base = SlurmJob(
        id=number,
        states=(state,),
        comment="lemnos:me:box:engine-0",
        submitted=1000.0,
        nodes=("n1",),
    )
    return base.model_copy(update=changes)
