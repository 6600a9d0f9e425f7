"""Command lines: what is lemnos' own, what the version knows, what it would refuse."""

from __future__ import annotations

from typing import Any

import pytest

from lemnos.engines.command import CommandLine, written
from lemnos.engines.flags.schema import schema_for
from lemnos.engines.sglang import OWNED as SGLANG
from lemnos.engines.vllm import OWNED as VLLM
from lemnos.errors import UsageError
from tests.unit.engines.rendered import flag, glm, jobs_of


def line(version: str = "0.26.0") -> CommandLine:
    """An empty line of vLLM's."""
    return CommandLine(schema_for("vllm", version), "/models/m")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (True, ["--x"]),
        (False, ["--no-x"]),
        (None, []),
        (3, ["--x", "3"]),
        (0.9, ["--x", "0.9"]),
        (7.0, ["--x", "7"]),
        ("a b", ["--x", "a b"]),
        ([1, 2], ["--x", "1", "2"]),
        ({"a": {"b": 1}}, ["--x", '{"a":{"b":1}}']),
    ],
)
def test_values_as_words(value: object, words: list[str]) -> None:
    assert written("--x", value) == words


@pytest.mark.parametrize("number", [131072, 10485760, 0.123456789, 1e-05, 1234567.5])
def test_numbers_keep_their_digits(number: float) -> None:
    assert float(written("--x", number)[1]) == number


def test_the_first_spelling_that_the_version_has_is_written() -> None:
    made = CommandLine(schema_for("sglang", "0.5.23"))
    made.add(("--tp-size", "--tensor-parallel-size"), 4, why="tensor parallelism")
    assert made.words == ["--tp-size", "4"]


def test_what_a_version_cannot_do_is_said_with_the_version_that_can() -> None:
    with pytest.raises(UsageError) as error:
        line("0.10.2").add("--nnodes", 2, why="several nodes without Ray")
    assert error.value.what == (
        "vllm 0.10.2 cannot do several nodes without Ray: it has no --nnodes"
    )
    assert "it came with vllm 0.11.2" in error.value.fix


def test_what_no_newer_version_can_do_is_to_be_left_out() -> None:
    with pytest.raises(UsageError) as error:
        line("0.26.0").add("--swap-space", 16, why="swapping")
    assert "or leave it out" in error.value.fix


def test_owned_flags_are_refused_with_the_key_to_use() -> None:
    with pytest.raises(UsageError) as error:
        line().add_free({"max-model-len": 4096}, VLLM)
    assert error.value.what == (
        "engine_args sets --max-model-len, which lemnos sets itself"
    )
    assert error.value.where == "engine_args.max-model-len"
    assert "workload.context" in error.value.fix


@pytest.mark.parametrize(
    "key",
    [
        "max_model_len",
        "--max-model-len",
        "tensor-parallel-size",
        "no-enable-expert-parallel",
        "kv_transfer_config.kv_role",
        "speculative-config.method",
        "api-key",
        "seed",
        "config",
        "host",
    ],
)
def test_no_spelling_of_an_owned_flag_gets_through(key: str) -> None:
    with pytest.raises(UsageError, match="lemnos sets itself"):
        line().add_free({key: "1"}, VLLM)


@pytest.mark.parametrize(
    "key", ["tp-size", "tensor-parallel-size", "ep-size", "api-key"]
)
def test_nor_one_of_sglangs(key: str) -> None:
    made = CommandLine(schema_for("sglang", "0.5.23"))
    with pytest.raises(UsageError, match="lemnos sets itself"):
        made.add_free({key: 8}, SGLANG)


def test_prefixes_that_argparse_would_take_are_unknown_here() -> None:
    """``--tensor-parallel`` would otherwise pass by the owned names."""
    with pytest.raises(UsageError, match="never had --tensor-parallel") as error:
        line().add_free({"tensor-parallel": 8}, VLLM)
    assert "--tensor-parallel-size" in error.value.fix


@pytest.mark.parametrize(
    ("version", "key", "text"),
    [
        ("0.26.0", "swap-space", r"vllm 0.26.0 has no --swap-space \(gone in 0.18.0\)"),
        ("0.26.0", "disable-log-requests", "gone in 0.17.0"),
        ("0.10.2", "nnodes-timeout", "never had"),
        ("0.9.2", "decode-context-parallel-size", "new in"),
    ],
)
def test_unknown_flags_are_said_with_the_version_that_changed_them(
    version: str, key: str, text: str
) -> None:
    with pytest.raises(UsageError, match=text):
        line(version).add_free({key: 1}, {})


def test_a_replacement_is_named() -> None:
    with pytest.raises(UsageError) as error:
        line().add_free({"disable-log-requests": True}, {})
    assert "enable-log-requests" in error.value.fix


@pytest.mark.parametrize(
    "args",
    [
        {"block-size": "sixteen"},
        {"dtype": "bf15"},
        {"enable-prefix-caching": "yes"},
        {"max-logprobs": [1, 2]},
    ],
)
def test_values_that_the_parser_would_refuse(args: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="would refuse it") as error:
        line().add_free(args, VLLM)
    assert error.value.where == "engine_args"


def test_lemnos_own_values_are_judged_too() -> None:
    """A plan made for a newer version: its KV cache's type came later."""
    with pytest.raises(UsageError, match="would refuse it") as error:
        jobs_of(glm(version="0.11.0", settings={"kv_cache_dtype": "nvfp4"}))
    assert error.value.where == ""
    assert "another version" in error.value.fix


def test_free_arguments_are_written_last_and_may_be_dotted() -> None:
    made = line()
    made.add("--port", 1, why="a port")
    made.add_free(
        {
            "enable_prefix_caching": False,
            "compilation-config.cudagraph_mode": "NONE",
            "limit-mm-per-prompt": {"image": 2},
        },
        VLLM,
    )
    assert made.words == [
        *("--port", "1"),
        "--no-enable-prefix-caching",
        *("--compilation-config.cudagraph_mode", "NONE"),
        *("--limit-mm-per-prompt", '{"image":2}'),
    ]


@pytest.mark.parametrize("engine", ["vllm", "sglang", "dynamo"])
def test_every_engine_takes_free_arguments(engine: str) -> None:
    args: dict[str, Any] = {"tokenizer-mode": "auto"}
    jobs = jobs_of(glm(engine, engine_args=args))
    assert any(flag(job, "--tokenizer-mode") == "auto" for job in jobs)


@pytest.mark.parametrize("engine", ["vllm", "sglang", "dynamo"])
def test_no_engines_own_layout_can_be_overridden(engine: str) -> None:
    worker = "tp-size" if engine != "vllm" else "tensor-parallel-size"
    with pytest.raises(UsageError, match="lemnos sets itself"):
        jobs_of(glm(engine, engine_args={worker: 2}))
