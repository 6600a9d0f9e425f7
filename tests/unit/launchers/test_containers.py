"""Containers: what each runtime is told, as an administrator would read it; and what the lines around it do."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lemnos.errors import UsageError
from lemnos.launchers.containers import inside, name_of, removal, step_flags
from lemnos.launchers.script import script_of
from lemnos.spec.plan import Command, Job, Secret
from lemnos.spec.rooms import ContainerSpec
from tests.contract.launchers.bed import check_script

GOLDEN = Path(__file__).parents[2] / "data/golden/containers"
HOME = "/home/ann/.local/state/lemnos/deployments/chat"
SEEN: dict[str, Any] = {
    "writable": (HOME, "/scratch/cache"),
    "readable": (f"{HOME}/engine.key",),
}
IMAGES = {
    "docker": "vllm/vllm-openai:v0.26.0",
    "podman": "docker.io/vllm/vllm-openai:v0.26.0",
    "apptainer": "/images/vllm-0.26.0.sif",
    "pyxis": "nvcr.io/nvidia/vllm:26.10-py3",
}
EVIL = "a b'\"$(touch canary)`touch canary`;\nx %n \\ é"


def job(*words: str, env: dict[str, str] | None = None) -> Job:
    """vLLM, with a key and two variables."""
    command = Command(
        argv=("vllm", "serve", "/models/glm", "--port", "4000", *words),
        env={"NCCL_DEBUG": "WARN", "CUDA_VISIBLE_DEVICES": "2,3"}
        if env is None
        else env,  # fmt: skip
        secrets=(Secret(key_file=f"{HOME}/engine.key", env="VLLM_API_KEY"),),
    )
    return Job(
        deployment="chat",
        role="engine",
        command=command,
        port=4000,
        log=f"{HOME}/engine-0.log",
    )


def spec(runtime: str, **keys: Any) -> ContainerSpec:
    return ContainerSpec.model_validate(
        {"image": IMAGES[runtime], "runtime": runtime} | keys
    )


CASES: dict[str, dict[str, Any]] = {
    "no GPU": {"gpus": False, "keys": {}},
    "these GPUs": {"gpus": ("2", "3"), "keys": {}},
    "this GPU, by UUID": {"gpus": ("GPU-8d5c",), "keys": {}},
    "the scheduler's GPUs": {"gpus": True, "keys": {}},
    "mounts": {"gpus": False, "keys": {"mounts": ["/data", "/big/m:/models:ro"]}},
    "flags": {
        "gpus": False,
        "keys": {"args": {"shm_size": "32g", "pull": "missing", "init": False}},
    },
}


@pytest.mark.parametrize("runtime", IMAGES)
def test_golden(runtime: str) -> None:
    """GOLDEN=1 writes them anew."""
    text = ""
    for name, case in CASES.items():
        container = spec(runtime, **case["keys"])
        if runtime == "pyxis":
            shown = "\n".join(step_flags(job(), container, **SEEN))
        else:
            shown = script_of(inside(job(), container, gpus=case["gpus"], **SEEN))
        text += f"==> {name} <==\n{shown}\n"
    path = GOLDEN / f"{runtime}.txt"
    if os.environ.get("GOLDEN"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert text == path.read_text()


def test_the_whole_matrix_is_sound_shell(tmp_path: Path) -> None:
    for runtime, gpus, mounts, words in itertools.product(
        ("docker", "podman", "apptainer"),
        (False, True, ("0",), ("0", "1")),
        ([], ["/data:/x:ro"]),
        ((), (EVIL, "--json={}")),
    ):
        seen = SEEN | {"gpus": gpus}
        made = inside(job(*words), spec(runtime, mounts=mounts), **seen)
        check_script(tmp_path, "x.sh", script_of(made))
        (tmp_path / "inner").write_text(made.command.argv[2])
        check_script(tmp_path, "y.sh", f"#!/bin/sh\n{made.command.argv[2]}")


# ---------------------------------------------------------------- run for real, up to the runtime


@pytest.fixture
def shims(tmp_path: Path) -> Iterator[Path]:
    """Runtimes that keep what they were told."""
    for name in ("docker", "podman", "apptainer"):
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(
            f'#!/bin/sh\n[ "$1" = rm ] && {{ echo "$@" >> {tmp_path}/removed; exit 1; }}\n'
            f"printf '%s\\0' \"$@\" > {tmp_path}/argv; env -0 > {tmp_path}/env\n"
        )
        path.chmod(0o755)
    yield tmp_path


def ran(shims: Path, made: Job, **env: str) -> tuple[list[str], dict[str, str]]:
    """What the runtime was told, and its environment."""
    key = shims / "key"
    key.write_text("s3cret $HOME\n")
    text = script_of(made).replace(f"{HOME}/engine.key", str(key))
    environment = {"PATH": f"{shims}/bin:{os.environ['PATH']}", "USER": "ann", **env}
    subprocess.run(["sh", "-c", text], env=environment, cwd=shims, check=True)
    argv = (shims / "argv").read_text().split("\0")[:-1]
    pairs = (shims / "env").read_text().split("\0")[:-1]
    return argv, dict(pair.split("=", 1) for pair in pairs)


@pytest.mark.parametrize("runtime", ["docker", "podman", "apptainer"])
def test_words_and_variables_arrive_and_keys_are_in_no_argv(
    shims: Path, runtime: str
) -> None:
    env = {"EVIL": EVIL, "EMPTY": ""}
    made = inside(job(EVIL, "", env=env), spec(runtime), gpus=("0",), **SEEN)
    argv, seen = ran(shims, made)
    prefix = "APPTAINERENV_" if runtime == "apptainer" else ""
    assert seen[f"{prefix}EVIL"] == EVIL and seen[f"{prefix}EMPTY"] == ""
    assert seen[f"{prefix}VLLM_API_KEY"] == "s3cret $HOME"
    assert not [word for word in argv if "s3cret" in word]
    after = argv[argv.index(IMAGES[runtime]) + 1 :]
    command = list(job(EVIL, "").command.argv)
    if runtime == "apptainer":
        assert argv[0] == "exec" and after == command
    else:
        assert argv[0] == "run" and after == command[1:]
        assert f"--entrypoint={command[0]}" in argv
        names = [b for a, b in itertools.pairwise(argv) if a == "--env"]
        assert {"EVIL", "EMPTY", "VLLM_API_KEY", "LEMNOS_JOB", "USER"} <= {*names}
    assert not (shims / "canary").exists()


def test_an_earlier_container_of_the_name_is_removed(shims: Path) -> None:
    for runtime in ("docker", "podman"):
        (shims / "removed").unlink(missing_ok=True)
        container = spec(runtime)
        argv, _ = ran(shims, inside(job(), container, gpus=False, **SEEN))
        name = argv[argv.index("--name") + 1]
        assert name == name_of(job())
        assert removal(job(), container) == (runtime, "rm", "--force", name)
        assert (shims / "removed").read_text() == f"rm --force {name}\n"
    assert removal(job(), spec("apptainer")) == ()
    elsewhere = job().model_copy(update={"log": "/other/engine-0.log"})
    assert name_of(elsewhere) != name_of(job())
    assert name_of(job().model_copy(update={"rank": 1})) != name_of(job())


def test_docker_runs_as_the_caller_with_all_groups(shims: Path) -> None:
    argv, _ = ran(shims, inside(job(), spec("docker"), gpus=False, **SEEN))
    assert argv[argv.index("--user") + 1] == f"{os.getuid()}:{os.getgid()}"
    groups = [b for a, b in itertools.pairwise(argv) if a == "--group-add"]
    assert {*groups} == {str(group) for group in (*os.getgroups(), os.getgid())}


@pytest.mark.parametrize(
    ("env", "docker", "podman"),
    [
        ({}, ["all"], ["nvidia.com/gpu=all"]),
        ({"CUDA_VISIBLE_DEVICES": "GPU-a,GPU-b"}, ['"device=GPU-a,GPU-b"'], ["nvidia.com/gpu=GPU-b", "nvidia.com/gpu=GPU-a"]),
        ({"CUDA_VISIBLE_DEVICES": ""}, [], []),
        ({"CUDA_VISIBLE_DEVICES": "0", "SLURM_JOB_GPUS": "5"}, ['"device=5"'], ["nvidia.com/gpu=5"]),
        ({"SLURM_STEP_GPUS": "6", "SLURM_JOB_GPUS": "5,6"}, ['"device=6"'], ["nvidia.com/gpu=6"]),
    ],
)  # fmt: skip
def test_what_a_scheduler_gave_is_taken(
    shims: Path, env: dict[str, str], docker: list[str], podman: list[str]
) -> None:
    for runtime, flag, expected in (
        ("docker", "--gpus", docker),
        ("podman", "--device", podman),
    ):
        made = inside(job(env={}), spec(runtime), gpus=True, **SEEN)
        argv, _ = ran(shims, made, **env)
        assert [b for a, b in itertools.pairwise(argv) if a == flag] == expected
        assert "CUDA_VISIBLE_DEVICES" not in argv, "inside they are counted from 0"
    made = inside(job(env={}), spec("apptainer"), gpus=True, **SEEN)
    _, seen = ran(shims, made, **env)
    name = "CUDA_VISIBLE_DEVICES"
    assert seen.get(f"APPTAINERENV_{name}") == env.get(name)


@pytest.mark.skipif(not shutil.which("docker"), reason="docker is not installed")
def test_dockers_own_client_knows_the_flags(tmp_path: Path) -> None:
    for gpus, keys in ((False, {}), (True, {}), (("0", "GPU-1"), CASES["flags"]["keys"])):  # fmt: skip
        container = spec("docker", mounts=["/data:/x:ro"], **keys)
        made = inside(job(), container, gpus=gpus, **SEEN)
        done = subprocess.run(
            made.command.argv,
            env=os.environ | {"DOCKER_HOST": f"unix://{tmp_path}/no-daemon"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert "annot connect to the Docker daemon" in done.stderr, done.stderr


# ---------------------------------------------------------------- what is refused


@given(st.text(min_size=1, max_size=30))
def test_a_path_is_mounted_as_it_is_or_refused(text: str) -> None:
    path = f"/{text}"
    for runtime in ("docker", "podman", "apptainer"):
        try:
            made = inside(job(), spec(runtime), gpus=False, writable=(path,))
        except UsageError as error:
            assert "cannot be mounted" in str(error)
            continue
        flag = "--bind" if runtime == "apptainer" else "--mount"
        bound = [b for a, b in itertools.pairwise(made.command.argv) if a == flag]
        assert bound[0] in (f"type=bind,source={path},target={path}", f"{path}:{path}")


def test_what_cannot_be_is_refused_with_the_key_to_change() -> None:
    for runtime, keys, words in (
        ("docker", {"args": {"name": "x"}}, "'name' is lemnos' own"),
        ("podman", {"args": {"--env": "A=b"}}, "use engine_env"),
        ("docker", {"image": "--privileged"}, "is no image"),
        ("docker", {"mounts": ["relative"]}, "must be absolute"),
        ("docker", {"mounts": ["/a:/b:rx"]}, "is no mount"),
        ("docker", {"mounts": ["/a,b"]}, "without commas"),
        ("apptainer", {"image": "docker://vllm"}, "at every start"),
        ("pyxis", {}, "pyxis is a part of Slurm"),
    ):
        with pytest.raises(UsageError, match=words) as raised:
            inside(job(), spec(runtime, **keys), gpus=False, **SEEN)
        assert raised.value.where.startswith("container.")
    with pytest.raises(UsageError, match="is no variable's name"):
        bad = job(env={"a; touch canary": "x"})
        inside(bad, spec("apptainer"), gpus=False, **SEEN)


def test_images_as_pyxis_writes_them() -> None:
    for image, written in (
        ("nvcr.io/nvidia/x:1", "nvcr.io#nvidia/x:1"),
        ("localhost:5000/x", "localhost:5000#x"),
        ("vllm/vllm-openai", "vllm/vllm-openai"),
        ("/images/x.sqsh", "/images/x.sqsh"),
        ("./x.sqsh", "./x.sqsh"),
        ("nvcr.io#nvidia/x", "nvcr.io#nvidia/x"),
    ):
        flags = step_flags(job(), spec("pyxis", image=image), **SEEN)
        assert flags[0] == f"--container-image={written}"
    assert "--container-env=NCCL_DEBUG,CUDA_VISIBLE_DEVICES,VLLM_API_KEY,LEMNOS_JOB,USER,LOGNAME" in flags  # fmt: skip
