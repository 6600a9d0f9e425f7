"""``lemnos engines`` with the real uv, and an engine so small that it is made in a moment."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lemnos import leases
from lemnos.engines.environments import places, targets
from lemnos.models import store
from lemnos.models.sources import Source
from tests import engine_wheels, processes, sshd, tiny_models
from tests.waiting import until

needs_sshd = pytest.mark.skipif(
    sshd.SSHD is None or (os.getuid() == 0 and not os.access("/run", os.W_OK)),
    reason="sshd is not installed (Debian: apt-get install openssh-server)",
)
needs_pip = pytest.mark.skipif(
    engine_wheels.bundled_pip() is None,
    reason="this Python lacks the wheel of pip (Debian: apt-get install python3-venv)",
)
COMMAND = [sys.executable, "-m", "tests.engine_wheels", "engines"]


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny engine's wheels; ``uv`` beside them is uv's cache."""
    directory = tmp_path_factory.mktemp("index") / "wheels"
    engine_wheels.write_index(directory)
    return directory


@pytest.fixture
def wheels(index: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tiny engine's wheels, as the only index."""
    for name in ("UV_FIND_LINKS", "PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("UV_DEFAULT_INDEX", f"file://{index}/simple")
    monkeypatch.setenv("UV_CACHE_DIR", str(index.parent / "uv"))
    monkeypatch.setenv("UV_NO_CONFIG", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    # Every Python on PATH is asked for its version; pyenv's shims take 0.1 s of CPU each.
    monkeypatch.setenv("PATH", f"{sys.base_prefix}/bin:/usr/local/bin:/usr/bin:/bin")
    return index


def run(*words: str, code: int = 0, **env: str) -> subprocess.CompletedProcess[str]:
    """``lemnos engines WORDS`` with the tiny engine known."""
    done = processes.run("tests.engine_wheels", "engines", *words, env=os.environ | env)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done


def report(*words: str) -> Any:
    return json.loads(run(*words, "--json").stdout)


def left() -> list[str]:
    """What is in the directory of environments, leases left out."""
    root = places.root()
    return sorted(p.name for p in root.iterdir()) if root.is_dir() else []


# ---------------------------------------------------------------- install


def test_an_environment_is_made_once_and_works(wheels: Path) -> None:
    (made,) = report("install", "tiny==1.0")["installed"]
    environment = made["environment"]
    assert environment["name"] == "tiny-1.0" and not made["already"]
    assert environment["packages"] == 2 and environment["bytes"] > 10_000
    assert made["gpus"] == "none: a build for CPUs"
    home = Path(environment["path"])
    said = subprocess.check_output([home / "bin/tiny"], text=True)
    assert said == "tiny here\n", "the scripts must outlive the rename"
    marker = json.loads((home / "environment.json").read_text())
    assert marker["resolution"] == environment["resolution"]
    code = "from importlib.metadata import version; print(version('tiny'))"
    said = subprocess.check_output([home / "bin/python", "-c", code], text=True)
    assert said == "1.0+cpu\n"
    (again,) = report("install", "tiny==1.0")["installed"]
    assert again["already"] and again["environment"] == environment
    assert left() == ["tiny-1.0"]
    assert "tiny-engine==1.0" in run("ls").stdout
    assert report("ls")["environments"] == [environment]
    assert report("check", "tiny-1.0")["environment"] == environment
    assert "freed_bytes" in report("rm", "tiny==1.0")
    assert left() == [] and report("ls")["environments"] == []


def test_another_python_of_the_same_is_refused(wheels: Path) -> None:
    run("install", "tiny==1.0", "--python", f"3.{sys.version_info.minor}")
    other = run("install", "tiny==1.0", "--python", "3.14", code=1)
    assert "is there already, with Python" in other.stderr
    assert "lemnos engines rm tiny-1.0" in other.stderr


def test_a_failed_verification_leaves_nothing_and_says_why(wheels: Path) -> None:
    done = run("install", "tiny==1.0", code=1, TINY_FAILS="1")
    assert "tiny_engine cannot be imported" in done.stderr
    assert "the engine's own words: no such thing" in done.stderr
    assert left() == []
    run("install", "tiny==1.0")
    broken = run("check", "tiny-1.0", code=1, TINY_FAILS="1")
    assert "the engine's own words" in broken.stderr


def test_what_the_index_lacks_is_said_in_uvs_words(wheels: Path) -> None:
    done = run("install", "tiny==7.0", code=1)
    assert "could not resolve tiny-engine==7.0" in done.stderr
    assert "or use the image example/tiny:v7.0" in done.stderr
    assert left() == []
    assert "no builds are known" in run("install", "vllm==0.26.0", code=2).stderr
    assert "example/tiny:v1.0" in run("install", "tiny==1.0", "--image").stdout
    assert "names no engine" in run("install", code=2).stderr
    assert "no environment 'x' is here" in run("rm", "x", code=2).stderr


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_install_is_no_environment(
    wheels: Path, tmp_path: Path, how: signal.Signals
) -> None:
    waits = tmp_path / "importing"
    with subprocess.Popen(
        [*COMMAND, "install", "tiny==1.0"],
        env=os.environ | {"TINY_WAITS": str(waits)},
        stderr=subprocess.PIPE,
        text=True,
    ) as child:
        until(waits.exists, within_s=60)
        child.send_signal(how)
        assert child.wait(30) in (130, -signal.SIGKILL)
        assert child.stderr and "Traceback" not in child.stderr.read()
    assert places.environments() == []
    if how == signal.SIGINT:
        assert left() == []
    run("install", "tiny==1.0")
    assert left() == ["tiny-1.0"]


def test_two_installs_at_once_make_one(wheels: Path) -> None:
    done: list[Any] = []

    def install() -> None:
        done.extend(report("install", "tiny==1.0")["installed"])

    threads = [threading.Thread(target=install) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(each["already"] for each in done) == [False, True]
    assert left() == ["tiny-1.0"]


def test_an_environment_that_somebody_installs_is_waited_for(wheels: Path) -> None:
    places.root().mkdir(parents=True)
    with (
        leases.lease(places.root() / "tiny-1.0.lease", what="installing"),
        subprocess.Popen(
            [*COMMAND, "install", "tiny==1.0"], stderr=subprocess.PIPE, text=True
        ) as child,
    ):
        assert child.stderr
        while "is being installed by process" not in child.stderr.readline():
            assert child.poll() is None
        child.send_signal(signal.SIGINT)
        assert child.wait(30) == 130


def test_an_environment_in_use_stays(wheels: Path) -> None:
    run("install", "tiny==1.0")
    python = places.find("tiny-1.0").program
    with subprocess.Popen([python, "-c", "input()"], stdin=subprocess.PIPE) as user:
        done = run("rm", "tiny-1.0", code=1)
        assert f"in use by process {user.pid}" in done.stderr
        user.communicate(b"\n")
    run("rm", "tiny-1.0")


# ---------------------------------------------------------------- bundles


@needs_pip
def test_a_bundle_is_carried_and_installed_without_an_index(
    wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    to = tmp_path / "usb stick"
    words = ["bundle", "tiny==1.0", "--to", str(to), "--part-size", "20k", "--model"]
    _model_here(tmp_path / "models", monkeypatch)
    assert "no model 'x' is here" in run(*words, "x", code=2).stderr
    made = report(*words, "m")
    assert made["request"] == "tiny==1.0" and len(made["packages"]) == 2
    assert all(p.stat().st_size <= 20_000 for p in (to / "wheels").iterdir())
    names = {file["path"] for file in made["files"]}
    assert "uv" in names and "wheels/tiny_engine-1.0-py3-none-any.whl" in names
    part = next(f for f in made["files"] if "tiny_part" in f["path"])
    assert len(part["parts"]) == 2
    monkeypatch.setenv("UV_DEFAULT_INDEX", f"file://{tmp_path}/nothing")
    monkeypatch.setenv("LEMNOS_MODELS", str(tmp_path / "there"))

    path = to / part["parts"][1]["path"]
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + b"?")
    done = run("install", "--from", str(to), code=1)
    assert f"part {part['parts'][1]['path']} has the wrong content" in done.stderr
    path.unlink()
    done = run("install", "--from", str(to), code=1)
    assert f"part {part['parts'][1]['path']} is missing" in done.stderr
    assert left() == [] and store.list_models() == []
    path.write_bytes(whole)
    (found,) = report("install", "--from", str(to))["installed"]
    assert not found["already"]
    (model,) = store.list_models()
    assert model.name == "m" and store.check(model) == 1
    (found,) = report("install", "--from", str(to))["installed"]
    assert found["already"] and left() == ["tiny-1.0"]
    said = run("install", "tiny==2.0", "--from", str(to), code=2).stderr
    assert "the bundle holds tiny==1.0" in said
    assert "is no bundle" in run("install", "--from", str(wheels), code=2).stderr
    refused = run("bundle", "tiny==1.0", "--to", str(wheels), code=2)
    assert "is not empty" in refused.stderr


def _model_here(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model ``m`` in this machine's store."""
    monkeypatch.setenv("LEMNOS_MODELS", str(models))
    home = models / "hf/o/m/abc"
    home.mkdir(parents=True)
    (home / "m.gguf").write_bytes(tiny_models.gguf(tensors={"w": 20_000}))
    where = Source("hf", "o/m", "abc", "m.gguf")
    manifest = store.manifest_of(home, where, "abc", "gguf", "m.gguf", name="m")
    store.write_manifest(home, manifest)


# ---------------------------------------------------------------- over SSH


@pytest.fixture
def server(tmp_path: Path, wheels: Path) -> Iterator[sshd.Server]:
    """An sshd with two names, ``box`` and ``twin``, and a home of its own."""
    with sshd.serving(tmp_path) as made:
        text = made.config.read_text()
        made.config.write_text(text.replace("Host box\n", "Host box twin\n"))
        config = made.directory / "sshd_config"
        env = {
            "LEMNOS_HOME": f"{tmp_path}/there",
            "UV_DEFAULT_INDEX": f"file://{wheels}/simple",
            "UV_CACHE_DIR": f"{wheels.parent}/uv",
            "PATH": "/usr/local/bin:/usr/bin:/bin",
        }
        lines = [x for x in config.read_text().splitlines() if "SetEnv" not in x]
        said = " ".join(f"{name}={value}" for name, value in env.items())
        config.write_text("\n".join([*lines, f"SetEnv {said}", ""]))
        made.process.send_signal(signal.SIGHUP)  # read it again
        until(lambda: "there" in _home_there(made))
        yield made


def _home_there(server: sshd.Server) -> str:
    command = ["ssh", "-F", str(server.config), "box", "echo $LEMNOS_HOME"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


@pytest.mark.bed
@needs_sshd
def test_hosts_that_share_a_file_system_get_one(
    server: sshd.Server, tmp_path: Path
) -> None:
    config = ("--hosts", "box,twin", "--ssh-config", str(server.config))
    (made,) = report("install", "tiny==1.0", *config)["installed"]
    assert (made["machine"], made["shared_with"]) == ("box", ["twin"])
    home = Path(made["environment"]["path"])
    assert home.is_relative_to(tmp_path / "there") and home.is_dir()
    assert subprocess.check_output([home / "bin/tiny"], text=True) == "tiny here\n"
    there = sorted(p.name for p in home.parent.iterdir())
    assert there == ["tiny-1.0"], "marks and temporary files must be gone"
    assert left() == []
    (again,) = report("install", "tiny==1.0", *config)["installed"]
    assert again["already"]
    (tool,) = (home.parent.parent / "tools").iterdir()  # the host has no uv of its own
    assert tool.name.startswith("uv-")


@pytest.mark.bed
@needs_sshd
@needs_pip
def test_a_bundle_goes_to_hosts_too(server: sshd.Server, tmp_path: Path) -> None:
    to = tmp_path / "bundle"
    minor = subprocess.check_output(
        ["/usr/bin/python3", "-c", "import sys; print('%d.%d' % sys.version_info[:2])"],
        text=True,
    ).strip()
    run("bundle", "tiny==1.0", "--to", str(to), "--python", minor)
    config = ("--hosts", "box", "--ssh-config", str(server.config))
    (made,) = report("install", "--from", str(to), *config)["installed"]
    home = Path(made["environment"]["path"])
    assert sorted(p.name for p in home.parent.iterdir()) == ["tiny-1.0"]


@pytest.mark.bed
@needs_sshd
def test_a_host_that_fails_is_named(server: sshd.Server, tmp_path: Path) -> None:
    config = ("--hosts", "box", "--ssh-config", str(server.config))
    done = run("install", "tiny==7.0", *config, code=1)
    assert "box" in done.stderr and "could not resolve tiny-engine==7.0" in done.stderr
    done = run("install", "tiny==1.0", "--hosts", "nowhere", *config[2:], code=1)
    assert "nothing listens for SSH there" in done.stderr


@pytest.mark.bed
@needs_sshd
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_host_cleans_up_when_the_desk_goes_away(
    server: sshd.Server, tmp_path: Path, how: signal.Signals
) -> None:
    config = server.directory / "sshd_config"
    waits = tmp_path / "importing"
    text = config.read_text().replace("SetEnv ", f"SetEnv TINY_WAITS={waits} ")
    config.write_text(text)
    server.process.send_signal(signal.SIGHUP)
    words = [
        "install",
        "tiny==1.0",
        "--hosts",
        "box",
        "--ssh-config",
        str(server.config),
    ]
    until(lambda: _home_there(server), within_s=10)
    with subprocess.Popen([*COMMAND, *words], stderr=subprocess.DEVNULL) as child:
        until(waits.exists, within_s=90)
        child.send_signal(how)
        assert child.wait(30) in (130, -signal.SIGKILL)
    root = Path(f"{tmp_path}/there/engines") / places.root().name
    until(lambda: not list(root.iterdir()), within_s=20)


def test_uv_for_this_machine_is_the_one_that_is_here(tmp_path: Path) -> None:
    architecture = places.root().name
    assert str(targets.uv_for(architecture, tmp_path)) == targets.uv_here()
