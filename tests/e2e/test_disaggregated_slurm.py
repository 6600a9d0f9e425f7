"""Prefill and decode apart as a job of a real Slurm: the router and a stand-in for SGLang's prefill server
on one node, its decode server on another."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import lemnos
from tests import groups
from tests.cluster_life import Life, files_left
from tests.testbeds.slurm import Slurm, slurm
from tests.tiny_glm import make_tiny_glm

pytestmark = [
    pytest.mark.bed,
    pytest.mark.skipif(groups.ENVIRONMENT is None, reason="smg is not installed"),
    pytest.mark.timeout(400),
]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    with slurm(tmp_path_factory.mktemp("slurm")) as bed:
        yield bed


def test_from_a_spec_to_an_answer_over_two_nodes(
    cluster: Slurm, tmp_path: Path
) -> None:
    model = make_tiny_glm(tmp_path / "tiny-glm")
    room = {"cpus": 1, "memory": "2G", "time": "1:00:00"}
    spec = groups.spec(
        model,
        groups.venv(tmp_path),
        on="slurm",
        slurm=room,
        plan=groups.over_two_hosts(),
    )
    lemnos.save_spec(tmp_path / "pd.yaml", spec)
    life = Life(cluster.at("login"), tmp_path / "home", tmp_path / "models")
    life.home.mkdir()
    try:
        assert '"url"' in life.run("up", str(tmp_path / "pd.yaml"), "--json")
        asked = cluster.run("login", "squeue", "-h", "-o", "%D %b").strip()
        assert asked == "2 gres:gpu:8"
        said = life.run("chat", "--prompt", "Where is the forge?", "--max-tokens", "4")
        assert "by decode" in said
        (shown,) = life.report("ps")
        assert shown["phase"] == "ready"
    finally:
        if life.report("ps"):
            life.run("down", "--now")
    assert files_left(life.home) == []
