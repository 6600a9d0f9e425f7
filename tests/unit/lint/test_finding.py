"""Which commands are found, in what kinds of text, and against which release they are checked."""

from __future__ import annotations

import pytest

from lemnos.lint.batch import Gpus, batch_gpus
from lemnos.lint.documents import kind_of, read_document
from lemnos.lint.find import image_of, search
from lemnos.lint.linting import Asked, lint
from lemnos.lint.versions import release_of
from lemnos.lint.words import UNKNOWN, plain


def found(text: str) -> list[tuple[str, str | None, list[str]]]:
    """(engine, version, argv) of each command in shell text."""
    return [
        (f.engine, f.version, [w.text.replace(UNKNOWN, "?") for w in f.words])
        for f in search(plain(text)).found
    ]


VLLM = [("vllm", None, ["m", "--x", "1"])]


@pytest.mark.parametrize(
    "text",
    [
        "vllm serve m --x 1",
        "$ vllm serve m --x 1",
        "/opt/venv/bin/vllm serve m --x 1",
        '"$VENV"/bin/vllm serve m --x 1',
        "python -m vllm.entrypoints.openai.api_server m --x 1",
        "python3.11 -u -m vllm.entrypoints.openai.api_server m --x 1",
        "$PYTHON -m vllm.entrypoints.openai.api_server m --x 1",
        "python -m vllm.entrypoints.cli.main serve m --x 1",
        "srun -N 2 --gpus-per-node=4 vllm serve m --x 1",
        "mpirun -np 1 vllm serve m --x 1",
        "nohup vllm serve m --x 1 > log 2>&1 &",
        "env A=b vllm serve m --x 1",
        "A=b exec vllm serve m --x 1",
        "time vllm serve m --x 1",
        "if true; then vllm serve m --x 1; fi",
        "uv run vllm serve m --x 1",
        "conda run -n e vllm serve m --x 1",
        "bash -c 'vllm serve m --x 1'",
        'bash -lc "source a && vllm serve m --x 1"',
        "ssh host 'nohup vllm serve m --x 1 > log &'",
        "ssh host vllm serve m --x 1",
        "srun bash -c 'exec vllm serve m --x 1'",
        "ray exec cluster.yaml 'vllm serve m --x 1'",
        "docker exec box vllm serve m --x 1",
        "docker run my/image vllm serve m --x 1",
        "apptainer exec --nv vllm.sif vllm serve m --x 1",
        "kubectl exec -it pod -- vllm serve m --x 1",
        "sbatch --wrap='vllm serve m --x 1'",
        "bash <<'E'\nvllm serve m --x 1\nE",
        "cat > run.sh <<E\n#!/bin/sh\nvllm serve m --x 1\nE",
        "cat > run.sbatch <<E\nvllm serve m --x 1\nE",
        "echo $(vllm serve m --x 1)",
        "sudo -u me timeout 5 numactl -N 0 vllm serve m --x 1",
    ],
)
def test_commands_are_found_in_what_runs_them(text: str) -> None:
    assert found(text) == VLLM


@pytest.mark.parametrize(
    ("text", "engine", "version"),
    [
        ("docker run -e A=b vllm/vllm-openai:v0.15.0 m --x 1", "vllm", "0.15.0"),
        ("docker run vllm/vllm-openai:latest m --x 1", "vllm", None),
        ("docker run lmsysorg/sglang:v0.5.6-cu130 python3 -m sglang.launch_server m --x 1", "sglang", "0.5.6-cu130"),
        ("apptainer run docker://vllm/vllm-openai:v0.11.0 vllm serve m --x 1", "vllm", "0.11.0"),
        ("docker run nvcr.io/nvidia/ai-dynamo/sglang-runtime:0.8.1 python -m dynamo.sglang m --x 1", "dynamo.sglang", "0.8.1"),
        ("docker run nvcr.io/nvidia/ai-dynamo/vllm-runtime:0.8.1 vllm serve m --x 1", "vllm", None),
        ("sglang serve m --x 1", "sglang", None),
        ("python -m dynamo.frontend m --x 1", "dynamo.frontend", None),
        ("llama-server m --x 1", "llamacpp", None),
        ("trtllm-serve m --x 1", "other:TensorRT-LLM", None),
        ("python -m mlc_llm m --x 1", "other:mlc_llm", None),
        ("srun --container-image=nvcr.io#nvidia/ai-dynamo/sglang-runtime:1.0.0 python -m dynamo.sglang m --x 1", "dynamo.sglang", "1.0.0"),
    ],
)  # fmt: skip
def test_engines_and_images_tell_what_runs(
    text: str, engine: str, version: str | None
) -> None:
    assert found(text) == [(engine, version, ["m", "--x", "1"])]


@pytest.mark.parametrize(
    "text",
    [
        "echo vllm serve m",
        "# vllm serve m",
        "pip install vllm",
        "vllm bench m",
        "python -m pip install vllm",
        "python serve.py -m vllm.entrypoints.openai.api_server",
        "docker run --entrypoint bash vllm/vllm-openai:v0.15.0 -c ls",
        "docker pull vllm/vllm-openai:v0.15.0",
        "cat <<E\nvllm serve m\nE",
        "cat > a.py <<E\n#!/usr/bin/env python\nvllm serve m\nE",
        "python -m",
        "ollama",
    ],
)
def test_what_starts_nothing_is_left_alone(text: str) -> None:
    assert found(text) == []


def test_a_containers_environment_is_the_commands() -> None:
    text = "docker run -e CUDA_VISIBLE_DEVICES=0 --env=B=1 vllm/vllm-openai:v0.15.0 m"
    env = search(plain(text)).found[0].env
    assert {name: word.text for name, word in env.items()} == {
        "CUDA_VISIBLE_DEVICES": "0",
        "B": "1",
    }


def test_images() -> None:
    assert image_of("vllm/vllm-openai:v0.15.0@sha256:ab") == ("vllm", "0.15.0")
    assert image_of("registry:5000/me/sglang:dev") == ("sglang", None)
    assert image_of("nginx:1.2") == (None, None)


POD = """
apiVersion: v1
kind: Pod
spec:
  containers:
  - image: vllm/vllm-openai:v0.15.0
    args:
    - --model
    - $(MODEL)
    - "--swap-space"  # gone later
    - '4'
    - --port=$(PORT)
    env:
    - {name: MODEL, value: Qwen/Qwen3-8B}
    resources: {limits: {nvidia.com/gpu: "2"}}
  - image: me/vllm
    command: [sh, -c]
    args: ["exec vllm serve m --swap-space 4"]
  - image: lmsysorg/sglang:v0.5.6
    command: [python3, -m, sglang.launch_server]
    args: [--model-path, m]
"""

COMPOSE = """
services:
  a:
    image: vllm/vllm-openai:v0.15.0
    command: >
      --model m
      --swap-space 4
    environment: {A: b}
    deploy: {resources: {reservations: {devices: [{driver: nvidia, count: 3}]}}}
  b:
    image: x
    entrypoint: vllm serve m --swap-space 4
    environment: [C=d]
  c:
    image: y
    command: ["vllm", "serve", "${M:-m}", "--x", "${N}"]
"""


def test_kubernetes() -> None:
    text = POD
    commands = read_document(text, "manifest").reading.found
    assert [(c.engine, c.version, c.gpus) for c in commands] == [
        ("vllm", "0.15.0", 2),
        ("vllm", None, None),
        ("sglang", "0.5.6", None),
    ]
    first = commands[0]
    assert [w.text for w in first.words] == [
        "--model",
        "Qwen/Qwen3-8B",
        "--swap-space",
        "4",
        "--port=" + UNKNOWN,
    ]
    word = first.words[2]
    assert text[word.start : word.end] == '"--swap-space"'
    assert text[slice(*word.span(0, 3))] == "--s"


def test_compose() -> None:
    commands = read_document(COMPOSE, "manifest").reading.found
    assert [(c.engine, c.gpus, len(c.words)) for c in commands] == [
        ("vllm", 3, 4),
        ("vllm", None, 3),
        ("vllm", None, 3),
    ]
    word = commands[0].words[2]
    assert COMPOSE[word.start : word.end] == "--swap-space"
    assert commands[2].words[0].text == "m"
    assert not commands[2].words[2].known
    assert commands[1].env["C"].text == "d"


@pytest.mark.parametrize(
    "text", ["a: [b", "a: &x [*x]\nb: *y", "\x07: 1", "a: " + "[" * 90]
)
def test_what_is_no_yaml_is_a_finding(text: str) -> None:
    report = lint(text, "a.yaml")
    assert [one.rule for one in report.findings] in (["unreadable"], [])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("#SBATCH --nodes=2\n#SBATCH --gres=gpu:h100:4", Gpus(2, 4, "h100")),
        ("#SBATCH -N 2\n#SBATCH --gpus-per-node=8", Gpus(2, 8)),
        ("#SBATCH --nodes=2\n#SBATCH --gpus=a100:8 # all", Gpus(2, 4, "a100")),
        ("#SBATCH -G 4", Gpus(1, 4)),
        ("#SBATCH --ntasks-per-node=2\n#SBATCH --gpus-per-task=2", Gpus(1, 4)),
        ("#SBATCH --nodes=3\n#SBATCH --gpus=8", None),
        ("#SBATCH --nodes=$N\n#SBATCH --gpus=8", None),
        ("#SBATCH --gpus=$N", None),
        ("#SBATCH --gres=tmp:1", None),
        ("#PBS -l select=2:ncpus=64:ngpus=8:gpu_type=H200", Gpus(2, 8, "H200")),
        ("#PBS -l nodes=2:gpus=4", Gpus(2, 4)),
        ("#PBS -l walltime=1", None),
        ("#PBS -l select=1:ncpus=4", None),
        ("vllm serve", None),
    ],
)
def test_batch_files_say_what_they_ask_for(text: str, expected: Gpus | None) -> None:
    assert batch_gpus(text) == expected
    assert expected is None or expected.count == expected.nodes * expected.per_node


@pytest.mark.parametrize(
    ("name", "text", "kind"),
    [
        ("a.sbatch", "x", "script"),
        ("a", "#!/bin/sh", "script"),
        ("a.yml", "x", "manifest"),
        ("README.md", "# x", "prose"),
        ("a.txt", "vllm serve x", "script"),
        ("a.txt", "text\n```\nx\n```", "prose"),
        ("-", "services:\n  a: 1", "manifest"),
        ("-", "a\n~~~sh\nx\n~~~\n", "prose"),
        ("-", "vllm serve x", "script"),
    ],
)
def test_kinds_of_text(name: str, text: str, kind: str) -> None:
    assert kind_of(name, text) == kind


def test_prose_is_read_where_it_is_code() -> None:
    text = (
        "# T\nvllm serve no\n```python\nvllm serve no\n```\n  ```bash\n  vllm serve a\n  ```\n"
        "`vllm serve b` and `--swap-space 4`\n```\nlog\n```\n```\nvllm serve c\n```\n"
        "```yaml\nservices: {x: {command: [vllm, serve, d]}}\n```\n```bash\nvllm serve e"
    )
    document = read_document(text, "prose")
    assert [f.words[0].text for f in document.reading.found] == list("abcde")
    assert [w.text for w in document.loose] == ["--swap-space 4"]


@pytest.mark.parametrize(
    ("text", "version", "source"),
    [
        ("pip install vllm==0.11.0 vllm>=0.9.0", "0.11.0", "pinned"),
        ("uses **vLLM 0.11.0** and 'vllm>=0.2.0'", "0.11.0", "named"),
        ("- **vLLM v0.15.0**: x. v0.15.0", "0.15.0", "named"),
        ("pip install vllm[all]>=0.10.2", "0.10.2", "open"),
        ("vLLM 0.11.0 or vLLM 0.12.0", None, "none"),
        ("image: vllm/vllm-openai:v0.14.0", "0.14.0", "image"),
        ("", None, "none"),
    ],
)
def test_the_release_is_what_the_text_says(
    text: str, version: str | None, source: str
) -> None:
    release = release_of("vllm", None, None, text)
    assert (release.version, release.source) == (version, source)
    assert release_of("vllm", "9", "8", text).version == "9"
    assert release_of("vllm", None, "8", text).source == "image"


def test_bare_flags_are_the_named_engines() -> None:
    report = lint("m --swap-space 4", "", "command", Asked("vllm", "0.32.0"))
    assert [one.rule for one in report.findings if one.severity == "error"] == [
        "removed-flag"
    ]
