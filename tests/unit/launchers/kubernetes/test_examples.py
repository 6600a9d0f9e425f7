"""The specs of examples/seed-000-kubernetes and seed-003-kubernetes: each renders to valid objects, and is the deployment that it says;
and the image of the gateway has what its pods are started with."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

import lemnos
from lemnos.launchers.kubernetes.gateway import USER
from lemnos.launchers.kubernetes.render import BASE, kustomize
from tests.command import lemnos as command
from tests.manifests import check, needs_crds
from tests.testbeds import kubectl

ROOT = Path(__file__).parents[4]
SPECS = sorted((ROOT / "examples").glob("seed-*-kubernetes/specs/*.yaml"))


def base_of(path: Path) -> dict[str, str]:
    return kustomize(lemnos.rendered(lemnos.plan(str(path))))


def graph_of(name: str) -> dict[str, Any]:
    path = next(path for path in SPECS if path.stem == name)
    objects = map(yaml.safe_load, base_of(path).values())
    found = next(o for o in objects if o["kind"] == "DynamoGraphDeployment")
    return dict(found["spec"]["services"])


@needs_crds
@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_they_are_valid(path: Path) -> None:
    texts = [text for name, text in base_of(path).items() if name != BASE]
    assert len(texts) > 5
    for text in texts:
        check(yaml.safe_load(text))


@pytest.mark.parametrize(
    ("name", "replicas"),
    [
        ("single-node", {"Frontend": 1, "worker": 1}),
        ("1p1d", {"Frontend": 1, "prefill": 1, "decode": 1}),
        ("1p2d", {"Frontend": 1, "prefill": 1, "decode": 2}),
    ],
)
def test_they_are_what_seed_003_deploys(name: str, replicas: dict[str, int]) -> None:
    found = graph_of(name)
    assert {k: v["replicas"] for k, v in found.items()} == replicas
    del found["Frontend"]
    for service in found.values():
        main = service["extraPodSpec"]["mainContainer"]
        assert main["image"] == "nvcr.io/nvidia/ai-dynamo/sglang-runtime:0.8.1"
        assert service["resources"]["limits"]["gpu"] == "4"
        said = " ".join(main["args"])
        assert "--tp-size 4" in said and "--served-model-name glm-4.7" in said
        assert "--moe-runner-backend flashinfer_trtllm" in said
        assert ("--disaggregation-transfer-backend nixl" in said) == (len(found) > 1)


def test_seed_000_is_a_group_of_four() -> None:
    path = next(path for path in SPECS if path.stem == "four")
    objects = [yaml.safe_load(text) for text in base_of(path).values()]
    (group,) = [o for o in objects if o["kind"] == "LeaderWorkerSet"]
    assert group["spec"]["leaderWorkerTemplate"]["size"] == 4
    assert {"Ingress", "Deployment"} <= {o["kind"] for o in objects}


@needs_crds
def test_or_a_cluster_of_ray() -> None:
    path = next(path for path in SPECS if path.stem == "four")
    plan = lemnos.plan(str(path), settings=["kubernetes.kind=raycluster"])
    texts = lemnos.rendered(plan)["engine-0"].files.values()
    (ray,) = [o for o in map(yaml.safe_load, texts) if o["kind"] == "RayCluster"]
    check(ray)
    assert ray["spec"]["workerGroupSpecs"][0]["replicas"] == 3


@pytest.mark.bed
@pytest.mark.skipif(bool(kubectl.why_not()), reason=kubectl.why_not() or "")
@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_kubectl_takes_the_base(path: Path, tmp_path: Path) -> None:
    """As ``lemnos up SPEC --dry-run --output DIR`` writes it, through the real kubectl's kustomize."""
    command("up", str(path), "--dry-run", "--output", str(tmp_path))
    done = subprocess.run(
        [kubectl.KUBECTL, "kustomize", tmp_path], capture_output=True, check=True
    )
    built = {(o["kind"], o["metadata"]["name"]): o for o in yaml.safe_load_all(done.stdout)}  # fmt: skip
    files = sorted(tmp_path.glob("*.yaml"))
    ours = [yaml.safe_load(p.read_text()) for p in files if p.name != BASE]
    assert built == {(o["kind"], o["metadata"]["name"]): o for o in ours}
    assert (tmp_path / "run.txt").read_text().endswith("-k .\n")


def test_the_image_of_the_gateway() -> None:
    """No container runtime is here: what its file names is there, and it is the user of the pods."""
    text = (ROOT / "Containerfile").read_text()
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE)
    named = [word for line in copied for word in line.split()]
    assert {"pyproject.toml", "README.md", "LICENSE", "src"} == set(named)
    assert all((ROOT / word).exists() for word in named)
    assert f"USER {USER}:{USER}" in text
    assert "--extra postgres" in text  # the ledger of gateways that are several
