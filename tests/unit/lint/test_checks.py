"""Every rule: what it says of which command, and what it leaves alone."""

from __future__ import annotations

import pytest

from lemnos.errors import UsageError
from lemnos.lint.findings import Finding, fixed
from lemnos.lint.linting import Asked, lint
from lemnos.lint.rules import RULES

V = "0.32.0"
QUIET = {"open-to-all", "version-assumed"}


def said(text: str, **asked: str) -> list[Finding]:
    """The findings of a command, but those that every command has."""
    asked.setdefault("version", V)
    report = lint(text, "", "command", Asked(**asked))
    return [one for one in report.findings if one.rule not in QUIET]


def rules(text: str, **asked: str) -> list[str]:
    return [one.rule for one in said(text, **asked)]


def repaired(text: str, **asked: str) -> str:
    return fixed(text, said(text, **asked))[0]


@pytest.mark.parametrize(
    ("text", "version", "rule", "result"),
    [
        ("vllm serve m --swap-space 4 --port 1", V, "removed-flag", "vllm serve m --port 1"),
        ("vllm serve m --swap-space=4 --port 1", V, "removed-flag", "vllm serve m --port 1"),
        ("vllm serve m --enable-reasoning --port 1", V, "removed-flag", "vllm serve m --port 1"),
        ("vllm serve m --expert-parallel-size 2", V, "unknown-flag", "vllm serve m --enable-expert-parallel"),
        ("vllm serve m --expert-parallel-size=2", V, "unknown-flag", "vllm serve m --enable-expert-parallel"),
        ("vllm serve m --enable-expert-parallel --expert-parallel-size 2", V, "unknown-flag", "vllm serve m --enable-expert-parallel"),
        ("vllm serve m --context-length 5", V, "unknown-flag", "vllm serve m --max-model-len 5"),
        ("vllm serve m --no-such-thing 5", V, "unknown-flag", None),
        ("vllm serve m --gpu-memory-utilisation 0.5", V, "unknown-flag", None),
        ("vllm serve m --swap-space 4", "0.10.2", None, None),
        ("vllm serve m --kv-offloading-size 4", "0.8.5", "newer-flag", None),
        ("vllm serve m --max-model-len abc", V, "wrong-type", None),
        ("vllm serve m --port x", V, "wrong-type", None),
        ("vllm serve m --dtype bf16", V, "not-a-choice", None),
        ("vllm serve m --dtype", V, "missing-value", None),
        ("vllm serve m --enforce-eag", V, "prefix", "vllm serve m"),
        ("vllm serve m --gpu-mem 0.5", V, "prefix", "vllm serve m --gpu-memory-utilization 0.5"),
        ("vllm serve m --enable-p", V, "ambiguous-prefix", None),
        ("vllm serve m --max-model-len 4 --max-model-len 5", V, "given-twice", "vllm serve m --max-model-len 5"),
        ("vllm serve m --max_model_len 5 --no-enable-prefix-caching", V, None, None),
        ("vllm serve m -cc.mode=none --override-generation-config.top_k=5", V, None, None),
        ("vllm serve m --max-model-len $LEN --dtype $D $MORE --port $PORT", V, None, None),
        ("vllm serve $M --enable-prefix-caching $MORE", V, None, None),
        ("python -m sglang.launch_server --model-path m --enable-ep-moe", "0.5.23", "removed-flag", None),
        ("python -m sglang.launch_server --model-path m --tp 2", "0.5.23", "prefix", "python -m sglang.launch_server --model-path m --tp-size 2"),
        ("python -m sglang.launch_server --model-path m --ep-size 2 --tp-size 2", "0.5.23", None, None),
        ("python -m sglang.launch_server --model-path m --max-model-len 2", "0.5.23", "unknown-flag", "python -m sglang.launch_server --model-path m --context-length 2"),
        ("python -m sglang.launch_server --model-path m --enforce-eager", "0.5.23", "unknown-flag", "python -m sglang.launch_server --model-path m"),
    ],
)  # fmt: skip
def test_flags_of_the_release(
    text: str, version: str, rule: str | None, result: str | None
) -> None:
    found = rules(text, version=version)
    assert (rule in found) if rule else (found == [])
    if result:
        once = repaired(text, version=version)
        assert repaired(once, version=version) == result


def test_a_removed_flag_says_when() -> None:
    [one] = said("vllm serve m --swap-space 4")
    assert one.code == "LMN202" and one.severity == "error"
    assert "last in 0.17.1, gone in 0.18.0" in one.what
    assert (one.start, one.end) == (13, 25)


def test_true_and_false_after_a_switch() -> None:
    text = "vllm serve m --enable-expert-parallel true"
    assert "stray-word" in rules(text) or "unwanted-value" in rules(text)
    assert repaired(text) == "vllm serve m --enable-expert-parallel"
    text = "vllm serve m --enable-expert-parallel=true --port 1"
    assert repaired(text) == "vllm serve m --enable-expert-parallel --port 1"
    text = "vllm serve m --enable-expert-parallel false --port 1"
    assert repaired(text) == "vllm serve m --port 1"


AIR = "vllm serve zai-org/GLM-4.5-Air "


@pytest.mark.parametrize(
    ("text", "rule", "result"),
    [
        (AIR + "--tensor-parallel-size 7", "layout", None),
        (AIR + "-tp 5", "layout", None),
        (AIR + "-tp 2 -pp 500", "layout", None),
        (AIR + "-tp 8", None, None),
        (AIR + "--tensor-parallel-size $TP", None, None),
        (AIR + "--max-model-len 200000", "context-too-long", AIR + "--max-model-len 131072"),
        (AIR + "--max-model-len 131072", None, None),
        (AIR + "--max-model-len 128k", None, None),
        (AIR + "--max-model-len 1M", "context-too-long", AIR + "--max-model-len 131072"),
        (AIR + "--max-model-len 200000 --hf-overrides '{\"a\": 1}'", None, None),
        (AIR + "--enable-expert-parallel", None, None),
        ("vllm serve Qwen/Qwen3-8B --enable-expert-parallel", "experts-without-moe", "vllm serve Qwen/Qwen3-8B"),
        ("vllm serve --model Qwen/Qwen3-8B --port 1 --enable-expert-parallel", "experts-without-moe", None),
        ("python -m sglang.launch_server --model-path Qwen/Qwen3-8B --tp-size 2 --ep-size 2", "experts-without-moe", "python -m sglang.launch_server --model-path Qwen/Qwen3-8B --tp-size 2"),
        ("vllm serve THUDM/GLM-4.5", "moved-model", "vllm serve zai-org/GLM-4.5"),
        (AIR + "--trust-remote-code", "remote-code", AIR.strip()),
        ("vllm serve me/mine --trust-remote-code --tensor-parallel-size 7", None, None),
        ("vllm serve ./GLM-4.5-Air --tensor-parallel-size 7", None, None),
        (AIR + "--tool-call-parser glm47 --enable-auto-tool-choice", "wrong-parser", AIR + "--tool-call-parser glm45 --enable-auto-tool-choice"),
        ("vllm serve zai-org/GLM-4.7 --tool-call-parser glm45 --enable-auto-tool-choice", "wrong-parser", None),
        (AIR + "--reasoning-parser qwen3", "wrong-parser", AIR + "--reasoning-parser glm45"),
        ("vllm serve meta-llama/Llama-4-Scout-17B-16E-Instruct --reasoning-parser qwen3", "wrong-parser", "vllm serve meta-llama/Llama-4-Scout-17B-16E-Instruct"),
        ("vllm serve Qwen/Qwen3-8B --reasoning-parser deepseek_r1", None, None),
        (AIR + "--tool-call-parser glm45", "missing-partner", AIR + "--tool-call-parser glm45 --enable-auto-tool-choice"),
        (AIR + "--enable-auto-tool-choice", "missing-partner", None),
        (AIR + "--tool-call-parser glm45 $MORE", None, None),
        ("vllm serve QuantTrio/GLM-4.6-AWQ --quantization fp8", "quantization", "vllm serve QuantTrio/GLM-4.6-AWQ"),
        ("vllm serve QuantTrio/GLM-4.6-AWQ --quantization awq_marlin", None, None),
        (AIR + "--quantization fp8", None, None),
        (AIR + "--nnodes 2 -tp 16", "missing-partner", None),
        (AIR + "--nnodes 3 -tp 16 --node-rank 0 --master-addr a", "nodes", None),
        (AIR + "--enforce-eager", "slow", AIR.strip()),
        ("python -m sglang.launch_server --model-path m --disable-cuda-graph", "slow", None),
        (AIR + "--api-key sk-1", "key-in-argv", None),
        (AIR + "--api-key $KEY", None, None),
        ("CUDA_VISIBLE_DEVICES=0 " + AIR + "-tp 2", "visible-devices", None),
        ("CUDA_VISIBLE_DEVICES=0,1 " + AIR + "-tp 2", None, None),
        ("CUDA_VISIBLE_DEVICES=0 " + AIR + "-tp 2 --distributed-executor-backend ray", None, None),
        ("NCCL_IB_DISABLE=1 " + AIR + "-tp 2 --distributed-executor-backend ray", "no-infiniband", None),
        ("llama-server -m x", "engine-not-checked", None),
    ],
)  # fmt: skip
def test_models_and_settings(text: str, rule: str | None, result: str | None) -> None:
    found = list(rules(text, version=V if "sglang" not in text else "0.5.23"))
    assert (rule in found) if rule else (found == [])
    if result:
        assert repaired(text, version=V if "sglang" not in text else "0.5.23") == result


@pytest.mark.parametrize(
    ("text", "cluster", "rule", "result"),
    [
        (AIR + "-tp 2", "2xH100", "memory", "vllm serve zai-org/GLM-4.5-Air-FP8 -tp 2"),
        (AIR + "-tp 4", "4xH200", None, None),
        (AIR + "-tp 8", "4xH200", "too-many-gpus", None),
        (AIR + "-tp 4 --gpu-memory-utilization 0.3", "4xH200", "memory", None),
        (AIR + "-tp 8 --max-num-seqs 8 --kv-cache-dtype fp8 --max-num-batched-tokens 2048", "8xH200", None, None),
        ("vllm serve me/mine -tp 2", "1xH100", "too-many-gpus", None),
        ("vllm serve zai-org/GLM-4.6 -tp 2 --cpu-offload-gb 1 --quantization fp8", "2xH100", "memory", None),
    ],
)  # fmt: skip
def test_machines(
    text: str, cluster: str, rule: str | None, result: str | None
) -> None:
    found = rules(text, cluster=cluster)
    assert (rule in found) if rule else (found == [])
    if result:
        assert repaired(text, cluster=cluster) == result


def test_a_batch_file_names_its_machines() -> None:
    head = "#!/bin/bash\n#SBATCH --nodes=1\n#SBATCH --gres=gpu:{}\n"
    command = "vllm serve zai-org/GLM-4.5-Air -tp 2 --host 127.0.0.1\n"

    def of(gres: str) -> list[str]:
        report = lint(head.format(gres) + command, "a.sbatch", asked=Asked(version=V))
        return [one.rule for one in report.findings]

    assert of("h100:2") == ["memory"]
    assert of("h200:2") == []
    assert of("1") == ["too-many-gpus"]
    assert of("nosuch:2") == []


def test_a_container_has_so_many_gpus() -> None:
    text = (
        "kind: Pod\nx:\n- image: vllm/vllm-openai:v0.15.0\n"
        "  args:\n  - zai-org/GLM-4.5-Air\n  - --tensor-parallel-size\n  - '4'\n  - --swap-space\n"
        "  - '4' # x\n  - --enforce-eager\n  resources: {limits: {nvidia.com/gpu: 2}}\n"
    )
    report = lint(text, "a.yaml", asked=Asked(version="0.32.0"))
    assert [one.rule for one in report.findings] == [
        "too-many-gpus",
        "removed-flag",
        "slow",
    ]
    assert fixed(text, report.findings)[0] == (
        "kind: Pod\nx:\n- image: vllm/vllm-openai:v0.15.0\n"
        "  args:\n  - zai-org/GLM-4.5-Air\n  - --tensor-parallel-size\n  - '4'\n"
        "  resources: {limits: {nvidia.com/gpu: 2}}\n"
    )


@pytest.mark.parametrize(
    ("args", "result"),
    [
        ('["m", "--swap-space", "4", "--port", "1"]', '["m", "--port", "1"]'),
        ('["m", "--tool-call-parser", "x"]', '["m", "--tool-call-parser", "x", "--enable-auto-tool-choice"]'),
    ],
)  # fmt: skip
def test_lists_in_one_line_stay_lists(args: str, result: str) -> None:
    text = f"x:\n  image: vllm/vllm-openai:v0.32.0\n  command: {args}\n"
    report = lint(text, "a.yaml")
    assert fixed(text, report.findings)[0] == text.replace(args, result)


def test_a_list_of_lines_gets_a_line() -> None:
    text = "x:\n  image: vllm/vllm-openai:v0.32.0\n  args:\n    - m\n    - --tool-call-parser\n    - hermes\n"
    report = lint(text, "a.yaml")
    assert fixed(text, report.findings)[0] == text.replace(
        "hermes\n", 'hermes\n    - "--enable-auto-tool-choice"\n'
    )


@pytest.mark.parametrize(
    ("text", "open_"),
    [
        ("vllm serve m", True),
        ("vllm serve m --host 0.0.0.0", True),
        ("vllm serve m --host ::", True),
        ("vllm serve m --host 127.0.0.1", False),
        ("vllm serve m --host $HOST", False),
        ("vllm serve m --api-key $KEY", False),
        ("VLLM_API_KEY=x vllm serve m", False),
        ("vllm serve m --uds /tmp/x", False),
        ("vllm serve m $MORE", False),
        ("vllm serve m --headless", False),
        ("docker run -p 127.0.0.1:1:1 vllm/vllm-openai:v0.32.0 m", False),
        ("python -m sglang.launch_server --model-path m", False),
        ("python -m sglang.launch_server --model-path m --host 0.0.0.0", True),
        ("python -m dynamo.vllm --model m", False),
    ],
)
def test_open_ports(text: str, open_: bool) -> None:
    report = lint(text, "", "command")
    assert ("open-to-all" in [one.rule for one in report.findings]) is open_


@pytest.mark.parametrize(
    ("text", "rule", "result"),
    [
        ("pip install vllm>=0.15.0", "requirement-redirects", 'pip install "vllm>=0.15.0"'),
        ("uv pip install x vllm[all]>=0.15.0 # y", "requirement-redirects", 'uv pip install x "vllm[all]>=0.15.0" # y'),
        ("vllm>=0.15.0", "requirement-as-command", 'pip install "vllm>=0.15.0"'),
        ("pip install 'vllm>=0.15.0'", None, None),
        ("echo x >=y", None, None),
        ("make all>=log", None, None),
        ("ray exec ray://h:6379 'nvidia-smi'", "ray-exec", "ray job submit --address http://h:8265 -- nvidia-smi"),
        ("ray exec h:6379", "ray-exec", None),
        ("ray exec cluster.yaml 'ls'", None, None),
        ("ray dashboard", "ray-exec", None),
        ("ray status", None, None),
        ("ray start --head --dashboard-host=0.0.0.0", "ray-dashboard-open", "ray start --head --dashboard-host=127.0.0.1"),
        ("ray start --head --dashboard-host 0.0.0.0", "ray-dashboard-open", "ray start --head --dashboard-host 127.0.0.1"),
        ("ray start --head --dashboard-host=127.0.0.1", None, None),
        ("export RAY_ADDRESS=ray://h:6379", "ray-address", "export RAY_ADDRESS=h:6379"),
        ("export RAY_ADDRESS=ray://h:10001", None, None),
        ("hf download THUDM/GLM-4.6", "moved-model", "hf download zai-org/GLM-4.6"),
        ("huggingface-cli download a/b", "gone-command", "hf download a/b"),
        ("export NCCL_TIMEOUT=3\nx", "unknown-variable", "x"),
        ("NCCL_ASYNC_ERROR_HANDLING=1", "renamed-variable", "TORCH_NCCL_ASYNC_ERROR_HANDLING=1"),
        ("NCCL_SOCKET_IFNAMES=1", "unknown-variable", None),
        ("export NCCL_DEBUG=info NCCL_SOCKET_IFNAME=ib0", None, None),
        ("export NCCL_IB_DISABLE=true", "variable-value", None),
        ("env CUDA_VISIBLE_DEVICE=1 x", "renamed-variable", "env CUDA_VISIBLE_DEVICES=1 x"),
        ("NCCL_DEBUG=$D", None, None),
    ],
)  # fmt: skip
def test_what_is_around(text: str, rule: str | None, result: str | None) -> None:
    assert rules(text) == ([rule] if rule else [])
    if result:
        assert repaired(text) == result


SERVE = "vllm serve me/mine --host 127.0.0.1 --port 8001"
ASK = """curl http://localhost:{}/v1/completions -d '{{"model": "{}"}}'"""


@pytest.mark.parametrize(
    ("serve", "port", "model", "result"),
    [
        (SERVE, 8001, "mine", SERVE + " --served-model-name mine"),
        (SERVE, 8001, "me/mine", None),
        (SERVE, 9000, "mine", None),
        (SERVE + " --served-model-name a b", 8001, "b", None),
        (SERVE + " $MORE", 8001, "b", None),
    ],
)
def test_the_name_that_is_asked_for(
    serve: str, port: int, model: str, result: str | None
) -> None:
    text = f"{serve}\n{ASK.format(port, model)}"
    assert rules(text) == (["served-name"] if result else [])
    if result:
        assert repaired(text) == f"{result}\n{ASK.format(port, model)}"


def test_the_request_is_what_changes_where_a_name_is_given() -> None:
    text = f"{SERVE} --served-model-name a\n{ASK.format(8001, 'b')}"
    assert repaired(text).endswith(ASK.format(8001, "a"))


def test_loopback_alone_would_not_do_for_a_request_from_elsewhere() -> None:
    text = 'vllm serve m --port 8001\ncurl http://node7:8001/v1/completions -d \'{"model": "m"}\''
    [one] = [f for f in lint(text, "", "command").findings if f.rule == "open-to-all"]
    assert not one.edits and "gateway" in one.instead


def test_directories_that_the_document_fills_are_known_models() -> None:
    text = "hf download zai-org/GLM-4.6 --local-dir ~/glm\nvllm serve ~/glm -tp 7 --host ::1\n"
    assert rules(text) == ["layout"]


def test_several_lines_get_a_line() -> None:
    text = "vllm serve m \\\n  --host 127.0.0.1 \\\n  --tool-call-parser x\n"
    assert repaired(text) == text.replace(
        " x\n", " x \\\n  --enable-auto-tool-choice\n"
    )


def test_comments_move_above() -> None:
    text = "  vllm serve m --port 1 \\  # why\n    --swap-space 4 \\\n    --host ::1\n"
    assert repaired(text) == "  # why\n  vllm serve m --port 1 \\\n    --host ::1\n"


def test_a_requirement_lets_newer_releases_in() -> None:
    text = "```bash\npip install 'vllm>=0.10.2'\nvllm serve m --swap-space 4 --disable-log-requests --host ::1\n```"
    report = lint(text, "a.md")
    assert [one.rule for one in report.findings] == [
        "version-open",
        "gone-in-newest",
        "gone-in-newest",
    ]


def test_releases_without_a_table_and_none_at_all() -> None:
    [one] = lint("vllm serve m --host ::1", "", "command").findings
    assert one.rule == "version-assumed" and one.severity == "note"
    assert rules("vllm serve m", version="0.26.5") == ["nearest-version"]
    assert rules("vllm serve m", version="99") == ["nearest-version"]


def test_prose_names_flags_by_themselves() -> None:
    text = "# x\nnvcr.io/nvidia/ai-dynamo/sglang-runtime:0.8.1\n- `--no-such-flag 3`, `--tp-size <N>`, `--quantization fp8`\n"
    [one] = lint(text, "a.md").findings
    assert (one.rule, one.severity) == ("unknown-flag", "warning")


def test_placeholders_of_scripts() -> None:
    report = lint("ray start --address=<HEAD>:6379\n", "a.sh")
    assert [one.rule for one in report.findings] == ["placeholder"]
    assert lint("```bash\nray start --address=<HEAD>:6379\n```", "a.md").findings == []


def test_settings_that_become_variables() -> None:
    report = lint("nccl:\n  blocksize: 1\n  debug: WARN\n  nosuch: 2\n", "a.yaml")
    assert [one.rule for one in report.findings] == [
        "renamed-variable",
        "unknown-variable",
    ]


def test_what_lint_does_not_know_is_refused() -> None:
    for asked in (Asked(engine="foo"), Asked(cluster="4xNOSUCH")):
        with pytest.raises(UsageError):
            lint("x", "", "command", asked)


def test_codes_are_one_each() -> None:
    codes = [rule.code for rule in RULES.values()]
    assert len(set(codes)) == len(codes)
    assert all(rule.about.endswith(".") for rule in RULES.values())


def test_what_a_branch_may_add_leaves_the_rest_known() -> None:
    text = (
        "A=(-tp 7 --host ::1)\nif x; then A+=(--swap-space 4); fi\n"
        'vllm serve zai-org/GLM-4.6 "${A[@]}"\n'
    )
    assert rules(text) == ["layout"]


def test_one_of_two_commands_on_a_port_is_enough() -> None:
    ask = ASK.format(8001, "a")
    text = f"{SERVE} --served-model-name a\n{SERVE}\n{ask}"
    assert rules(text) == []
    assert rules(f"{SERVE} $MORE\n{SERVE}\n{ask}") == []
    assert rules(f"{SERVE}\n{SERVE}\n{ask}") == ["served-name", "served-name"]


def test_a_release_is_the_first_engines_where_no_engine_is_named() -> None:
    text = "vllm serve m --host ::1\npython -m sglang.launch_server --model-path m"
    assert [
        one.rule for one in lint(text, "", "command", Asked(version=V)).findings
    ] == ["version-assumed"]
    found = lint(text, "", "command", Asked("sglang", "0.5.6")).findings
    assert [one.rule for one in found] == ["version-assumed"]
    assert "vllm" in found[0].what


def test_what_further_flags_may_change_is_not_planned() -> None:
    assert rules(AIR + "$MORE", cluster="1xH100") == []
    assert rules(AIR + "-tp 2 $MORE", cluster="2xH100") == []
    assert rules(AIR + "-tp 7 $MORE") == ["layout"]
