"""``lemnos plan --on``: real Slurms and the fake PBS say when layouts could start."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import lemnos
from lemnos.errors import LemnosError
from lemnos.spec.deployment import DeploymentSpec
from lemnos.spec.document import load
from tests.command import lemnos as run
from tests.command import report
from tests.testbeds.fake_pbs import FakePbs, fake_pbs
from tests.testbeds.fixtures import GENERATIONS
from tests.testbeds.slurm import Slurm
from tests.waiting import until

HOUR = 3600.0


def plans(
    model: str, on: str, *settings: str, cluster: str | None = None, **ask: Any
) -> dict[str, Any]:
    """What ``lemnos plan MODEL --on ROOM --json`` prints."""
    spec = lemnos.deployment_spec(model, on=on, settings=list(settings))
    return lemnos.queued_plans(spec, cluster, **ask).model_dump(mode="json")


def rows(answer: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The plans by ``8: 2 x TP4`` (GPUs of their jobs, and layout)."""
    found = {}
    for row in answer["plans"]:
        layout = row["plan"]["layout"]
        many = "" if layout["replicas"] == 1 else f"{layout['replicas']} x "
        stages = "" if layout["pipeline"] == 1 else f" PP{layout['pipeline']}"
        total = row["size"]["hosts"] * row["size"]["gpus"] * row["replicas"]
        found[f"{total}: {many}TP{layout['tensor']}{stages}"] = row
    return found


def hours(answer: dict[str, Any], at: float | None) -> float | None:
    """From the moment of asking, to a hundredth."""
    return None if at is None else round((at - answer["at"]) / HOUR, 1)


@pytest.fixture(scope="module")
def pbs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakePbs]:
    """Three nodes of eight H200; one is taken for 12 h, half of another for 9 h."""
    directory = tmp_path_factory.mktemp("pbs") / "p"
    with fake_pbs(directory, words={"gpu_model": "h200"}) as running:
        for gpus, walltime in ((8, "12:00:00"), (4, "9:00:00")):
            wanted = (f"-lselect=1:ngpus={gpus}:ncpus=1", f"-lwalltime={walltime}")
            silent = ("-j", "oe", "-o", "/dev/null", "--", "/bin/sleep", "1009")
            assert not running.run("qsub", *wanted, *silent).returncode
        until(lambda: all(job["job_state"] == "R" for job in running.jobs().values()))
        yield running


@pytest.fixture(scope="module")
def busy(cluster: Slurm) -> Iterator[Slurm]:
    """Of three nodes of eight H100, n2 is taken for 9 h, n3 for 12 h, and half of n1 for 9 h."""
    jobs = []
    for node, gpus, time in (("n1", 4, 9), ("n2", 8, 9), ("n3", 8, 12)):
        words = (f"--nodelist={node}", f"--gres=gpu:{gpus}", f"--time={time}:00:00")
        jobs.append(cluster.submit(*words, "--output=/dev/null", "--wrap=sleep 1010"))  # fmt: skip
    new = ("scontrol", "create", "PartitionName=small", "Nodes=ALL", "MaxNodes=1", "State=UP")  # fmt: skip
    cluster.run("login", *new)
    until(lambda: {cluster.state(job) for job in jobs} == {"RUNNING"})
    yield cluster
    cluster.clear()
    cluster.run("login", "scontrol", "delete", "PartitionName=small")


def test_plan_without_a_room_imports_no_launchers() -> None:
    code = (
        "import sys; from lemnos.cli.main import main\n"
        "sys.argv = ['lemnos', 'plan', 'qwen3-8b', '--cluster', '1xH100', '--json']\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "rooms = ('lemnos.launchers', 'lemnos.deployments', 'lemnos.queues', 'lemnos.api')\n"
        "sys.stderr.write(' '.join(m for m in sys.modules if m.startswith(rooms)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)  # fmt: skip
    assert json.loads(done.stdout)["plans"] and done.stderr == ""


def test_a_room_must_be_named() -> None:
    done = run("plan", "qwen3-8b", "--set", "slurm.partition=gpu", code=2)
    assert "add --on slurm" in done.stderr
    with pytest.raises(LemnosError, match="unknown launcher 'slrum'") as caught:
        plans("qwen3-8b", "slrum")
    assert "'slurm'" in caught.value.fix


class TestPbs:
    """The fake one, with its own way of saying what is free."""

    def test_eight_now_and_more_when_others_end(self, pbs: FakePbs) -> None:
        answer = plans("glm-4.5-air-fp8", "pbs", f"pbs.bin={pbs.bin}")
        assert answer["headline"] == "H200 GPUs: 1, 2, 4, 8 now; 16 in 9 h; 24 in 12 h"
        assert answer["advice"].startswith("start with 8 GPUs now")
        found = rows(answer)
        assert hours(answer, found["8: TP8"]["full_at"]) == 0.0
        several = found["16: 16 x TP1"]
        assert several["replicas_then"] == 8, "as many as eight GPUs hold"
        assert hours(answer, several["first_at"]) == 0.0
        assert hours(answer, several["full_at"]) == 9.0
        assert "1 of the 2 nodes" in several["why"]

    def test_people_see_a_table_and_a_sentence(self, pbs: FakePbs) -> None:
        words = (
            "plan",
            "glm-4.5-air-fp8",
            "--on",
            "pbs",
            "--set",
            f"pbs.bin={pbs.bin}",
        )
        text = run(*words).stdout
        assert "now (8 GPUs)" in text and "why not now" in text
        assert "(in 9 h)" in text and "start with 8 GPUs now" in text
        assert "KV cache holds" in text, "the first plan in detail"

    def test_a_refusal_of_all_is_said_once(self, pbs: FakePbs) -> None:
        for settings, said in (
            (("pbs.memory=100tb",), "no node has 102400 GiB"),
            (("pbs.queue=short", "pbs.time=60m"), "more than the 01:00:00"),
        ):
            with pytest.raises(LemnosError, match=said):
                plans("glm-4.5-air-fp8", "pbs", f"pbs.bin={pbs.bin}", *settings)
        sets = ("--set", f"pbs.bin={pbs.bin}", "--set", "pbs.queue=shortt")
        done = run("plan", "glm-4.5-air-fp8", "--on", "pbs", *sets, code=2)
        assert done.stderr.count("the queue 'shortt' is unknown") == 1
        assert not done.stdout

    def test_of_a_larger_room_than_there_is(self, pbs: FakePbs) -> None:
        answer = plans(
            "glm-4.5-air-fp8", "pbs", f"pbs.bin={pbs.bin}", cluster="4x8xH200"
        )
        most = rows(answer)["32: 16 x TP2"]
        assert most["full_at"] is None and "cannot be asked about" in most["why"]
        assert most["replicas_then"] == 4

    def test_gpus_without_a_kind(self, tmp_path: Path) -> None:
        with fake_pbs(tmp_path / "p") as nameless:
            here = f"pbs.bin={nameless.bin}"
            with pytest.raises(LemnosError, match="does not say which GPUs") as caught:
                plans("glm-4.5-air-fp8", "pbs", here)
            assert "--cluster 2x8xH100" in caught.value.fix
            answer = plans("glm-4.5-air-fp8", "pbs", here, cluster="3x8xH200")
            assert answer["headline"].endswith("24 now")

    def test_the_engine_of_the_cpu_has_one_layout(self, pbs: FakePbs) -> None:
        words = ("plan", "--on", "pbs", "--set", f"pbs.bin={pbs.bin}")
        assert "pbs would start it: now" in run(*words).stdout
        answer = report(*words)
        assert answer["room"]["free"] is True
        assert answer["plan"]["engine"] == "llamacpp"


@pytest.mark.bed
class TestSlurm:
    """Both generations, through ``sbatch --test-only``."""

    @pytest.fixture(autouse=True)
    def path(self, busy: Slurm, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", f"{busy.bin}:{os.environ['PATH']}")

    def test_four_now_eight_in_nine_hours(self, busy: Slurm, home: Path) -> None:
        answer = report("plan", "qwen3-8b", "--on", "slurm")
        assert answer["headline"] == "H100 GPUs: 1, 2, 4 now; 8, 16 in 9 h; 24 in 12 h"
        assert answer["advice"].startswith("start with 4 GPUs now (qwen3-8b as TP4, ")
        assert answer["advice"].endswith("(in 12 h)")
        found = rows(answer)
        assert next(iter(found)) == "4: TP4"
        assert hours(answer, found["8: TP8"]["full_at"]) == 9.0
        assert hours(answer, found["24: 3 x TP8"]["full_at"]) == 12.0
        assert found["24: 3 x TP8"]["replicas_then"] == 2
        alone = found["4: TP4"]
        assert alone["wait_s"] == 0.0 and alone["why"] == ""
        assert alone["first_token_s"] >= alone["plan"]["ready_s"]
        assert not (home / "lemnos/state/deployments").exists(), "asking writes nothing"
        assert len(busy.run("login", "squeue", "--noheader").splitlines()) == 3

    def test_replicas_are_jobs_of_their_own(self) -> None:
        answer = plans("qwen3-8b", "slurm", replicas=2, tensor=4)
        (row,) = answer["plans"]
        assert (row["size"], row["replicas"]) == ({"hosts": 1, "gpus": 4}, 2)
        assert hours(answer, row["first_at"]) == 0.0
        assert hours(answer, row["full_at"]) == 9.0
        assert "4 of its 8 GPUs can start now" in answer["advice"]

    def test_a_layout_that_the_partition_cannot_hold(self) -> None:
        """On H100, glm-4.6 needs two nodes, as FP8 eight GPUs, as AWQ four."""
        answer = plans("glm-4.6", "slurm", "slurm.partition=small")
        *_, last = answer["plans"]
        assert last["plan"]["layout"]["pipeline"] == 2
        assert "no nodes of the partition have what is asked for: nodes 2" in last["refused"]  # fmt: skip
        assert answer["headline"] == "H100 GPUs: 4 now; 8 in 9 h; 16 refused"
        assert answer["plans"][0]["plan"]["model"] == "glm-4.6-awq"
        assert "would serve glm-4.6-fp8 from" in answer["advice"]

    def test_a_partition_that_runs_nothing(self) -> None:
        answer = plans("qwen3-8b", "slurm", "slurm.partition=down")
        assert {row["first_at"] for row in answer["plans"]} == {None}
        assert "slurm does not say when anything would start" in answer["advice"]

    def test_an_unknown_partition_is_said_once(self) -> None:
        unknown = "slurm.partition=gpuu"
        with pytest.raises(LemnosError, match="unknown partition 'gpuu'") as caught:
            plans("qwen3-8b", "slurm", unknown, cluster="3x8xH100")
        assert "Did you mean 'gpu'?" in caught.value.fix

    def test_saved_and_taken_up_again(self, tmp_path: Path) -> None:
        saved = tmp_path / "plan.yaml"
        sets = ("--set", "slurm.partition=gpu", "--set", "slurm.time=2:00:00")
        run("plan", "glm-4.6", "--on", "slurm", *sets, "--save", str(saved))
        spec = load(saved, DeploymentSpec)
        assert (spec.on, spec.slurm.partition, spec.slurm.time) == ("slurm", "gpu", 7200.0)  # fmt: skip
        assert spec.plan and spec.plan.model == "glm-4.6-awq"
        shown = run("up", str(saved), "--dry-run").stdout
        assert "#SBATCH --gres=gpu:4" in shown and "--partition=gpu" in shown
        (row,) = plans(str(saved), "slurm")["plans"]
        assert row["plan"]["model"] == "glm-4.6-awq" and row["wait_s"] == 0.0

    def test_a_spec_that_names_its_room(self, tmp_path: Path) -> None:
        spec = tmp_path / "deployment.yaml"
        spec.write_text(
            "model: qwen3-8b\nengine: vllm\non: slurm\nreplicas: 2\n"
            "slurm: {partition: gpu, gpus_per_node: 4}\n"
        )
        answer = report("plan", str(spec), "--set", "slurm.time=8:00:00")
        assert {row["size"]["gpus"] for row in answer["plans"]} == {4}
        assert {row["replicas"] for row in answer["plans"]} == {2}
        assert answer["spec"]["slurm"]["partition"] == "gpu"

    def test_from_another_machine(self, busy: Slurm) -> None:
        """n1 has Slurm's clients, too: --via is what asks login instead."""
        words = ("plan", "qwen3-8b", "--on", "slurm", "--via", "login", "--json")
        home = {"LEMNOS_HOME": str(busy.directory / "elsewhere")}
        told = busy.run("n1", sys.executable, "-m", "lemnos", *words, env=os.environ | home)  # fmt: skip
        assert json.loads(told)["headline"].startswith("H100 GPUs: 1, 2, 4 now; 8")


@pytest.mark.bed
@pytest.mark.parametrize("generation", GENERATIONS)
def test_what_slurms_accounts_refuse(
    generation: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with GENERATIONS[generation](tmp_path / "slurm", nodes=2, accounting=True) as bed:
        monkeypatch.setenv("PATH", f"{bed.bin}:{os.environ['PATH']}")
        with pytest.raises(LemnosError, match="the account 'none'") as caught:
            plans("qwen3-8b", "slurm", "slurm.account=none")
        assert "slurm.account" in caught.value.fix
        limit = ("set", "MaxTRESPerJob=gres/gpu=4", "flags=DenyOnLimit")
        bed.run("login", "sacctmgr", "-i", "modify", "qos", "normal", *limit)
        refused = ["sbatch", "--test-only", "--gres=gpu:8", "--wrap=true"]
        until(lambda: subprocess.run([*bed.at("login"), *refused], capture_output=True, check=False).returncode)  # fmt: skip
        answer = plans("qwen3-8b", "slurm")
        found = rows(answer)
        assert found["4: TP4"]["wait_s"] == 0.0
        assert "than your account or QoS may have" in found["8: TP8"]["refused"]
        # Jobs of their own: each may start, and nobody can be asked about all of them.
        assert hours(answer, found["8: 2 x TP4"]["first_at"]) == 0.0
        assert found["8: 2 x TP4"]["full_at"] is None
