"""Pods that this machine does not reach by their addresses: ``kubectl port-forward``, kept up."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from lemnos.launchers.kubernetes import forwarding
from tests.contract.launchers.kubernetes_bed import PODS, bed_of, close
from tests.contract.launchers.suite import Bed, swept
from tests.testbeds.kubectl import with_forwards
from tests.testbeds.kubernetes import Cluster

pytestmark = [pytest.mark.bed, PODS]


@pytest.fixture
def bed(
    kube: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Bed]:
    made = bed_of(kube, tmp_path / "bed", monkeypatch)
    path = f"{with_forwards(tmp_path / 'bin')}{os.pathsep}{os.environ['PATH']}"
    monkeypatch.setenv("PATH", path)
    # What the bed's pods have is loopback's, which is always reached.
    monkeypatch.setattr(forwarding, "reaches", lambda ip, port: False)
    yield made
    swept(made)
    for launcher in made.made:
        close(launcher)


def forwards(kube: Cluster) -> list[psutil.Process]:
    """The children that forward to the bed's cluster."""
    found = []
    for process in psutil.process_iter():
        try:
            words = process.cmdline()
        except psutil.Error:
            continue
        # Not the tether, whose command has the same words behind it.
        if "port-forward" in words and str(kube.config) in words and "-c" not in words:
            found.append(process)
    return found


def test_a_forward_is_made_again_on_the_same_port(kube: Cluster, bed: Bed) -> None:
    launcher = bed.launcher()
    launcher.submit(bed.unit(launcher))
    told = bed.told(launcher)
    url = launcher.status()["engine-0"].url
    assert url.startswith("http://127.0.0.1:") and not url.endswith(":8000")
    (child,) = forwards(kube)
    child.kill()

    def again() -> bool:
        try:
            return bool(bed.get(url)["pid"] == told["pid"])
        except OSError:
            return False

    bed.until(again)
    assert launcher.status()["engine-0"].url == url
    launcher.cancel("engine-0", kill=True)
    bed.until(lambda: not forwards(kube))


def test_it_leads_to_the_pod_that_came_after(kube: Cluster, bed: Bed) -> None:
    launcher = bed.launcher()
    launcher.submit(bed.unit(launcher))
    first = bed.told(launcher)
    (pod,) = kube.pods()
    kube.kubectl("delete", "pod", pod["metadata"]["name"], "--grace-period=1")
    bed.until(lambda: launcher.status()["engine-0"].starts == 1)
    assert bed.told(launcher)["pid"] != first["pid"]


def test_a_forward_that_you_may_not_make_is_said(
    kube: Cluster, bed: Bed, tmp_path: Path
) -> None:
    said = (
        'Error from server (Forbidden): pods "x" is forbidden: User "ann" cannot create resource '
        '"pods/portforward" in API group "" in the namespace "llm"'
    )
    wrapper = tmp_path / "bin/kubectl"
    wrapper.write_text(
        wrapper.read_text().replace(
            "\nLEMNOS",
            f"\ncase \"$*\" in *port-forward*) echo '{said}' >&2; exit 1;; esac\nLEMNOS",
        )
    )
    launcher = bed.launcher()
    launcher.submit(bed.unit(launcher))

    def told() -> str:
        try:
            launcher.status()
        except Exception as error:
            return str(error)
        return ""

    why = bed.until(told)
    assert "you may not create pods/portforward in the namespace llm" in why
    assert "--verb=create --resource=pods/portforward" in why
