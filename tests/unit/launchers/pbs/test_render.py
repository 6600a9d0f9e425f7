"""Jobs as a PBS user would read them, and what the spec changes of them."""

from __future__ import annotations

import itertools
import json
import os
import shlex
import subprocess
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lemnos.errors import UsageError
from lemnos.launchers.pbs import render
from lemnos.spec.plan import Command, Job
from lemnos.spec.unit import Unit
from tests.contract.launchers.bed import check_script, evil
from tests.unit.launchers.pbs import units

GOLDEN = Path(__file__).parents[3] / "data/golden/pbs"
FULL = {
    "queue": "gpu",
    "account": "ab12",
    "project": "chat",
    "time": "12:00:00",
    "memory": "1T",
    "cpus": 96,
    "select": {"gpu_model": "h200", "fast": True},
    "nodes": 2,
    "place": "scatter:excl",
    "bin": "/opt/pbs/bin",
    "qsub_args": {"p": 100, "l": "filesystems=home:eagle", "W": "umask=027"},
}
CASES: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "one-node": ({}, {}, ""),
    "two-nodes": (FULL, {"modules": ["cuda/12.8"], "interface": "ib0"}, "engine-9"),
    "two-nodes-ssh": ({"nodes": 2, "reach": "ssh", "rerunnable": False}, {}, ""),
}


def rendered(keys: dict[str, Any], more: dict[str, Any], after: str = "") -> Any:
    site = units.site(pbs=keys, **more)
    return render.render(units.engine(site, after=after), site)


def qsub(**keys: Any) -> list[str]:
    """The command without its ``qsub``."""
    (command,) = rendered(keys, {}).commands
    return list(command[1:])


def value(words: list[str], flag: str) -> list[str]:
    own = words[: words.index("--")]
    return [b for a, b in itertools.pairwise(own) if a == flag]


@pytest.mark.parametrize("name", CASES)
def test_golden(name: str) -> None:
    """GOLDEN=1 writes them anew."""
    done = rendered(*CASES[name])
    text = "".join(f"==> {file} <==\n{body}\n" for file, body in done.files.items())
    text += "".join(f"$ {shlex.join(command)}\n" for command in done.commands)
    text += "".join(f"note: {note}\n" for note in done.notes)
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("GOLDEN"):
        path.write_text(text)
    assert text == path.read_text()


def test_every_script_of_the_matrix_is_sound(tmp_path: Path) -> None:
    texts = set()
    for nodes, reach, interface, modules, keys in itertools.product(
        (1, 2), ("ssh", "pbs_tmrsh"), (None, "ib0"), ([], ["a/1", "b"]), ({}, FULL)
    ):
        own = keys | {"nodes": nodes, "reach": reach}
        done = rendered(own, {"interface": interface, "modules": modules})
        texts |= {body for name, body in done.files.items() if name.endswith(".sh")}
    assert len(texts) > 10
    for text in texts:
        check_script(tmp_path, "job.sh", text)


@pytest.mark.parametrize("runtime", ["docker", "podman", "apptainer"])
def test_containers(runtime: str, tmp_path: Path) -> None:
    """Docker's and Podman's are removed with the process; no key is in any line."""
    container = {"image": "vllm/vllm-openai:v0.26.0", "runtime": runtime}
    files = rendered({}, {"container": container}).files
    check_script(tmp_path, "job.sh", files["engine-0.sh"])
    assert runtime in files["engine-0.sh"].partition("run() {")[2]
    removed = f"  {runtime} rm --force" in files["engine-0.sh"]
    assert removed == (runtime != "apptainer")


def test_what_is_asked_for() -> None:
    words = qsub(**FULL)
    assert value(words, "-l") == [
        "select=2:ncpus=96:ngpus=2:mem=1tb:gpu_model=h200:fast=True",
        "place=scatter:excl",
        "walltime=12:04:00",
        "filesystems=home:eagle",
    ]
    assert value(words, "-W") == ["umask=027"] and value(words, "-m") == ["n"]
    assert words[-4:-1] == ["--", "/bin/bash", "-l"]


def test_a_cpu_is_enough_for_the_embedded_engine() -> None:
    site = units.site()
    (command,) = render.render(units.small(site), site).commands
    assert "select=1" in command and not any("place=" in word for word in command)


def test_a_successor_depends_on_what_submitting_finds() -> None:
    (command,) = rendered({}, {}, "engine-3").commands
    assert value(list(command), "-W") == [f"depend=after:{render.AFTER}"]


@pytest.mark.parametrize(
    ("keys", "where", "what"),
    [
        ({"qsub_args": {"N": "x"}}, "pbs.qsub_args", "-N of qsub is set by lemnos"),
        ({"qsub_args": {"V": True}}, "pbs.qsub_args", "-V of qsub is set"),
        ({"qsub_args": {"nice": 1}}, "pbs.qsub_args", "'nice' is no option of qsub"),
        ({"qsub_args": {"l": "walltime=1"}}, "pbs.qsub_args", "'walltime' is set"),
        ({"qsub_args": {"l": "a=b,gpus=1"}}, "pbs.qsub_args", "'gpus' is set"),
        ({"qsub_args": {"W": "depend=after:1"}}, "pbs.qsub_args", "'depend' is set"),
        ({"select": {"ncpus": 4}}, "pbs.select", "'ncpus' is asked for by lemnos"),
        ({"select": {"ngpus": 4}}, "pbs.select", "'ngpus' is asked for by lemnos"),
        ({"select": {"a b": 4}}, "pbs.select", "no name of a resource"),
        ({"select": {"x": "1:ngpus=8"}}, "pbs.select", "begin another resource"),
        ({"memory": "much"}, "pbs.memory", "no amount of memory"),
        ({"time": "60s", "drain_s": 900}, "pbs.drain_s", "as soon as it starts"),
    ],
)
def test_what_lemnos_sets_or_pbs_cannot_is_refused(
    keys: dict[str, Any], where: str, what: str
) -> None:
    with pytest.raises(UsageError, match=what) as caught:
        rendered(keys, {})
    assert caught.value.where == where


def test_pyxis_is_of_slurm() -> None:
    container = {"image": "x.sqsh", "runtime": "pyxis"}
    with pytest.raises(UsageError, match="pyxis"):
        rendered({}, {"container": container})


@pytest.mark.parametrize(
    ("deployment", "name"),
    [("chat", "chat-engine-0"), ("4b", "d-4b-engine-0"), ("x" * 300, "x" * 230)],
)
def test_names_that_pbs_takes(deployment: str, name: str) -> None:
    assert render.job_name(deployment, "engine-0") == name


@given(st.text(min_size=1), st.text())
def test_any_name_is_one_that_pbs_takes(deployment: str, unit: str) -> None:
    name = render.job_name(deployment, unit)
    assert name[0].isalpha() and len(name) <= 230
    assert all(c.isascii() and (c.isalnum() or c in "-_+.") for c in name)


def test_a_path_that_qsub_does_not_take_is_not_given_to_it() -> None:
    for directory, given_ in (
        ("/s/a: b", "/s/a: b/engine-0.pbs.log"),
        ("/s/é", "/dev/null"),
        ("/s/a\nb", "/dev/null"),
    ):
        site = units.site(directory=directory)
        (command,) = render.render(units.engine(site), site).commands
        assert value(list(command), "-o") == [given_]


@given(st.floats(min_value=0.1, max_value=1e7))
def test_clocks(seconds: float) -> None:
    hours, minutes, rest = (int(part) for part in render.clock(seconds).split(":"))
    assert minutes < 60 and rest < 60
    assert seconds <= hours * 3600 + minutes * 60 + rest < seconds + 1


no_null = st.text(st.characters(exclude_characters="\0", codec="utf-8"))


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(no_null, max_size=4), no_null, st.data())
def test_nothing_that_was_written_is_executed(
    tmp_path: Path, words: list[str], odd: str, data: st.DataObject
) -> None:
    """The script of a process, run: its words arrive, in whatever directory it lies."""
    root = Path(mkdtemp(dir=tmp_path))  # a new one for each example
    hostile = data.draw(st.sampled_from(evil(root)))
    name = "".join(c for c in f"d{hostile}{odd}" if c.isprintable() and c != "/")[:40]
    directory = root / (name if len(name.encode()) < 200 else "d")
    site = units.site(directory=str(directory))
    said = ["/usr/bin/printf", "%s\\0", "begin", *words, hostile]
    job = Job(
        deployment="chat",
        role="engine",
        command=Command(argv=tuple(said), env={"ODD": odd, "EVIL": hostile}),
        host=units.engine(site).place.hosts[0],
        port=0,
        log=str(directory / "engine-0.log"),
    )
    unit: Unit = units.engine(site).model_copy(update={"jobs": (job,)})
    files = render.render(unit, site).files
    there = Path(site.unit_directory("engine-0"))
    there.mkdir(parents=True)
    for file, text in files.items():
        (there / file).write_text(text)
        if file.endswith(".sh"):
            check = ["bash", "-n", str(there / file)]
            subprocess.run(check, check=True)
    (there / "late.7.sh").write_text("")
    subprocess.run(["bash", str(there / "engine-0.sh"), "7"], check=True, cwd=root)
    output = (directory / "engine-0.log").read_bytes().split(b"\0")
    assert output[0].endswith(b"begin")
    assert [part.decode() for part in output[1:-1]] == [*words, hostile]
    assert not list(root.rglob("canary*"))
    assert json.loads(files["unit.json"])["logs"][0]["path"] == job.log
