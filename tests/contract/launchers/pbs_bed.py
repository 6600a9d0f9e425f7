"""A bed whose launcher talks to a fake PBS."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.contract.launchers.bed import Bed
from tests.testbeds.fake_pbs import FakePbs


def bed_of(pbs: FakePbs, directory: Path) -> Bed:
    """Its files in ``directory``; PBS is asked as often as a test wants to know."""
    keys = {"bin": str(pbs.bin), "poll_s": 0.05, "time": "1:00:00"}
    return Bed(directory, "pbs", wait_s=60, keys={"pbs": keys})


def with_pbs(bed: Bed, **keys: Any) -> dict[str, Any]:
    """The bed's keys and more of ``pbs``."""
    return {"pbs": bed.keys["pbs"] | keys}
