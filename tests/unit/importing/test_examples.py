"""The specs of examples/seed-003 and seed-004: each renders, and is the experiment that it says."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

import lemnos
from lemnos.deployments.prepare_gpu import places_of, plan_on_gpus
from lemnos.engines.base import JobFiles, engine_named
from lemnos.importing import import_config, write
from lemnos.spec.deployment import DeploymentSpec
from lemnos.spec.document import load
from lemnos.spec.plan import Job
from tests.unit.engines.rendered import flag
from tests.unit.importing.old_configs import EXAMPLE

EXAMPLES = Path(__file__).parents[3] / "examples"
DYNAMO, PBS = EXAMPLES / "seed-003-dynamo-slurm/specs", EXAMPLES / "seed-004-pbs/specs"
SPECS = [*sorted(DYNAMO.glob("*.yaml")), *sorted(PBS.glob("*.yaml"))]
FILES = JobFiles(log="/d/engine-0.log", key_file="/d/engine-0.key", cache="/cache")


def jobs_of(path: Path) -> tuple[DeploymentSpec, tuple[Job, ...]]:
    """The spec, and what its engine renders."""
    spec = load(path, DeploymentSpec)
    plan = plan_on_gpus(spec)
    (place,) = places_of(plan)
    return spec, engine_named(plan.engine).jobs(plan, 0, place, FILES)


@pytest.mark.parametrize(
    ("name", "eager", "experts", "context"),
    [
        ("1a", True, True, "32768"),
        ("1b", False, True, "32768"),
        ("2b", True, False, "32768"),
        ("3a", True, True, "8192"),
        ("3c", True, True, "65536"),
        ("best", False, False, "65536"),
    ],
)
def test_experiments_of_seed_004(
    name: str, eager: bool, experts: bool, context: str
) -> None:
    spec, (job,) = jobs_of(PBS / f"{name}.yaml")
    assert (spec.on, spec.model.source, spec.model.served_name) == (
        *("pbs", "zai-org/GLM-4.6"),
        "glm-4.6",
    )
    assert (flag(job, "--enforce-eager") is not None) == eager
    assert (flag(job, "--enable-expert-parallel") is not None) == experts
    assert flag(job, "--max-model-len") == context
    pinned = {
        "--tensor-parallel-size": "8",
        "--kv-cache-dtype": "fp8",
        "--gpu-memory-utilization": "0.95",
        "--max-num-seqs": "8",
        "--max-num-batched-tokens": "32768",
    }
    assert {key: flag(job, key) for key in pinned} == pinned


def test_a_tray_of_seed_003() -> None:
    spec, jobs = jobs_of(DYNAMO / "single-node.yaml")
    assert [job.part for job in jobs] == ["frontend", "worker"]
    assert flag(jobs[0], "--store-kv") == "file" and flag(jobs[1], "--tp-size") == "4"
    assert spec.container and spec.container.runtime == "pyxis"


def test_four_trays_for_prompts_and_two_for_answers() -> None:
    _, jobs = jobs_of(DYNAMO / "4p2d.yaml")
    hosts: dict[str, list[str]] = {}
    for job in jobs:
        hosts.setdefault(job.part, []).append(job.host)
    assert hosts["etcd"] == hosts["nats"] == hosts["frontend"] == ["node-0"]
    assert hosts["prefill"] == ["node-0", "node-1", "node-2", "node-3"]
    assert hosts["decode"] == ["node-4", "node-5"]
    for job in jobs:
        if job.part in ("prefill", "decode"):
            ranks = "16" if job.part == "prefill" else "8"
            assert flag(job, "--tp-size") == ranks
            assert flag(job, "--disaggregation-transfer-backend") == "nixl"
            assert flag(job, "--moe-runner-backend") == "flashinfer_trtllm"
            assert job.command.env["NCCL_MNNVL_ENABLE"] == "1"


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_their_files_are_scripts_that_shells_take(path: Path) -> None:
    """As ``lemnos up SPEC --dry-run --output DIR`` writes them."""
    for text in scripts_of(path):
        checked(text)


def test_the_nine_of_seed_002_are_such_scripts(tmp_path: Path) -> None:
    write(import_config(EXAMPLE, env={}).files, tmp_path)
    specs = [path for path in tmp_path.glob("*.yaml") if path.stem != "lemnos"]
    for path in specs:
        batch = "".join(scripts_of(path))
        assert "#SBATCH" in batch and "p_scads_pathology" in batch
        checked(batch)
    assert len(specs) == 9


def scripts_of(path: Path) -> list[str]:
    """The scripts of a spec's units."""
    units = lemnos.rendered(lemnos.plan(str(path))).values()
    assert all(unit.commands for unit in units)
    files = [item for unit in units for item in unit.files.items()]
    scripts = [text for name, text in files if name.endswith(".sh")]
    assert scripts
    return scripts


def checked(text: str) -> None:
    """A script that bash parses."""
    subprocess.run(["bash", "-n"], input=text, text=True, check=True)


@pytest.mark.parametrize(
    "path", sorted(EXAMPLES.glob("seed-*/README.md")), ids=lambda path: path.parent.name
)
def test_the_pages_name_what_is_there(path: Path) -> None:
    words = path.read_text().split()
    named = [word for word in words if word.startswith("examples/")]
    assert named and all((EXAMPLES.parent / word).exists() for word in named)
