"""The parser: argparse's rules one by one, and vLLM's own steps."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lemnos.engines.flags import Option, Parsed, Schema, parse, schema_for

VLLM = schema_for("vllm", "0.32.0")
SGLANG = schema_for("sglang", "0.5.23")


def codes(parsed: Parsed) -> list[tuple[str, str, int]]:
    """(code, word, index) of the fatal problems."""
    return [(p.code, p.word, p.index) for p in parsed.problems if p.fatal]


def tiny(*options: Option, rules: frozenset[str] = frozenset()) -> Schema:
    """A schema of a few options."""
    return Schema("tiny", "1.0", None, options, rules)


def test_a_good_command_line() -> None:
    line = ["zai-org/GLM-4.5-Air", "-tp", "4", "--max-model-len=128k", "--enable-lora"]
    line += [
        "--no-enable-prefix-caching",
        "--served-model-name",
        "glm",
        "air",
        "-q",
        "fp8",
    ]
    parsed = parse(VLLM, line)
    assert parsed.problems == ()
    assert parsed.positionals == ("zai-org/GLM-4.5-Air",)
    assert parsed.values == {
        "--tensor-parallel-size": ["4"],
        "--max-model-len": ["128k"],
        "--enable-lora": [],
        "--no-enable-prefix-caching": [],
        "--served-model-name": ["glm", "air"],
        "--quantization": ["fp8"],
    }


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (["m", "--swap-space", "4"], [("unknown", "--swap-space", 1)]),
        (["m", "--swap-space=4"], [("unknown", "--swap-space=4", 1)]),
        (["m", "-tp", "two"], [("value", "two", 2)]),
        (["m", "--gpu-memory-utilization=high"], [("value", "high", 1)]),
        (["m", "--dtype", "fp13"], [("choice", "fp13", 2)]),
        (["m", "-tp"], [("missing-value", "-tp", 1)]),
        (["m", "-tp", "--enable-lora"], [("missing-value", "-tp", 1)]),
        (["m", "--enable-lora=true"], [("unwanted-value", "--enable-lora=true", 1)]),
        (["m", "--enable-lora", "true"], [("positional", "true", 2)]),
        (["m", "n"], [("positional", "n", 1)]),
        (
            ["m", "--max-num"],
            [("ambiguous", "--max-num", 1), ("missing-value", "--max-num", 1)],
        ),
        (
            ["m", "--no-tensor-parallel-size"],
            [("unknown", "--no-tensor-parallel-size", 1)],
        ),
        (["m", "--compilation-config", "{"], [("value", "{", 2)]),
        (["m", "-cc.no_such_key=1"], [("value", '{"no_such_key": 1}', 1)]),
        (["m", "-cc.mode"], [("missing-value", "-cc.mode", 1)]),
        (["--served-model-name", "x"], [("positional", "--served-model-name", 0)]),
        (["--model"], [("missing-value", "--model", 0)]),
        (["m", "--config"], [("missing-value", "--config", 1)]),
        (["m", "--config", "x.json"], [("value", "x.json", 2)]),
        (["m", "--config", "a.yaml", "--config", "b.yaml"], [("value", "--config", 3)]),
        (["m", "--max-model-len", "1.5K"], [("value", "1.5K", 2)]),
        (["m", "--lora-modules", "x"], [("value", "x", 2)]),
        (["m", "--lora-modules", "[]"], [("value", "[]", 2)]),
        (["m", "--lora-modules", '{"name": "a"}'], [("value", '{"name": "a"}', 2)]),
        (["m", "-cc", '{"pass_config": 1}'], [("value", '{"pass_config": 1}', 2)]),
        (["m", "-cc", '{"mode": "text"}'], [("value", '{"mode": "text"}', 2)]),
        (
            ["m", "--structured-outputs-config", '{"disable_any_whitespace": true}'],
            [("value", '{"disable_any_whitespace": true}', 2)],
        ),
    ],
)
def test_vllm_refuses(line: list[str], expected: list[tuple[str, str, int]]) -> None:
    parsed = parse(VLLM, line)
    assert codes(parsed)[: len(expected)] == expected
    assert all(problem.message for problem in parsed.problems)


@pytest.mark.parametrize(
    "line",
    [
        ["m", "--tensor_parallel_size", "2"],
        ["m", "--max-model-len", "auto"],
        ["m", "--max-num-batched-tokens=8k"],
        ["m", "--seed", "-1"],
        ["m", "-cc.mode=none", "-cc.pass_config.fuse_allreduce_rms=false"],
        ["m", "--compilation-config.cudagraph_capture_sizes+", "1,2"],
        ["m", "-cc", '{"max_cudagraph_capture_size": 2k}'],
        ["m", "-O3"],
        ["m", "-O=3"],
        ["m", "-O", "3"],
        ["m", "--help", "--no-such-option"],
        ["m", "--no-such-option", "--help=ModelConfig"],
        ["m", "--lora-modules", "a=b", '{"name": "a", "path": "b"}'],
        ["m", "--hf-overrides", '{"a": 1}'],
        ["m", "--", "--"][:2],
        ["m", "--config", "x.yaml"],
        ["m", "--chat-template=x.y"],
        ["m", "--moe-backend", "FLASHINFER-CUTLASS"],
        [],
    ],
)
def test_vllm_takes(line: list[str]) -> None:
    assert codes(parse(VLLM, line)) == []


def test_a_prefix_is_taken_and_said() -> None:
    parsed = parse(VLLM, ["m", "--gpu-memory", "0.9", "-q4"])
    assert parsed.values == {
        "--gpu-memory-utilization": ["0.9"],
        "--quantization": ["4"],
    }
    assert [(p.code, p.word, p.fatal) for p in parsed.problems] == [
        ("prefix", "--gpu-memory", False)
    ]
    assert "--gpu-memory-utilization" in parsed.problems[0].message


def test_dots_become_one_object_that_says_where_it_was() -> None:
    line = ["m", "-cc.a.b=1", "-cc.a.c", "text", "-cc.d+=x,y", "-cc.d+", "z"]
    parsed = parse(VLLM, line)
    made = {"a": {"b": 1, "c": "text"}, "d": ["x", "y", "z"]}
    assert json.loads(parsed.values["--compilation-config"][0]) == made
    assert parsed.problems[0].index == 1


def test_keys_that_exclude_each_other() -> None:
    assert (
        codes(parse(VLLM, ["m", "--speculative-config.=1", "-sc.a=1", "-sc.a.b.=1"]))
        == []
    )
    assert "value" in {p.code for p in parse(VLLM, ["m", "-cc=1", "-cc.a=1"]).problems}


def test_the_model_as_an_option_is_moved_or_refused() -> None:
    moved = parse(VLLM, ["--port", "1", "--model", "m"])
    assert moved.positionals == ("m",)
    assert [(p.code, p.index, p.fatal) for p in moved.problems] == [
        ("deprecated", 2, False)
    ]
    assert parse(VLLM, ["--model=m", "-tp", "2"]).positionals == ("m",)
    assert codes(parse(schema_for("vllm", "0.8.5"), ["--model", "m"])) == [
        ("positional", "--model", 0)
    ]


def test_the_last_of_two_counts_and_a_twin_undoes() -> None:
    line = ["m", "--enable-lora", "--no-enable-lora", "-tp", "1", "-tp", "2"]
    line += ["--middleware", "a", "--middleware", "b"]
    assert parse(VLLM, line).values == {
        "--no-enable-lora": [],
        "--tensor-parallel-size": ["2"],
        "--middleware": ["a", "b"],
    }
    again = parse(VLLM, ["m", "--no-enable-lora", "--enable-lora"])
    assert again.values == {"--enable-lora": []}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ([], [("missing-value", "--model-path", 0)]),
        (["m"], [("positional", "m", 0), ("missing-value", "--model-path", 1)]),
        (["--model", "m", "--tp_size", "2"], [("unknown", "--tp_size", 2)]),
        (["--model", "m", "-hx"], [("unwanted-value", "-hx", 2)]),
        (["--model", "m", "-h="], [("unwanted-value", "-h=", 2)]),
        (["--model", "m", "--max-total-tokens", "2K"], [("value", "2K", 3)]),
        (["--model", "m", "--cuda-graph-config", "[]"], [("value", "[]", 3)]),
        (
            ["--model", "m", "--cuda-graph-config", '{"x": 1}'],
            [("value", '{"x": 1}', 3)],
        ),
        (
            ["--model", "m", "--cuda-graph-config", '{"decode": 1}'],
            [("value", '{"decode": 1}', 3)],
        ),
        (["--model", "m", "--lora-paths", "{}"], [("value", "{}", 3)]),
        (["--model", "m", "--"], [("positional", "--", 2)]),
    ],
)
def test_sglang_refuses(line: list[str], expected: list[tuple[str, str, int]]) -> None:
    assert codes(parse(SGLANG, line)) == expected


@pytest.mark.parametrize(
    "line",
    [
        ["--model", "m", "--tp", "2"],
        [
            "--model-path",
            "m",
            "--max-total-tokens",
            "2Ki",
            "--max-prefill-tokens",
            "1.5k",
        ],
        ["--model-path", "m", "--cuda-graph-config", '{"decode": {"max_bs": 4}}'],
        [
            "--model-path",
            "m",
            "--lora-paths",
            "a",
            '{"lora_name": "a", "lora_path": "b"}',
        ],
        ["--config", "x.yaml"],
        ["-h"],
        ["-h", "--tp"],
    ],
)
def test_sglang_takes(line: list[str]) -> None:
    assert codes(parse(SGLANG, line)) == []


def test_a_deprecated_option_is_taken_and_said() -> None:
    line = ["--model", "m", "--enable-dp-attention"]
    [problem] = parse(SGLANG, line).problems
    assert (problem.code, problem.fatal) == ("deprecated", False)
    assert "--attn-dp-size" in problem.message


def test_numbers_of_values_and_joined_flags() -> None:
    schema = tiny(
        Option(("--two", "-t"), "int", many="2"),
        Option(("--any",), "text", many="*"),
        Option(("--maybe",), "text", many="?"),
        Option(("-a",), "flag"),
        Option(("-b",), "text"),
        Option(("--old",), "flag", deprecated="--new", reads="refused"),
        Option(("--older",), "flag", deprecated="deprecated"),
    )
    assert parse(schema, ["--two", "1", "-2", "--any", "--maybe"]).values == {
        "--two": ["1", "-2"],
        "--any": [],
        "--maybe": [],
    }
    assert codes(parse(schema, ["--two=1"])) == [("missing-value", "--two=1", 0)]
    assert codes(parse(schema, ["-t", "1"])) == [("missing-value", "-t", 0)]
    assert parse(schema, ["-ab4"]).values == {"-a": [], "-b": ["4"]}
    assert codes(parse(schema, ["-az"])) == [("unwanted-value", "-az", 0)]
    assert codes(parse(schema, ["--old"])) == [("deprecated", "--old", 0)]
    assert codes(parse(schema, ["--older"])) == []
    assert codes(parse(schema, ["-", "--any x", ""])) == [
        ("positional", "-", 0),
        ("positional", "--any x", 1),
        ("positional", "", 2),
    ]


def test_the_first_releases_read_a_level_or_an_object_for_their_compilation() -> None:
    old = schema_for("vllm", "0.9.0")
    for good in ("3", '{"level": 3}', "{'level': 3}"):
        assert codes(parse(old, ["m", "--compilation-config", good])) == []
    for bad in ("level", "{'level'"):
        assert codes(parse(old, ["m", "--compilation-config", bad])) != []


words = st.one_of(
    st.sampled_from(sorted(VLLM.spellings)),
    st.text(max_size=8),
    st.sampled_from(
        ["--", "-", "-O", "1", "{}", "-cc.a", "-cc.a.b=1", "--model", "--config"]
    ),
    st.builds(
        "{}={}".format, st.sampled_from(sorted(VLLM.spellings)), st.text(max_size=4)
    ),
)


@given(st.lists(words, max_size=8))
def test_any_line_is_judged_and_every_problem_is_in_it(line: list[str]) -> None:
    for schema in (
        VLLM,
        SGLANG,
        schema_for("vllm", "0.8.5"),
        schema_for("dynamo.vllm", None),
    ):
        parsed = parse(schema, line)
        assert all(0 <= problem.index <= len(line) for problem in parsed.problems)
        assert [p.index for p in parsed.problems] == sorted(
            p.index for p in parsed.problems
        )
        known = {name for option in schema.options for name in option.names}
        assert {n.replace("--no-", "--", 1) for n in parsed.values} | {
            *parsed.values
        } <= known | {n.replace("--no-", "--", 1) for n in parsed.values} | set(
            schema.spellings
        )


@given(st.sampled_from(VLLM.options), st.data())
def test_a_names_unique_beginning_means_the_same(
    option: Option, data: st.DataObject
) -> None:
    name = data.draw(st.sampled_from(option.names))
    short = name[: data.draw(st.integers(3, max(3, len(name))))]
    if not name.startswith("--") or len(VLLM.matching(short)) != 1 or "." in name:
        return
    values = [] if option.kind == "flag" else ["1"]
    if short in ("--model", "--config") or name in ("--model", "--config", "--help"):
        return
    assert (
        parse(VLLM, ["m", short, *values]).values
        == parse(VLLM, ["m", name, *values]).values
    )


def test_a_class_may_be_closed_before_all_were() -> None:
    line = ["m", "--compilation-config.no_such_key=1"]
    assert codes(parse(schema_for("vllm", "0.13.0"), line)) != []
    assert codes(parse(schema_for("vllm", "0.9.1"), line)) == []
