"""What models need of engines, by family, name and version."""

from __future__ import annotations

import functools

import pytest

from lemnos.engines import quirks
from lemnos.engines.flags.schema import schema_for, versions
from lemnos.engines.quirks import quirks_for
from lemnos.models.known import known_architecture, known_models, known_named
from lemnos.spec.architecture import Architecture
from lemnos.spec.quirks import Quirks


@functools.cache
def model(name: str) -> Architecture:
    """A known model's architecture."""
    known = known_named(name)
    assert known is not None
    return known_architecture(known)


def of(engine: str, version: str, name: str) -> Quirks:
    """The quirks of a known model."""
    return quirks_for(engine, version, name, model(name))


@pytest.mark.parametrize(
    ("engine", "version", "name", "tool", "reasoning"),
    [
        ("vllm", "0.26.0", "glm-4.5-air-fp8", "glm45", "glm45"),
        ("vllm", "0.15.0", "glm-4.6", "glm45", "glm45"),
        ("vllm", "0.10.0", "glm-4.5", "glm4_moe", "glm4_moe"),
        ("vllm", "0.15.0", "glm-4.7-fp8", "glm47", "glm45"),
        ("vllm", "0.26.0", "glm-4.7-flash", "glm47", "glm47"),
        ("vllm", "0.15.0", "glm-4.6v-fp8", "glm45", "glm45"),
        ("vllm", "0.15.0", "gpt-oss-120b", "openai", "openai_gptoss"),
        ("vllm", "0.10.1", "gpt-oss-20b", None, "GptOss"),
        ("vllm", "0.15.0", "qwen3-vl-235b-a22b", "hermes", None),
        ("vllm", "0.15.0", "qwen3-32b", "hermes", "qwen3"),
        ("vllm", "0.15.0", "llama-4-scout", "llama4_pythonic", None),
        ("vllm", "0.26.0", "deepseek-r1", "deepseek_v3", "deepseek_r1"),
        ("vllm", "0.26.0", "minimax-m2.5", "minimax_m2", "minimax_m2_append_think"),
        ("sglang", "0.5.23", "glm-4.7-nvfp4", "glm47", "glm45"),
        ("sglang", "0.5.23", "glm-4.5-air", "glm45", "glm45"),
        ("sglang", "0.5.23", "gpt-oss-120b", "gpt-oss", "gpt-oss"),
        ("sglang", "0.5.23", "llama-4-maverick", "pythonic", None),
        ("sglang", "0.4.6", "qwen3-32b", "qwen25", None),
    ],
)
def test_parsers_by_engine_and_version(
    engine: str, version: str, name: str, tool: str | None, reasoning: str | None
) -> None:
    found = of(engine, version, name)
    assert (found.tool_parser, found.reasoning_parser) == (tool, reasoning)


@pytest.mark.parametrize("version", ["0.10.2", "0.13.0"])
def test_a_version_without_glm_47s_parser_gets_none(version: str) -> None:
    """GLM-4.5's would read none of its calls: 4.7 writes no line break after the name."""
    assert of("vllm", version, "glm-4.7").tool_parser is None
    assert of("vllm", version, "glm-4.6").tool_parser == "glm45"


def test_every_parser_that_sglang_is_given_is_one_of_its_choices() -> None:
    for version in versions("sglang"):
        schema = schema_for("sglang", version)
        for known in known_models():
            found = of("sglang", version, known.name)
            for flag, name in (
                ("--tool-call-parser", found.tool_parser),
                ("--reasoning-parser", found.reasoning_parser),
            ):
                option = schema.named(flag)
                assert name is None or (option and name in option.choices)


def test_reasoning_is_switched_by_the_template_where_it_can_be() -> None:
    glm = of("vllm", "0.26.0", "glm-4.6")
    assert glm.reasoning_off == {"enable_thinking": False}
    assert glm.reasoning_on == {"enable_thinking": True}
    assert glm.reasons_by_default
    oss = of("vllm", "0.26.0", "gpt-oss-120b")
    assert oss.reasons_by_default
    assert not oss.reasoning_off
    instruct = of("vllm", "0.26.0", "qwen3-vl-235b-a22b")
    assert not instruct.reasons_by_default


def test_names_tell_models_of_one_family_apart() -> None:
    qwen = model("qwen3-vl-235b-a22b")
    thinking = quirks_for("vllm", "0.26.0", "Qwen3-VL-235B-A22B-Thinking", qwen)
    assert thinking.reasoning_parser == "deepseek_r1"
    assert thinking.reasons_by_default
    deepseek = model("deepseek-v3")
    newer = quirks_for("vllm", "0.26.0", "DeepSeek-V3.1", deepseek)
    assert newer.tool_parser == "deepseek_v31"
    assert newer.reasoning_on == {"thinking": True}
    assert not newer.reasons_by_default


@pytest.mark.parametrize(
    ("version", "method"), [("0.10.2", "glm4_moe_mtp"), ("0.11.0", "mtp")]
)
def test_vllm_speculates_with_glms_own_layer_by_the_versions_name(
    version: str, method: str
) -> None:
    found = of("vllm", version, "glm-4.6").speculation
    assert found["--speculative-config"]["method"] == method


def test_sglang_speculates_as_seed_001_does() -> None:
    assert of("sglang", "0.5.23", "glm-4.5-air").speculation == {
        "--speculative-algorithm": "EAGLE",
        "--speculative-num-steps": 3,
        "--speculative-eagle-topk": 1,
        "--speculative-num-draft-tokens": 4,
    }


@pytest.mark.parametrize(
    ("engine", "version", "name"),
    [
        ("vllm", "0.26.0", "glm-4.6-awq"),  # published without its MTP layer
        ("vllm", "0.9.2", "glm-4.6"),  # before vLLM knew the layer
        ("vllm", "0.14.0", "glm-4.7-flash"),
        ("sglang", "0.5.12", "glm-4.7-flash"),
        ("vllm", "0.26.0", "llama-3.1-8b"),
    ],
)
def test_no_speculation_without_the_layer_or_the_versions_support(
    engine: str, version: str, name: str
) -> None:
    assert of(engine, version, name).speculation == {}


@pytest.mark.parametrize(
    ("version", "names"),
    [
        ("0.5.5", {"scales-by-16", "expert-parallel"}),
        ("0.5.6.post2", {"scales-by-16", "expert-parallel", "gated-padding"}),
        ("0.5.23", {"expert-parallel", "gated-padding"}),
        ("nightly", {"expert-parallel", "gated-padding"}),
    ],
)
def test_the_modelopt_assertion_of_seed_003_is_known_by_version(
    version: str, names: set[str]
) -> None:
    found = of("sglang", version, "glm-4.7-nvfp4")
    assert {each.name.removeprefix("sglang-nvfp4-") for each in found.issues} == names
    padding = [each for each in found.issues if each.name.endswith("gated-padding")]
    for issue in padding:
        assert "padding is also implemented for gated activations" in issue.symptom
        assert issue.fixed is None
        assert "sgl-project/sglang#30887" in found.sources


def test_issues_of_a_format_are_those_of_its_checkpoints_only() -> None:
    assert of("sglang", "0.5.23", "glm-4.7-fp8").issues == ()


@pytest.mark.parametrize(("version", "count"), [("0.25.0", 1), ("v0.26.0-cu130", 0)])
def test_vllms_nvfp4_rows_are_fixed_in_026(version: str, count: int) -> None:
    assert len(of("vllm", version, "glm-4.7-nvfp4").issues) == count


def test_the_missing_bos_token_is_an_overlay_for_old_dynamos_only() -> None:
    assert of("vllm", "0.15.0", "glm-4.7-nvfp4").overlays == ()
    assert of("dynamo.sglang", "0.9.0", "glm-4.7-nvfp4").overlays == ()
    (overlay,) = of("dynamo.sglang", "0.8.1", "glm-4.7-nvfp4").overlays
    assert overlay.name == "glm-4.7-bos-token-1"
    assert overlay.file == "generation_config.json"
    assert overlay.missing == {"bos_token_id": 151329}


def test_dynamo_parses_by_itself_and_its_workers_bring_their_issues() -> None:
    found = of("dynamo.sglang", "1.6.1", "glm-4.7-nvfp4")
    assert (found.tool_parser, found.reasoning_parser) == ("glm47", "glm45")
    assert "sglang-nvfp4-gated-padding" in {each.name for each in found.issues}
    oss = of("dynamo.vllm", "1.6.1", "gpt-oss-120b")
    assert (oss.tool_parser, oss.reasoning_parser) == ("harmony", "gpt_oss")


def test_only_models_whose_repository_has_code_may_run_it() -> None:
    trusting = {
        known.name
        for known in known_models()
        if of("vllm", "0.26.0", known.name).trust_remote_code
    }
    assert trusting == {"kimi-k2"}


def test_nothing_is_special_about_what_nobody_knows() -> None:
    assert quirks_for("vllm", "0.26.0", "mine", None) == Quirks()
    assert of("vllm", "0.26.0", "mixtral-8x7b") == Quirks()


def test_names_in_the_table_refer_to_something() -> None:
    file = quirks._file()
    issues = {each.name for each in file.issues}
    overlays = {each.name for each in file.overlays}
    for entry in file.models:
        assert set(entry.issues) <= issues
        assert set(entry.overlays) <= overlays
        assert entry.sources
