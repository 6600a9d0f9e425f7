"""Jobs as a user of Slurm would read them, and what the spec changes of them."""

from __future__ import annotations

import itertools
import os
import shlex
import time
from pathlib import Path
from typing import Any

import pytest

from lemnos.engines.base import engine_named
from lemnos.errors import UsageError
from lemnos.launchers import late
from lemnos.launchers.slurm import render
from lemnos.launchers.slurm.parse import Partition
from lemnos.spec.deployment import DeploymentSpec
from lemnos.spec.place import Place
from lemnos.spec.proposal import Role
from lemnos.spec.unit import Rendered, Unit
from tests.contract.launchers.bed import check_script, evil
from tests.unit.engines.rendered import glm
from tests.unit.launchers.slurm import units

GOLDEN = Path(__file__).parents[3] / "data/golden/slurm"
FULL: dict[str, Any] = {
    "account": "p_scads",
    "partition": "capella",
    "qos": "high",
    "constraint": "h100&nvlink",
    "reservation": "llm",
    "nodelist": "c[1-8]",
    "exclude": "c3",
    "time": "12:00:00",
    "gpu_type": "h100",
    "gpus_by": "tres",
    "cpus_per_gpu": 14,
    "memory_per_gpu": "180G",
    "exclusive": True,
    "requeue": False,
    "port_base": 29500,
    "sbatch_args": {"nice": 100, "mail-type": "FAIL", "hold": True},
}


def rendered(hosts: int = 1, gpus: int = 0, **keys: Any) -> Rendered:
    interface = keys.get("interface")
    site = units.site(**keys)
    return render.render(units.unit(site, hosts, gpus, interface=interface), site)


def header(slurm: dict[str, Any], gpus: int = 4, **more: Any) -> list[str]:
    lines = rendered(1, gpus, slurm=slurm, **more).files["batch.sh"].splitlines()
    return [line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH")]  # fmt: skip


def dynamo(roles: Role | None, hosts: int, gpus: int) -> tuple[Unit, Any]:
    """Seed 003's shapes: GLM over Dynamo, prefill and decode apart."""
    plan = glm("dynamo", roles=roles, layout={"tensor": gpus})
    site = units.site(slurm={"gpu_type": "gb200"}, modules=["cuda/13.0"])
    place = Place(
        hosts=render.late_hosts(hosts),
        gpus_per_host=4,
        port=late.PORT,
        inner_port=late.INNER_PORT,
        multi_node_nvlink=True,
    )
    jobs = engine_named("dynamo").jobs(plan, 0, place, site.files("engine-0"))
    return Unit(deployment="box", name="engine-0", jobs=jobs, place=place), site


def one_node() -> Rendered:
    return rendered(1, 4, slurm={"time": "4:00:00", "partition": "gpu"})


def two_nodes() -> Rendered:
    return rendered(2, 4, slurm=FULL, modules=["gcc/13", "cuda/12.8"], interface="ib0")


def split_on_one_node() -> Rendered:
    """Each worker with GPUs of its own."""
    return render.render(*dynamo(Role(prefill=1, decode=1), 1, 2))


def split_over_six_nodes() -> Rendered:
    return render.render(*dynamo(Role(prefill=4, decode=2), 6, 4))


def pyxis() -> Rendered:
    container = {"image": "nvcr.io/nvidia/ai-dynamo/sglang-runtime:0.8.1", "runtime": "pyxis", "mounts": ["/lustre/models"]}  # fmt: skip
    return rendered(1, 4, container=container)


CASES = {
    "one-node": one_node,
    "two-nodes": two_nodes,
    "1p1d": split_on_one_node,
    "4p2d": split_over_six_nodes,
    "pyxis": pyxis,
}


@pytest.mark.parametrize("name", CASES)
def test_golden(name: str) -> None:
    """GOLDEN=1 writes them anew."""
    done = CASES[name]()
    text = "".join(f"==> {file} <==\n{body}\n" for file, body in done.files.items())
    text += "".join(f"$ {shlex.join(command)}\n" for command in done.commands)
    text += "".join(f"note: {note}\n" for note in done.notes)
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("GOLDEN"):
        path.write_text(text)
    assert text == path.read_text()


def test_every_script_of_the_matrix_is_sound(tmp_path: Path) -> None:
    containers = (None, {"image": "x.sif", "runtime": "apptainer"}, {"image": "a b", "runtime": "pyxis"}, {"image": "x", "runtime": "podman"})  # fmt: skip
    texts = set()
    for hosts, container, interface, modules in itertools.product(
        (1, 3), containers, (None, "ib0"), ([], ["a/1", "b"])
    ):
        gpus, slurm = (8, FULL) if modules else (0, {})
        done = rendered(hosts, gpus, container=container, interface=interface, modules=modules, slurm=slurm)  # fmt: skip
        texts |= set(done.files.values())
    texts |= set(split_over_six_nodes().files.values())
    texts |= set(split_on_one_node().files.values())
    assert len(texts) > 20
    for text in texts:
        check_script(tmp_path, "job.sh", text)


def test_hostile_words_are_sound_too(tmp_path: Path) -> None:
    words = tuple(evil(tmp_path))
    site = units.site(directory=f"/s/{words[0].replace('/', '')} %j 'x'")
    unit = units.unit(site, argv=words, env={f"V{i}": w for i, w in enumerate(words)})
    for text in render.render(unit, site).files.values():
        check_script(tmp_path, "job.sh", text)


def test_what_is_asked_for() -> None:
    lines = header(FULL)
    for line in (
        "--job-name=box-engine-0",
        "--comment=lemnos:me:box:engine-0",
        "--nodes=1",
        "--gpus-per-node=h100:4",
        "--cpus-per-task=56",
        "--mem=720G",
        "--account=p_scads",
        "--constraint=h100&nvlink",
        "--nodelist=c[1-8]",
        "--exclusive",
        "--time=12:04:00",
        "--signal=B:USR1@120",
        "--no-requeue",
        "--output=/dev/null",
    ):
        assert line in lines
    assert not any("gres" in line for line in lines)


def test_what_is_not_asked_for_is_slurms_to_choose() -> None:
    lines = header({})
    assert "--gres=gpu:4" in lines and "--requeue" in lines
    for name in ("account", "partition", "time", "mem", "cpus", "qos", "exclusive"):
        assert not any(line.startswith(f"--{name}") for line in lines)


def test_memory_and_cpus() -> None:
    assert "--mem=0" in header({"exclusive": True})
    assert "--mem=90G" in header({"memory": "90G", "memory_per_gpu": "1G"})
    assert "--cpus-per-task=3" in header({"cpus": 3, "cpus_per_gpu": 14})
    with pytest.raises(UsageError, match="no amount of memory"):
        header({"memory_per_gpu": "much"})


def test_an_engine_of_the_cpu_gets_the_cores_it_uses() -> None:
    site = units.site()
    unit = units.unit(site, env={"OMP_NUM_THREADS": "6"})
    assert "#SBATCH --cpus-per-task=6" in render.render(unit, site).files["batch.sh"]


def test_time_is_bounded_by_the_partition() -> None:
    site = units.site(slurm={"time": "12:00:00", "partition": "short"})
    unit = units.unit(site)
    short = Partition(name="short", max_s=3600.0)
    done = render.render(unit, site, short)
    assert "#SBATCH --time=01:00:00" in done.files["batch.sh"]
    assert "partition short" in done.notes[0] and "12:04:00" in done.notes[0]
    roomy = render.render(unit, site, Partition(name="short", max_s=1e6))
    assert "#SBATCH --time=12:04:00" in roomy.files["batch.sh"] and not roomy.notes


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(60, "00:01:00"), (61, "00:02:00"), (43200, "12:00:00"), (90000, "1-01:00:00")],
)
def test_clocks(seconds: float, text: str) -> None:
    assert render.clock(seconds) == text


def test_free_flags_are_words_of_the_command() -> None:
    hostile = "$(touch canary)\n#SBATCH --wrap=x"
    done = rendered(slurm={"sbatch_args": {"mail_user": hostile, "hold": True}})
    assert f"--mail-user={hostile}" in done.commands[-1] and "--hold" in done.commands[-1]  # fmt: skip
    assert "canary" not in str(done.files)
    with pytest.raises(UsageError, match="'gres' is lemnos' own flag"):
        rendered(slurm={"sbatch_args": {"gres": "gpu:1"}})


def test_it_is_tested_before_it_is_submitted() -> None:
    test, submit = one_node().commands
    assert "--test-only" in test and test[-1] == submit[-1]
    assert test[-1].endswith("/units/engine-0/batch.sh")
    assert "--unset=SBATCH_PARTITION" in submit, "it would outrank the script's line"


def test_steps_are_where_their_hosts_are() -> None:
    unit, site = dynamo(Role(prefill=4, decode=2), 6, 4)
    batch = render.render(unit, site).files["batch.sh"]
    steps = [line for line in batch.splitlines() if line.startswith("step ")]
    assert [line.split('"')[1] for line in steps] == [
        *['${nodes[0]}'] * 3,
        *[f"${{nodes[{i}]}}" for i in range(6)],
    ]  # fmt: skip
    assert "#SBATCH --nodes=6" in batch and "--gres=gpu:gb200:4" in batch


def test_devices_count_among_those_that_slurm_gave() -> None:
    decode = split_on_one_node().files["engine-0.2.sh"]
    assert '"$name=${given[2]},${given[3]}"' in decode
    assert "CUDA_VISIBLE_DEVICES=2,3" not in decode


def test_fewer_nodes_than_the_plan_has_are_refused() -> None:
    with pytest.raises(UsageError) as caught:
        rendered(2, 4, slurm={"nodes": 1})
    assert caught.value.where == "slurm.nodes"


def test_a_drain_longer_than_the_job_is_refused() -> None:
    with pytest.raises(UsageError, match="as soon as it starts"):
        rendered(slurm={"time": "60s", "drain_s": 60})


@pytest.mark.parametrize("key", ["account", "partition", "qos", "constraint", "nodelist"])  # fmt: skip
@pytest.mark.parametrize("value", ["a b", "a\nb", "$(x)", "`x`", "a'b", 'a"b', "-x", "a#b", "a;b", "a\\b"])  # fmt: skip
def test_words_of_the_header_that_are_none_are_refused(key: str, value: str) -> None:
    if ";" in value:
        assert f"--{key}={value}" in header({key: value}), "no word for a shell"
        return
    with pytest.raises(ValueError):
        DeploymentSpec.model_validate({"model": "m", "slurm": {key: value}})


def test_it_takes_milliseconds() -> None:
    two_nodes()
    started = time.process_time()
    for _ in range(10):
        two_nodes()
    assert time.process_time() - started < 0.5  # 50 ms each is the budget
