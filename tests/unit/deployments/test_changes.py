"""What ``history`` says that a revision changed."""

from __future__ import annotations

from typing import Any

import pytest

from lemnos.deployments.status import changes
from tests import samples


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ({}, {}, ()),
        ({"workload": {"context": 512}}, {"workload": {"context": 1024}}, ("workload.context: 512 -> 1024",)),
        ({}, {"engine_args": {"a-flag": True}}, ("engine_args.a-flag: nothing -> True",)),
        ({"engine_args": {"a-flag": True}}, {}, ("engine_args.a-flag: True -> nothing",)),
        ({}, {"scale": {"max": 2}}, (
            "scale.down_after_s: nothing -> 600.0",
            "scale.max: nothing -> 2",
            "scale.min: nothing -> 1",
            "scale.queue: nothing -> 4.0",
            "scale.up_after_s: nothing -> 30.0",
        )),
        ({"on": "slurm", "modules": ["a"]}, {"on": "slurm", "modules": []}, ("modules: ['a'] -> nothing",)),
    ],
)  # fmt: skip
def test_what_changed_is_told_key_by_key(
    before: dict[str, Any], after: dict[str, Any], told: tuple[str, ...]
) -> None:
    assert changes(samples.plan(**before), samples.plan(**after)) == told
