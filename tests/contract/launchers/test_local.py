"""The local launcher on this machine: the contract, and GPUs that deployments share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from lemnos.errors import LemnosError, UsageError
from lemnos.launchers import containers, gpus
from lemnos.launchers.papers import Papers
from lemnos.spec.facts import Gpu
from lemnos.spec.place import Place
from tests.contract.launchers.suite import Bed, LauncherSuite, swept
from tests.unit.deployments.test_prepare_gpu import planned

GIB = 1024**3


@pytest.fixture
def bed(tmp_path: Path) -> Iterator[Bed]:
    made = Bed(tmp_path / "state", "local")
    yield made
    swept(made)


class TestContract(LauncherSuite):
    """What every launcher does."""


def box(count: int = 4, held: int = -1) -> list[Gpu]:
    return [
        Gpu(
            index=number,
            name="H100",
            memory_bytes=80 * GIB,
            free_bytes=(5 if number == held else 79) * GIB,
        )
        for number in range(count)
    ]


def test_two_models_share_a_box() -> None:
    first = gpus.choose(box(), gpus.allowed(box(), None, ()), set(), 2)
    second = gpus.choose(box(), gpus.allowed(box(), None, ()), set(first), 2)
    assert (first, second) == (("0", "1"), ("2", "3"))
    with pytest.raises(LemnosError, match="1 free GPUs are needed, and there are 0"):
        gpus.choose(box(), gpus.allowed(box(), None, ()), {*first, *second}, 1)


@pytest.mark.parametrize(
    ("visible", "may"),
    [
        (None, ("0", "1", "2", "3")),
        ("2,0", ("2", "0")),
        ("", ()),
        ("-1", ()),
        ("1,9,2", ("1",)),
        ("GPU-5a1f,MIG-77", ("GPU-5a1f", "MIG-77")),
        ("NoDevFiles", ()),
    ],
)
def test_cuda_visible_devices_is_honoured(
    visible: str | None, may: tuple[str, ...]
) -> None:
    assert gpus.allowed(box(), visible, ()) == may


def test_a_wanted_gpu_must_be_visible() -> None:
    assert gpus.allowed(box(), "2,GPU-5a1f", ("GPU-5a1f",)) == ("GPU-5a1f",)
    with pytest.raises(LemnosError, match="GPU 3 is not among those"):
        gpus.allowed(box(), "0,1", ("3",))


def test_a_gpu_that_another_program_holds_is_not_given() -> None:
    assert gpus.free(box(held=1), ("0", "1", "2"), {"0"}) == ("2",)
    with pytest.raises(LemnosError, match="1 are held by other programs"):
        gpus.choose(box(held=1), ("0", "1"), set(), 2)


def test_virtual_machines_and_who_says_so_do_without_multicast() -> None:
    assert gpus.multicast(("avx2",), None) and gpus.multicast((), "1")
    assert not gpus.multicast(("avx2", "hypervisor"), None)
    assert not gpus.multicast((), "0")


def test_ranks_of_a_box_are_told_whether_multicast_may_be_used(
    bed: Bed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NCCL_NVLS_ENABLE", "0")
    two = planned("glm-4.5-air-fp8", "2xH100", tensor=2)
    assert not bed.launcher().place(two, "engine-0", dry=True).multicast


def test_what_was_given_is_kept_until_the_unit_has_started(bed: Bed) -> None:
    # A unit that started and ended a moment ago has given its GPUs up: its successor may need them.
    papers = Papers(bed.site())
    papers.reserve("engine-0", Place(port=1, devices=("0",)))
    assert [each.fresh for each in papers.placed("engine-1")] == [True]
    launcher = bed.launcher()
    launcher.submit(bed.unit(launcher, "engine-0"))
    assert [each.fresh for each in papers.placed("engine-1")] == [False]
    papers.reserve("engine-0", Place(port=1, devices=("1",)))
    assert [each.fresh for each in papers.placed("engine-1")] == [True]


def test_a_plan_for_several_hosts_is_refused(bed: Bed) -> None:
    wide = planned("glm-4.6", "2x8xH100", tensor=8, pipeline=2)
    with pytest.raises(UsageError, match="needs 2 hosts"):
        bed.launcher().place(wide, "engine-0")


DOCKER = """#!/bin/sh
case $1 in
  rm) echo "$3" >> {directory}/removed; rm -f {directory}/running ;;
  run) : > {directory}/running; while :; do sleep 0.1; done ;;
esac
"""


def test_a_container_goes_with_its_unit(
    bed: Bed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "docker").write_text(DOCKER.format(directory=tools))
    (tools / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    container = {"image": "vllm:1", "runtime": "docker"}
    launcher = bed.launcher(container=container)
    unit = bed.unit(launcher)
    name = containers.name_of(unit.jobs[0])
    launcher.submit(unit)
    bed.until((tools / "running").exists)
    launcher.cancel("engine-0", kill=True)
    assert not (tools / "running").exists(), "its client was killed, and it with that"
    launcher.submit(unit)
    bed.until((tools / "running").exists)
    launcher.sweep()
    assert not (tools / "running").exists()
    assert set((tools / "removed").read_text().split()) == {name}
