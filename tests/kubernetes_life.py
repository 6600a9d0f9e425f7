"""lemnos on this machine, with a bed's kubeconfig."""

from __future__ import annotations

import os
from pathlib import Path

from tests.cluster_life import Life
from tests.testbeds.kubectl import KUBECTL
from tests.testbeds.kubernetes import NAMESPACE, Cluster
from tests.testbeds.kubernetes.real import Real


def life_of(kube: Cluster | Real, home: Path, models: Path) -> Life:
    """Below ``home``; the nodes have ``models`` in a directory."""
    settings = {
        "kubernetes.kubeconfig": str(kube.config),
        "kubernetes.namespace": NAMESPACE,
        "kubernetes.weights.host_path": str(models),
        "container.image": "lemnos:test",
    }
    first = ["--on", "kubernetes"]
    for key, value in settings.items():
        first += ["--set", f"{key}={value}"]
    words = ["env", f"PATH={KUBECTL.parent}{os.pathsep}{os.environ['PATH']}"]
    return Life(words, home, models, first=first)
