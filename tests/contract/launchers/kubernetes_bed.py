"""A bed whose launcher talks to a cluster of ours through the real kubectl."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from lemnos.launchers.base import Launcher
from tests.contract.launchers.bed import Bed
from tests.testbeds.kubectl import KUBECTL
from tests.testbeds.kubernetes import NAMESPACE, Cluster

PODS = pytest.mark.allow_hosts(["127.0.0.0/8"])
"""Of tests that ask pods, whose addresses are loopback's."""


def bed_of(kube: Cluster, directory: Path, monkeypatch: pytest.MonkeyPatch) -> Bed:
    """Its files in ``directory``; kubectl is on the PATH."""
    monkeypatch.setenv("PATH", f"{KUBECTL.parent}{os.pathsep}{os.environ['PATH']}")
    spec = {"kubeconfig": str(kube.config), "namespace": NAMESPACE}
    keys: dict[str, Any] = {
        "kubernetes": spec,
        "container": {"runtime": "docker", "image": "python"},
    }
    return Bed(directory, "kubernetes", wait_s=60, keys=keys)


def close(launcher: Launcher) -> None:
    """End its watch and its forwards, which would last as long as the process."""
    for part in ("_pods", "_ways"):
        getattr(launcher, part).close()
