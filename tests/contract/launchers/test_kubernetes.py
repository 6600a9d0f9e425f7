"""Units as workloads of Kubernetes: the real kubectl, an API server and pods of the bed's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.launchers.kubernetes_bed import PODS, bed_of, close
from tests.contract.launchers.suite import Bed, LauncherSuite, swept
from tests.rights import refused
from tests.testbeds.kubernetes import Cluster

pytestmark = [pytest.mark.bed, PODS]


@pytest.fixture
def bed(
    kube: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Bed]:
    made = bed_of(kube, tmp_path / "a b", monkeypatch)
    before = len(kube.api.requests)
    yield made
    swept(made)
    for launcher in made.made:
        close(launcher)
    assert refused(kube.api.requests[before:]) == set()
    assert kube.left() == []


class TestKubernetes(LauncherSuite):
    pass
