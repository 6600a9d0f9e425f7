"""Prefill and decode apart as a job of the fake PBS: the real router, stand-ins for SGLang's servers."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import lemnos
from tests import groups
from tests.cluster_life import Life, files_left
from tests.testbeds.fake_pbs import fake_pbs
from tests.tiny_glm import make_tiny_glm
from tests.waiting import until

pytestmark = [
    pytest.mark.bed,
    pytest.mark.skipif(groups.ENVIRONMENT is None, reason="smg is not installed"),
]


def test_from_a_spec_to_an_answer(tmp_path: Path, home: Path) -> None:
    model = make_tiny_glm(tmp_path / "tiny-glm")
    room = {"cpus": 2, "poll_s": 1}
    spec = groups.spec(model, groups.venv(tmp_path), on="pbs", pbs=room)
    lemnos.save_spec(tmp_path / "pd.yaml", spec)
    (home / "lemnos").mkdir()
    with fake_pbs(tmp_path / "p") as pbs:
        words = ["env", f"PATH={pbs.bin}:{os.environ['PATH']}"]
        life = Life(words, home / "lemnos", tmp_path / "models")
        try:
            assert '"url"' in life.run("up", str(tmp_path / "pd.yaml"), "--json")
            said = life.run("chat", "--prompt", "Hello", "--max-tokens", "4")
            assert "by decode" in said
        finally:
            if life.report("ps"):
                life.run("down", "--now")
        until(lambda: {job["job_state"] for job in pbs.jobs().values()} == {"F"})
    assert files_left(life.home) == []
