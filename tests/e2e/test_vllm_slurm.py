"""The real vLLM (on the CPU) with two ranks as a job of a real Slurm, from a spec to an answer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import lemnos
from tests.cluster_life import Life, files_left
from tests.contract.engines.test_vllm_cpu import ENVIRONMENT, _plan
from tests.testbeds.slurm import Slurm, slurm
from tests.tiny_glm import make_tiny_glm

pytestmark = [
    pytest.mark.bed,
    pytest.mark.skipif(ENVIRONMENT is None, reason="the real vLLM is not installed"),
    pytest.mark.timeout(900),
]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    with slurm(tmp_path_factory.mktemp("slurm")) as bed:
        yield bed


def test_from_a_spec_to_an_answer(cluster: Slurm, tmp_path: Path) -> None:
    assert ENVIRONMENT is not None
    model = make_tiny_glm(tmp_path / "tiny-glm")
    plan = _plan(model, ())
    spec = plan.spec.model_copy(
        update={
            "engine_version": plan.engine_version,
            "plan": plan.proposal,
            "on": "slurm",
            "venv": ENVIRONMENT.path,
            "ready_timeout_s": 800.0,
            "slurm": plan.spec.slurm.model_copy(
                update={"cpus": 4, "memory": "12G", "time": 3600.0}
            ),
        }
    )
    lemnos.save_spec(tmp_path / "glm.yaml", spec)
    life = Life(cluster.at("login"), tmp_path / "home", tmp_path / "models")
    life.home.mkdir()
    try:
        found = life.run("up", str(tmp_path / "glm.yaml"), "--json", within_s=850)
        assert '"url"' in found
        assert cluster.run("login", "squeue", "-h", "-o", "%b").strip() == "gres:gpu:2"
        said = life.run("chat", "--prompt", "Where is the forge?", "--max-tokens", "4")
        assert said.strip()
        log = life.run("logs", "-n", "1000")
        assert "tensor_parallel_size=2" in log or "world_size=2" in log
    finally:
        if life.report("ps"):
            life.run("down", "--now")
    assert files_left(life.home) == []
