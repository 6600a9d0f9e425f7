"""A bed whose launcher talks to a cluster of ours through the real kubectl."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from lemnos.launchers import late
from lemnos.launchers.base import Launcher
from lemnos.launchers.kubernetes.launcher import Kubernetes
from lemnos.spec.unit import Unit, UnitStatus
from tests.contract.launchers.bed import Bed
from tests.testbeds.kubectl import KUBECTL
from tests.testbeds.kubernetes import NAMESPACE, Cluster
from tests.testbeds.kubernetes.real import Real

PODS = pytest.mark.allow_hosts(["127.0.0.0/8"])
"""Of tests that ask pods, whose addresses are loopback's."""


def bed_of(
    kube: Cluster | Real, directory: Path, monkeypatch: pytest.MonkeyPatch, **more: Any
) -> Bed:
    """Its files in ``directory``; kubectl is on the PATH. ``more``: further keys of ``kubernetes``."""
    monkeypatch.setenv("PATH", f"{KUBECTL.parent}{os.pathsep}{os.environ['PATH']}")
    spec = {"kubeconfig": str(kube.config), "namespace": NAMESPACE} | more
    keys: dict[str, Any] = {
        "kubernetes": spec,
        "container": {"runtime": "docker", "image": "python"},
    }
    return Bed(directory, "kubernetes", wait_s=60, keys=keys)


def close(launcher: Launcher) -> None:
    """End its watch and its forwards, which would last as long as the process."""
    for part in ("_pods", "_ways"):
        getattr(launcher, part).close()


def launcher_of(bed: Bed, **kubernetes_keys: Any) -> Kubernetes:
    """The bed's, with further keys of ``kubernetes``."""
    keys = {"kubernetes": bed.keys["kubernetes"] | kubernetes_keys}
    launcher = bed.launcher(**keys)
    assert isinstance(launcher, Kubernetes)
    return launcher


def on_gpus(unit: Unit, gpus: int, hosts: int = 1) -> Unit:
    """The unit as of a plan that takes so much."""
    names = tuple(late.host(rank) for rank in range(hosts))
    jobs = tuple(
        job.model_copy(
            update={
                "host": names[rank % hosts],
                "command": job.command.model_copy(
                    update={"argv": tuple(w.replace(late.host(0), names[rank % hosts]) for w in job.command.argv)}
                ),
            }
        )
        for rank, job in enumerate(unit.jobs)
    )  # fmt: skip
    place = unit.place.model_copy(update={"hosts": names, "gpus_per_host": gpus})
    return unit.model_copy(update={"jobs": jobs, "place": place})


def until_why(bed: Bed, launcher: Kubernetes, words: str) -> UnitStatus:
    """The status as soon as its reason has these words."""

    def seen() -> UnitStatus | None:
        found = launcher.status()["engine-0"]
        return found if words in found.why else None

    status = bed.until(seen)
    assert status
    return status
