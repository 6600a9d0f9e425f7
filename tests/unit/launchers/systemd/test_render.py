"""Services as an administrator would read them; and what the spec changes of them."""

from __future__ import annotations

import dataclasses
import itertools
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from lemnos.errors import UsageError
from lemnos.launchers.systemd import render
from lemnos.spec.place import Place
from lemnos.spec.unit import Unit
from tests.contract.launchers.bed import check_script
from tests.unit.launchers.systemd import reader, scores, units

GOLDEN = Path(__file__).parents[3] / "data/golden/systemd"
TWO = {"hosts": ["gpu1", "gpu2"], "ray": True}


def written(unit: Unit, ground: render.Ground) -> dict[str, str]:
    """Every file of the unit but the program that asks ports."""
    files = {n: t for p in render.parts_of(unit, ground) for n, t in p.files.items()}
    return {name: text for name, text in files.items() if name != "ready.py"}


def shown(unit: Unit, ground: render.Ground) -> str:
    """Files and commands as one text."""
    text = "".join(f"==> {n} <==\n{t}\n" for n, t in written(unit, ground).items())
    commands = render.commands_of(unit, render.parts_of(unit, ground), ground)
    lines = [f"{host or 'here'}: {' '.join(words)}" for host, words in commands]
    notes = [f"note: {note}" for note in render.notes_of(unit, ground)]
    return text + "\n".join([*lines, *notes]) + "\n"


def service(unit: Unit, ground: render.Ground, number: int = 0) -> dict[str, list[str]]:
    """The settings of its first service (or another) by key."""
    part = render.parts_of(unit, ground)[number]
    found: dict[str, list[str]] = {}
    for _, key, value in reader.settings(part.files[part.service]):
        found.setdefault(key, []).append(value)
    return found


CASES: dict[str, tuple[Unit, dict[str, Any]]] = {
    "user": (units.engine(), {}),
    "system": (
        units.engine(),
        {"systemd": {"scope": "system", "user": "llm", "memory_max": "400G"}},
    ),
    "ray": (units.engine(units.TWO), {"systemd": {"scope": "system", **TWO}}),
    "gateway": (units.gateway(), {"systemd": {"scope": "system"}}),
}


@pytest.mark.parametrize("name", CASES)
def test_golden(name: str) -> None:
    """GOLDEN=1 writes them anew."""
    unit, keys = CASES[name]
    text = shown(unit, units.ground(**keys))
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("GOLDEN"):
        path.write_text(text)
    assert text == path.read_text()


def matrix() -> list[tuple[Unit, render.Ground]]:
    found = []
    for scope, hard, user, memory in itertools.product(
        ("user", "system"), (True, False), (None, "root"), (None, "400G", "80%")
    ):
        keys = {"scope": scope, "hardening": hard, "user": user, "memory_max": memory}
        for unit, more in (
            (units.engine(), {}),
            (units.engine(units.TWO), TWO),
            (units.engine(units.TWO.model_copy(update={"ray": False})), TWO),
            (units.gateway(), {}),
        ):
            found.append((unit, units.ground(systemd=keys | more)))
    return found


def test_every_script_of_the_matrix_is_sound(tmp_path: Path) -> None:
    texts = {
        text
        for each in matrix()
        for name, text in written(*each).items()
        if name.endswith(".sh")
    }
    assert len(texts) > 5
    for text in texts:
        check_script(tmp_path, "job.sh", text)


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd-analyze")
@pytest.mark.parametrize("scope", ["user", "system"])
def test_systemd_finds_nothing_wrong_with_any_service_of_the_matrix(
    scope: str, tmp_path: Path
) -> None:
    for number, (unit, ground) in enumerate(matrix()):
        if ground.spec.systemd.scope != scope:
            continue
        there = tmp_path / str(number)
        there.mkdir()
        names = []
        for name, text in written(unit, ground).items():
            if name.endswith(".service"):
                # The program of ExecStartPost must be there for the check, as on the machine.
                text = re.sub(r'"/opt/\w+/bin/python"', '"/bin/sh"', text)
                (there / name).write_text(text)
                names.append(str(there / name))
        done = subprocess.run(
            ["systemd-analyze", f"--{scope}", "verify", "--man=no", *names],
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | {"XDG_RUNTIME_DIR": str(tmp_path)},
        )
        assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_one_process_is_brought_back_and_given_up_after_three_failures_in_a_row() -> (
    None
):
    found = service(units.engine(), units.ground(restart={"backoff_s": 2}))
    assert found["Restart"] == ["on-failure"]
    assert found["RestartSec"] == ["2.0"]
    assert found["StartLimitBurst"] == ["3"]
    start_s = int(found["TimeoutStartSec"][0])
    assert start_s == 630  # ready_timeout_s and half a minute
    assert int(found["StartLimitIntervalSec"][0]) > 3 * start_s


def test_a_long_start_is_waited_for() -> None:
    slow = units.engine().model_copy(update={"start_s": 1800.0})
    assert service(slow, units.ground())["TimeoutStartSec"] == ["3630"]


def test_ranks_of_one_engine_are_not_brought_back_one_by_one() -> None:
    unit = units.engine(units.TWO.model_copy(update={"ray": False}))
    ground = units.ground(systemd=TWO)
    assert len(unit.jobs) == 2
    assert [service(unit, ground, n)["Restart"] for n in (0, 1)] == [["no"], ["no"]]


def test_on_ray_the_engine_needs_the_head_and_workers_wait_for_it() -> None:
    unit, ground = units.engine(units.TWO), units.ground(systemd=TWO)
    serve, head, worker = (service(unit, ground, n) for n in range(3))
    assert serve["Requires"] == ["lemnos-chat-engine-0.1.service"]
    assert "lemnos-chat-engine-0.1.service" in serve["After"]
    assert "4102" in head["ExecStartPost"][0] and "tcp" in head["ExecStartPost"][0]
    assert "gpu1" in worker["ExecStartPre"][0] and "4102" in worker["ExecStartPre"][0]
    assert "ExecStartPost" not in worker
    assert {each["Restart"][0] for each in (serve, head, worker)} == {"on-failure"}


def test_commands_go_to_the_host_of_each_job_others_first() -> None:
    unit, ground = units.engine(units.TWO), units.ground(systemd=TWO)
    commands = render.commands_of(unit, render.parts_of(unit, ground), ground)
    hosts = [host for host, _ in commands]
    assert hosts == ["gpu2"] * 3 + ["gpu1"] * 3
    assert all(words[:2] == ("systemctl", "--user") for _, words in commands)
    assert commands[-1][1][-2:] == (
        "lemnos-chat-engine-0.service",
        "lemnos-chat-engine-0.1.service",
    )


def test_gpus_stay_usable_and_code_can_be_compiled() -> None:
    found = service(units.engine(), units.ground(systemd={"scope": "system"}))
    assert not {
        "PrivateDevices",
        "DevicePolicy",
        "MemoryDenyWriteExecute",
        "PrivateNetwork",
    } & set(found)
    assert found["LimitMEMLOCK"] == ["infinity"]
    assert "pidfd_getfd" in found["SystemCallFilter"][0]


def test_a_strict_file_system_has_what_engines_write() -> None:
    unit = units.engine()
    ground = units.ground(systemd={"scope": "system", "user": "llm"})
    found = service(unit, ground)
    assert found["ProtectSystem"] == ["strict"]
    writable = [
        word for value in found["ReadWritePaths"] for word in reader.words(value)
    ]
    assert writable == [f"-{units.DIRECTORY}", "-/scratch/cache"]
    assert "export HOME=/scratch/cache/home\n" in written(unit, ground)["engine-0.sh"]
    assert found["CapabilityBoundingSet"] == [""] and found["User"] == ["llm"]


def test_parts_that_meet_in_tmp_share_it() -> None:
    ground = units.ground(systemd={"scope": "system", **TWO})
    for number in range(3):
        found = service(units.engine(units.TWO), ground, number)
        assert "PrivateTmp" not in found
        assert '"-/tmp"' in found["ReadWritePaths"]


@pytest.mark.parametrize("where", ["directory", "cache", "argv"])
def test_what_lies_in_tmp_is_not_hidden(where: str) -> None:
    systemd = {"scope": "system"}
    directory = "/var/tmp/lemnos/chat" if where == "directory" else units.DIRECTORY
    ground = units.ground(
        directory, "/tmp/cache" if where == "cache" else "/c", systemd=systemd
    )
    argv = ("serve", "/tmp/model.gguf") if where == "argv" else ("serve", "/tmpfs/m")
    found = service(units.process(directory, argv=argv), ground)
    assert "PrivateTmp" not in found and '"-/tmp"' in found["ReadWritePaths"]
    plain = service(
        units.process(argv=("serve", "/tmpfs/m")), units.ground(systemd=systemd)
    )
    assert plain["PrivateTmp"] == ["yes"] and '"-/tmp"' not in plain["ReadWritePaths"]


def test_an_ordinary_user_gets_only_what_takes_effect() -> None:
    found = service(units.engine(), units.ground())
    assert found["NoNewPrivileges"] == ["yes"] and "SystemCallFilter" in found
    assert not {"ProtectSystem", "CapabilityBoundingSet", "PrivateTmp", "User"} & set(
        found
    )


def test_hardening_can_be_switched_off() -> None:
    found = service(
        units.engine(), units.ground(systemd={"scope": "system", "hardening": False})
    )
    assert not {"NoNewPrivileges", "ProtectSystem", "ReadWritePaths"} & set(found)


def test_the_gateway_keeps_its_user_writes_its_ledger_and_may_have_a_low_port() -> None:
    ground = units.ground(
        systemd={"scope": "system", "user": "llm", "memory_max": "1G"}
    )
    found = service(units.gateway(), ground)
    assert "User" not in found and "MemoryMax" not in found
    assert found["CapabilityBoundingSet"] == ["CAP_NET_BIND_SERVICE"]
    assert '"-/home/ann/.local/state/lemnos"' in found["ReadWritePaths"]
    assert found["EnvironmentFile"] == [
        f"-{units.DIRECTORY}/units/gateway-0/gateway-0.env"
    ]
    assert reader.command(found["ExecStartPost"][0])[-3:] == ["0.0.0.0", "5366", "tcp"]


def test_own_settings_are_added() -> None:
    settings = {"Nice": 5, "CPUQuota": "400%", "IPAccounting": True, "Slice": None}
    found = service(units.engine(), units.ground(systemd={"units": settings}))
    assert found["Nice"] == ["5"] and found["CPUQuota"] == ["400%"]
    assert found["IPAccounting"] == ["yes"] and "Slice" not in found


@pytest.mark.parametrize(
    ("key", "fix"),
    [
        ("ExecStart", "leave it out"),
        ("ExecStartPre", "leave it out"),
        ("Restart", "leave it out"),
        ("User", "systemd.user"),
        ("MemoryMax", "systemd.memory_max"),
        ("TimeoutStartSec", "ready_timeout_s"),
    ],
)
def test_settings_of_lemnos_are_refused_with_the_key_to_use(key: str, fix: str) -> None:
    with pytest.raises(UsageError) as error:
        render.parts_of(units.engine(), units.ground(systemd={"units": {key: 1}}))
    assert error.value.where == f"systemd.units.{key}" and fix in error.value.fix


@pytest.mark.parametrize("key", ["Nice=5\nUser", "nice", "[Service]", "", "Ni ce"])
def test_what_is_no_setting_is_refused(key: str) -> None:
    with pytest.raises(UsageError, match="is no setting of systemd"):
        render.parts_of(units.engine(), units.ground(systemd={"units": {key: 1}}))


def test_modules_are_refused() -> None:
    with pytest.raises(UsageError, match="environment modules"):
        render.parts_of(units.engine(), units.ground(modules=["cuda/12.8"]))


def test_programs_of_a_venv_are_found() -> None:
    unit = units.process(argv=("vllm", "serve"))
    script = written(unit, units.ground(venv="/opt/v"))["engine-0.sh"]
    assert "export PATH=/opt/v/bin:/usr/local/sbin:" in script


@pytest.mark.parametrize(
    ("service", "deployment", "unit"),
    [
        ("lemnos-box-engine-0.service", "box", "engine-0"),
        ("lemnos-box-engine-12.3.service", "box", "engine-12"),
        ("lemnos-box-gateway-0.service", "box", "gateway-0"),
        ("lemnos-box-2-engine-0.service", "box", None),
        ("lemnos-box-2-engine-0.service", "box-2", "engine-0"),
        ("lemnos-box-engine-0-engine-1.service", "box", None),
        ("lemnos-box-supervisor.service", "box", None),
        ("lemnos-xbox-engine-0.service", "box", None),
    ],
)
def test_whose_a_service_is(service: str, deployment: str, unit: str | None) -> None:
    assert render.unit_of(service, deployment) == unit


def test_the_supervisor_of_a_deployment_called_like_a_unit_has_another_name() -> None:
    assert render.supervisor_of("box-engine-0") != render.service_of(
        units.process().jobs[0].model_copy(update={"deployment": "box"})
    )


def test_a_place_without_a_port_is_not_waited_for() -> None:
    unit = units.process()
    job = unit.jobs[0].model_copy(update={"port": 0})
    unit = unit.model_copy(update={"jobs": (job,), "place": Place(port=0)})
    assert "ExecStartPost" not in service(unit, units.ground())


def test_units_in_a_shared_home_are_for_one_host() -> None:
    ground = dataclasses.replace(units.ground(), names={"": "login1.cluster"})
    assert service(units.engine(), ground)["ConditionHost"] == ["login1.cluster"]
    assert "ConditionHost" not in service(units.engine(), units.ground())


@pytest.mark.skipif(
    "systemd 252" not in scores.version(), reason="the page's figures are systemd 252's"
)
def test_the_page_has_the_scores_that_systemd_gives() -> None:
    page = Path(__file__).parents[4] / "docs/systemd.md"
    assert scores.table() in page.read_text()
