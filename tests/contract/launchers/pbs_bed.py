"""A bed whose launcher talks to a fake PBS, and what is asked of the fake and of a real one alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lemnos.errors import UsageError
from lemnos.spec.unit import Unit
from tests.contract.launchers.bed import Bed
from tests.testbeds.fake_pbs import FakePbs

REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"queue": "shrt"}, "pbs.queue", "the queue 'shrt' is unknown"),
    ({"queue": "closed"}, "pbs.queue", "takes no jobs"),
    (
        {"gpu_resource": "nvgpu", "gpus_per_node": 1},
        "pbs.select",
        "no such resource",
    ),
    ({"queue": "short", "time": "2:00:00"}, "pbs", "asks for more"),
    ({"place": "nowhere"}, "pbs", "does not take one of the values"),
]
"""Keys of ``pbs`` that qsub refuses, where the error says that it is, and what it says."""


def bed_of(pbs: FakePbs, directory: Path) -> Bed:
    """Its files in ``directory``; PBS is asked as often as a test wants to know."""
    keys = {"bin": str(pbs.bin), "poll_s": 0.05, "time": "1:00:00"}
    return Bed(directory, "pbs", wait_s=60, keys={"pbs": keys})


def with_pbs(bed: Bed, **keys: Any) -> dict[str, Any]:
    """The bed's keys and more of ``pbs``."""
    return {"pbs": bed.keys["pbs"] | keys}


def after(unit: Unit, name: str) -> Unit:
    """The unit as the successor of ``name``."""
    return unit.model_copy(update={"after": name})


def refuses(bed: Bed, keys: dict[str, Any], where: str, what: str) -> None:
    """A job with ``keys`` is refused in one line, and nothing of it is left."""
    launcher = bed.launcher(**with_pbs(bed, **keys))
    unit = bed.unit(launcher)
    with pytest.raises(UsageError, match=what) as caught:
        launcher.submit(unit)
    assert caught.value.where == where and "\n" not in caught.value.what
    assert launcher.status() == {}
    assert not (bed.directory / "box" / "units" / "engine-0").exists()
