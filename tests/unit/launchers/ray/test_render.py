"""A unit as a Ray job: what is sent, what is shipped, and what the spec changes of it."""

from __future__ import annotations

import io
import json
import stat
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from lemnos.engines.base import engine_named
from lemnos.errors import UsageError
from lemnos.launchers import late
from lemnos.launchers.late import host
from lemnos.launchers.ray import render
from lemnos.launchers.ray.launcher import Ray
from lemnos.spec.place import Place
from lemnos.spec.unit import Unit
from tests.contract.launchers.bed import check_script
from tests.unit.engines.rendered import glm
from tests.unit.launchers.ray import units


def rendered(**keys: Any) -> Any:
    site = units.site(**keys)
    return render.render(units.engine(site), site)


def test_what_is_sent_says_whose_it_is_and_nothing_secret() -> None:
    files = rendered(venv="/opt/my env").files
    body = render.numbered(files["job.json"], 1795)
    assert body["submission_id"].startswith("lemnos-chat-")
    assert body["submission_id"].endswith("-engine-0-1795")
    assert body["metadata"] == {"lemnos": "lemnos:0a1b2c:chat:engine-0", "try": "1795"}
    assert body["entrypoint"] == "'/opt/my env/bin/python' driver.py"
    assert render.package_of(body) == f"_ray_pkg_{body['submission_id']}.zip"
    assert body["runtime_env"]["env_vars"] == {"RAY_JOB_STOP_WAIT_TIME_S": "15"}
    two = render.numbered(files["job.json"], 1796)
    assert two["submission_id"] != body["submission_id"]


def test_a_unit_takes_what_its_place_and_the_spec_say() -> None:
    spec = units.site(ray={"cpus": 12, "resources": {"h200": 0.5}}).spec.ray
    place = Place(hosts=(host(0), host(1)), gpus_per_host=8, port=1)
    assert render.bundle_of(place, spec) == {"GPU": 8, "CPU": 12, "h200": 0.5}
    plain = units.site().spec.ray
    assert render.bundle_of(place, plain) == {"GPU": 8}
    assert render.bundle_of(Place(port=1), plain) == {"CPU": 1}


def test_the_driver_is_told_which_process_runs_where() -> None:
    site = units.site()
    unit = units.engine(site)
    facts = json.loads(render.render(unit, site).files["unit.json"])
    assert facts["hosts"] == len(unit.place.hosts)
    assert [rank["name"] for rank in facts["ranks"]][0] == "engine-0"
    assert [rank["host"] for rank in facts["ranks"]] == list(range(facts["hosts"]))
    assert facts["bundle"]["GPU"] == unit.place.gpus_per_host > 0


def test_scripts_are_sound(tmp_path: Path) -> None:
    for keys in ({}, {"modules": ["cuda/12.8"], "engine_env": {"A": "it's $HOME"}}):
        files = rendered(**keys).files
        scripts = {name: text for name, text in files.items() if name.endswith(".sh")}
        assert scripts
        for name, text in scripts.items():
            check_script(tmp_path, name, text)
    site = units.site()
    for name, text in render.render(units.small(site), site).files.items():
        check_script(tmp_path, name, text)


def test_the_package_has_the_key_for_its_owner_only() -> None:
    files = rendered().files
    with zipfile.ZipFile(io.BytesIO(render.package(files, "s3cret"))) as archive:
        names = archive.namelist()
        assert archive.read("engine.key") == b"s3cret"
        modes = {stat.S_IMODE(i.external_attr >> 16) for i in archive.infolist()}
    assert {"driver.py", "unit.json", "engine-0.sh", "engine.key"} <= set(names)
    assert "job.json" not in names
    assert modes == {0o600}
    assert "s3cret" not in str(files)


def test_commands_are_those_that_a_person_would_run() -> None:
    found = rendered(ray={"address": "http://10.0.0.1:8265/"})
    put, post = found.commands
    assert put[:3] == ("curl", "-T", "package.zip")
    assert post[-1] == "http://10.0.0.1:8265/api/jobs/"
    assert any(render.NUMBER in note for note in found.notes)


def test_what_ray_cannot_do_is_refused() -> None:
    with pytest.raises(UsageError, match="no containers") as caught:
        rendered(container={"runtime": "apptainer", "image": "vllm.sif"})
    assert caught.value.where == "container"
    site = units.site()
    unit = units.engine(site)
    job = unit.jobs[0].model_copy(update={"host": "n7"})
    elsewhere = Unit(deployment="chat", name="engine-0", jobs=(job,), place=unit.place)
    with pytest.raises(UsageError, match="Ray chooses the nodes"):
        render.render(elsewhere, site)


def test_vllm_over_hosts_is_one_job_whose_ranks_are_rays(tmp_path: Path) -> None:
    site = units.site(venv="/opt/vllm")
    tokens = (host(0), host(1))
    place = Place(
        hosts=tokens,
        gpus_per_host=8,
        port=late.PORT,
        inner_port=late.INNER_PORT,
        ray=True,
        ray_is_there=True,
    )
    plan = glm("vllm", program=("/opt/vllm/bin/python",))
    plan = plan.model_copy(update={"name": "chat"})
    vllm = engine_named("vllm")
    (job,) = vllm.jobs(plan, 0, place, site.files("engine-0"))
    argv = job.command.argv
    at = argv.index("--distributed-executor-backend")
    assert argv[at + 1] == "ray" and "--nnodes" not in argv
    assert "RAY_ADDRESS" not in job.command.env
    assert [port.purpose for port in vllm.ports(plan, place)] == ["API"]

    unit = Unit(deployment="chat", name="engine-0", jobs=(job,), place=place)
    files = render.render(unit, site).files
    facts = json.loads(files["unit.json"])
    assert facts["inside"] and facts["bundle"] == {"GPU": 8, "CPU": 8}
    script = files["engine-0.sh"]
    check_script(tmp_path, "engine-0.sh", script)
    said = subprocess.run(
        ["sh", "-c", f"LEMNOS_HOST_0=10.0.0.1 LEMNOS_PORT=20001\n{script}".replace("/opt/vllm/bin/python", sys.executable).replace(site.files("engine-0").key_file, str(_key(tmp_path)))],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    words, env = json.loads(said.stdout)
    assert words[0] == "serve" and words[words.index("--port") + 1] == "20001"
    assert words[words.index("--host") + 1] == "10.0.0.1"
    assert env["VLLM_API_KEY"] == "s3cret" and env["VLLM_HOST_IP"] == "10.0.0.1"


def test_who_runs_the_ranks_can_be_said() -> None:
    plan = glm("vllm").model_copy(update={"name": "chat"})
    one = Ray(units.site()).place(plan, "engine-0", dry=True)
    assert (len(one.hosts) > 1) == one.ray == one.ray_is_there
    own = Ray(units.site(ray={"executor": "engine"})).place(plan, "engine-0", dry=True)
    assert not own.ray


def _key(directory: Path) -> Path:
    (directory / "key").write_text("s3cret\n")
    return directory / "key"
