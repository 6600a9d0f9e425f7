"""NVML through nvidia-ml-py, played by a module that answers as it did on two H200
(tests/data/readings), and by ones that fail as it does."""

from __future__ import annotations

import os
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from lemnos.hardware import collect


class NvmlError(Exception):
    pass


def nvml(**changes: Any) -> ModuleType:
    def fail(*_: Any) -> Any:
        raise NvmlError("Not Supported")

    memory = SimpleNamespace(total=150754820096, free=128082640896, reserved=644939776)
    app = SimpleNamespace(pid=550, usedGpuMemory=22017998848)
    made = ModuleType("pynvml")
    answers: dict[str, Any] = {
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlDeviceGetCount": lambda: 1,
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetMemoryInfo": lambda handle, version=0: memory,
        "nvmlDeviceGetMigMode": fail,
        "nvmlDeviceGetUUID": lambda handle: (
            b"GPU-269b"
        ),  # bytes, as older versions give
        "nvmlDeviceGetName": lambda handle: "NVIDIA H200",
        "nvmlDeviceGetComputeRunningProcesses": lambda handle: [app],
        "nvmlDeviceGetGraphicsRunningProcesses": lambda handle: [app],
        "nvmlSystemGetDriverVersion": lambda: "580.159.04",
        "nvmlSystemGetCudaDriverVersion_v2": lambda: 13000,
    }
    for name, answer in (answers | changes).items():
        setattr(made, name, answer)
    return made


def use(monkeypatch: pytest.MonkeyPatch, module: ModuleType | None) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", module)
    monkeypatch.setattr(collect, "command", lambda words, timeout=0: "")


def test_a_gpu_and_its_process_once(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, nvml())
    found = collect.collect()
    (gpu,), (app,) = found["gpus"], found["apps"]
    assert (gpu["uuid"], gpu["free"], gpu["mig"]) == ("GPU-269b", 128082640896, False)
    assert (app["pid"], app["used"]) == (550, 22017998848)
    assert (found["driver"], found["cuda"]) == ("580.159.04", "13.0")
    assert gpu["fabric"] is None


def test_a_gpu_in_a_domain_over_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    info = SimpleNamespace(clusterUuid=[0xAB] * 16, state=3, cliqueId=7)
    module = nvml(
        c_nvmlGpuFabricInfo_t=lambda: info,
        nvmlDeviceGetGpuFabricInfo=lambda handle, given: None,
        byref=lambda given: given,
        NVML_GPU_FABRIC_STATE_COMPLETED=3,
    )
    use(monkeypatch, module)
    assert collect.collect()["gpus"][0]["fabric"] == "ab" * 16 + "/7"
    info.clusterUuid = [0] * 16  # NVSwitch inside a node
    assert collect.collect()["gpus"][0]["fabric"] is None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("Driver/library version mismatch", True),
        ("NVML Shared Library Not Found", False),
    ],
)
def test_nvml_that_does_not_start(
    monkeypatch: pytest.MonkeyPatch, words: str, said: bool
) -> None:
    def fail() -> None:
        raise NvmlError(words)

    use(monkeypatch, nvml(nvmlInit=fail))
    found = collect.collect()
    assert found["gpus"] is None
    assert any(words in sentence for sentence in found["unknown"]) is said
    use(monkeypatch, nvml(nvmlDeviceGetCount=fail))
    assert any(words in sentence for sentence in collect.collect()["unknown"])


def test_a_gpu_that_fell_off_the_bus(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(index: int) -> None:
        raise NvmlError("GPU is lost")

    use(monkeypatch, nvml(nvmlDeviceGetHandleByIndex=fail))
    found = collect.collect()
    assert found["gpus"] == [{"index": 0}]
    assert found["unknown"] == ["GPU 0 could not be asked: GPU is lost"]


def test_nvidia_smi_where_there_is_no_nvml(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, None)
    asked = []

    def answer(words: list[str], timeout: float = 0) -> str:
        asked.append(words)
        if "--query-gpu=" + collect.OLD_GPU_FIELDS in words:
            return "0, GPU-a, NVIDIA L40S, 46068, 45000\n"
        apps = "--query-compute-apps=" + collect.APP_FIELDS
        return f"GPU-a, {12345678}, python, 900\n" if apps in words else ""

    monkeypatch.setattr(collect, "command", answer)
    found = collect.collect()
    assert found["gpus"] is None
    assert found["texts"]["gpus"].startswith("0, GPU-a")
    assert found["people"] == {}  # it has ended meanwhile
    assert ["nvidia-smi", "topo", "-m"] in asked


def test_people_and_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    user, name = collect.people("/", [str(os.getpid())])[str(os.getpid())]
    assert user and name and " " not in name.strip()

    def nobody(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.setattr("pwd.getpwuid", nobody)
    own = str(os.getpid())
    assert collect.people("/", [own])[own][0] == str(os.getuid())


def test_commands_that_fail_are_silent() -> None:
    assert collect.command(["false"]) == ""
    assert collect.command(["no-such-command"]) == ""
    assert collect.command(["sleep", "5"], 0.1) == ""
    assert collect.command(["echo", "x"]) == "x\n"
