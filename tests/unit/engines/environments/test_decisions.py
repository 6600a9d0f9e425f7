"""Resolutions, checks, parts, platforms and shared file systems: the pure parts."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lemnos.engines.environments import bundling, installing, sharing, work
from lemnos.engines.environments.builds import Target
from lemnos.engines.environments.bundling import cuts, part_name, pip_platforms
from lemnos.engines.flags import schema_for
from lemnos.errors import UsageError

COMPANIONS = ["torchvision", "torchaudio"]


def test_pins_are_read_out_of_what_uv_prints() -> None:
    text = (
        "--find-links /a/place\n# a comment\nnumpy==2.3.0\n    # via torch\n"
        "torch==2.13.0+cpu ; sys_platform == 'linux'\nx @ file:///x.whl\n"
    )
    assert work.pins_of(text) == ["numpy==2.3.0", "torch==2.13.0+cpu"]


def test_companions_of_another_torch_are_left_out() -> None:
    assert work.mismatched(["torch==2.13.0", "torchvision==0.28.0"], COMPANIONS) == []
    cpu = ["torch==2.13.0+cpu", "torchvision==0.28.0", "torchaudio==2.13.0+cpu"]
    assert work.mismatched(cpu, COMPANIONS) == ["torchvision"]
    assert work.mismatched(["numpy==1.0"], COMPANIONS) == []


def test_a_resolution_is_the_same_in_any_order() -> None:
    assert work.digest_of(["a==1", "b==2"]) == work.digest_of(["b==2", "a==1"])
    assert work.digest_of(["a==1"]) != work.digest_of(["a==2"])


@pytest.mark.parametrize(
    ("found", "changed", "says"),
    [
        ({"version": "1.0", "gpus": 4}, {}, None),
        ({"version": "1.0+cu129", "gpus": 1}, {}, None),
        ({"version": "1.1", "gpus": 4}, {}, "engine is 1.1, not 1.0"),
        ({"version": "1.0", "gpus": 0}, {}, "has 4 GPUs, the environment sees none"),
        ({"version": "1.0", "gpus": 0, "gpus_why": "too old"}, {}, "none: too old"),
        ({"version": "1.0", "gpus": 0}, {"gpus": 0}, None),
        ({"version": "1.0", "gpus": 0}, {"cuda": None}, None),
    ],
)
def test_what_a_check_makes_of_it(
    found: dict[str, Any], changed: dict[str, Any], says: str | None
) -> None:
    order = {"distribution": "engine", "version": "1.0", "cuda": 13, "gpus": 4}
    told = work.judge(found, order | changed)
    assert told is None if says is None else says in str(told)


def test_the_last_words_of_a_program() -> None:
    text = "\n".join(f"line {n}" for n in range(50))
    assert work.last_lines(text).startswith("line 38 | ")
    assert work.last_lines("\n\n") == "it said nothing"


def test_options_are_held_against_the_table() -> None:
    real = sorted(schema_for("vllm", "0.32.0").spellings)
    verdict = installing.flags_verdict("vllm", "0.32.0", {"flags": [*real, "--help"]})
    assert verdict.endswith(", as in the table")
    verdict = installing.flags_verdict(
        "vllm", "0.32.0", {"flags": [*real[1:], "--new"]}
    )
    assert "only the engine has --new" in verdict
    assert f"only the table has {real[0]}" in verdict
    verdict = installing.flags_verdict("vllm", "0.32.0", {"flags_why": "no GPU"})
    assert verdict == "not compared: no GPU"
    verdict = installing.flags_verdict("vllm", "99.0", {"flags": []})
    assert "nearest release" in verdict
    assert "no table" in installing.flags_verdict("", "1.0", {"flags": []})
    assert "no table" in installing.flags_verdict("llama", "1.0", {"flags": []})


def test_hosts_that_share_their_environments() -> None:
    apart = {"a": ["a"], "b": ["b"]}
    assert sharing.groups(apart) == [["a"], ["b"]]
    shared = {"a": ["a", "b"], "b": ["a", "b"], "c": ["c"]}
    assert sharing.groups(shared) == [["a", "b"], ["c"]]
    late = {"a": ["a"], "b": ["a", "b"]}  # a's file server had not told it yet
    assert sharing.groups(late) == [["a", "b"]]


@given(st.integers(0, 10**6), st.integers(1, 10**5))
def test_parts_are_the_whole_in_order(size: int, part: int) -> None:
    found = cuts(size, part)
    assert sum(length for _, length in found) == size
    assert all(length <= part for _, length in found)
    assert [start for start, _ in found] == [i * part for i in range(len(found))]


def test_names_and_sizes_of_parts() -> None:
    assert part_name("wheels/a.whl", 0, 1) == "wheels/a.whl"
    assert part_name("wheels/a.whl", 2, 3) == "wheels/a.whl.part002"
    assert bundling.size_of("2G") == 2_000_000_000
    assert bundling.size_of("1.5 MB") == 1_500_000
    for wrong in ("", "2T", "-1G", "12", "G"):
        with pytest.raises(UsageError, match="no size of a part"):
            bundling.size_of(wrong)


def test_a_bundle_for_another_machine() -> None:
    manifest = bundling.Manifest(
        request="vllm==0.26.0",
        architecture="aarch64",
        glibc="2.34",
        python="3.12",
        packages=(),
        files=(),
        created=0.0,
    )
    machine = Target(name="n", architecture="aarch64", glibc="2.35")
    assert bundling.unfit(manifest, machine) is None
    old = machine.model_copy(update={"glibc": "2.28"})
    assert "needs glibc 2.34, this machine has 2.28" in str(
        bundling.unfit(manifest, old)
    )
    other = machine.model_copy(update={"architecture": "x86_64"})
    assert "is for aarch64, this machine is x86_64" in str(
        bundling.unfit(manifest, other)
    )


def test_platforms() -> None:
    tags = pip_platforms("x86_64", "2.28")
    assert tags[0] == "manylinux_2_28_x86_64" and tags[-1] == "linux_x86_64"
    assert "manylinux2014_x86_64" in tags and "manylinux1_x86_64" in tags
    assert "manylinux_2_29_x86_64" not in tags
    assert "manylinux1_aarch64" not in pip_platforms("aarch64", "2.28")
    assert bundling.uv_platform("aarch64", "2.35") == "aarch64-manylinux_2_35"
    assert bundling.uv_platform("x86_64", "2.17") == "x86_64-manylinux_2_28"
    assert bundling.uv_platform("x86_64", "2.29") == "x86_64-manylinux_2_28"
    for text in ("linux/arm64", "aarch64", "linux/aarch64"):
        assert bundling.platform_named(text) == "aarch64"
    with pytest.raises(UsageError, match="no platform"):
        bundling.platform_named("windows/amd64")
