# /// script
# requires-python = ">=3.11,<3.12"
# dependencies = [
#     "sglang==0.5.23", "torch==2.13.0", "transformers", "aiohttp", "ipython", "msgspec",
#     "numpy", "orjson", "pillow", "psutil", "pybase64", "pydantic", "pyzmq", "requests",
#     "starlette", "triton",
# ]
# [tool.uv]
# # Everything else that SGLang requires is for GPUs; its parser needs the packages above only.
# dependency-metadata = [{name = "sglang", version = "0.5.23", requires-dist = []}]
# ///
"""Ask the real SGLang for its options, and for its verdict on 5,000 command lines.

Writes tests/data/sglang_options.json.gz, which tests/unit/engines/flags and
benchmarks/flag_verdicts.py hold lemnos's table and parser against. Nothing is served.

    UV_FIND_LINKS="$PIP_FIND_LINKS" uv run oracles/sglang_options.py     (torch's CPU wheel)
"""

from __future__ import annotations

import argparse
from importlib.metadata import version

from flag_lines import Lines
from flag_verdicts import write
from sglang.srt.server_args import ServerArgs
from sglang.srt.utils.server_args_config_parser import ConfigArgumentMerger


def main() -> None:
    """Dump the options and the verdicts."""
    parser = argparse.ArgumentParser(prog="sglang serve")
    ServerArgs.add_cli_args(parser)
    shorts = [n for a in parser._actions for n in a.option_strings if n[1] != "-"]
    lines = Lines(parser, positional=False, shorts=shorts)
    merger = ConfigArgumentMerger(parser)

    def parse(argv: list[str]) -> object:
        # As prepare_server_args does.
        merged = merger.merge_config_with_args(argv) if "--config" in argv else argv
        return parser.parse_args(merged)

    write("sglang", version("sglang"), parser, lines, parse)


if __name__ == "__main__":
    main()
