"""Prefill and decode apart on a real Ray cluster of hosts with 8 GPUs that are not there: the router with
SGLang's stand-in for prompts on one, the one for answers on another."""

from __future__ import annotations

from pathlib import Path

import pytest

import lemnos
from tests import groups
from tests.cluster_life import Life
from tests.testbeds.ray import PYTHON, Ray, ray
from tests.tiny_glm import make_tiny_glm

pytestmark = [
    pytest.mark.bed,
    pytest.mark.skipif(groups.ENVIRONMENT is None, reason="smg is not installed"),
    pytest.mark.timeout(400),
]


def test_from_a_spec_to_an_answer_over_two_hosts(tmp_path: Path) -> None:
    model = make_tiny_glm(tmp_path / "tiny-glm")
    room = {"address": Ray.url, "cpus": 1, "python": str(PYTHON)}
    spec = groups.spec(
        model,
        groups.venv(tmp_path),
        on="ray",
        ray=room,
        plan=groups.over_two_hosts(),
    )
    lemnos.save_spec(tmp_path / "pd.yaml", spec)
    with ray(tmp_path / "ray") as cluster:
        life = Life(cluster.at("head"), tmp_path / "home", tmp_path / "models")
        life.home.mkdir()
        try:
            assert '"url"' in life.run("up", str(tmp_path / "pd.yaml"), "--json")
            said = life.run("chat", "--prompt", "Hello", "--max-tokens", "4")
            assert "by decode" in said
            servers = {
                host: [p for p in cluster.hosts.processes(host) if "launch_server" in p]
                for host in cluster.nodes
            }
            assert all(servers.values()), "each has a host for itself"
        finally:
            if life.report("ps"):
                life.run("down", "--now")
