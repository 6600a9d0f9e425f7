"""Run by an engine's own Python: does its parser, and its configuration check, take these words?

Imports nothing of lemnos. Reads {"engine": ..., "argv": [...]} from standard input, writes one
JSON object to the last line of standard output: {"parsed": bool, "message": ..., "checked": bool,
"version": ...}. No network, no GPU: what needs either is left out, and ``checked`` says so.
"""

# mypy: disable-error-code="import-not-found, import-untyped"
# An engine's packages are in its own environment, never in lemnos's.

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
from collections.abc import Callable
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")


def vllm_parser(argv: list[str]) -> Callable[[], Any]:
    """vLLM's ``serve`` parser, wherever this release keeps it, as a function."""
    sys.argv = ["vllm", "serve", *argv]
    import vllm.engine.arg_utils  # noqa: F401  (registers the configs' types)

    try:
        from vllm.utils.argparse_utils import FlexibleArgumentParser
    except ImportError:
        from vllm.utils import FlexibleArgumentParser
    from vllm.entrypoints.cli.serve import ServeSubcommand

    whole = FlexibleArgumentParser(prog="vllm")
    commands = whole.add_subparsers(dest="subparser")
    command = ServeSubcommand()
    command.subparser_init(commands)

    def parse() -> Any:
        args = whole.parse_args(["serve", *argv])
        if getattr(args, "model_tag", None):
            args.model = args.model_tag
        command.validate(args)
        return args

    return parse


def vllm_check(args: Any) -> tuple[bool, str]:
    """The configuration that the engine would make of the arguments, for a model that is here."""
    from vllm.engine.arg_utils import AsyncEngineArgs

    if not os.path.isdir(os.path.expanduser(str(args.model))):
        return False, "the model is not a directory here: only the parser was asked"
    args.model = os.path.expanduser(str(args.model))
    engine = AsyncEngineArgs.from_cli_args(args)
    engine.create_model_config()
    return True, ""


def sglang_parser(argv: list[str]) -> Callable[[], Any]:
    """SGLang's ``launch_server`` parser as a function."""
    import argparse

    from sglang.srt.server_args import ServerArgs

    parser = argparse.ArgumentParser(prog="sglang serve")
    ServerArgs.add_cli_args(parser)
    return lambda: parser.parse_args(argv)


def main() -> None:
    """Ask, and write the answer."""
    asked = json.load(sys.stdin)
    out, err = io.StringIO(), io.StringIO()
    answer: dict[str, Any] = {
        "parsed": False,
        "message": "",
        "checked": False,
        "version": "",
    }
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            makers = {"vllm": vllm_parser, "sglang": sglang_parser}
            parse: Callable[[], Any] | None = makers[asked["engine"]](asked["argv"])
        except Exception as error:
            answer["message"] = (
                f"its parser cannot be made: {type(error).__name__}: {error}"
            )
            answer["broken"] = True
            parse = None
        if parse:
            try:
                args = parse()
                answer["parsed"] = True
            except SystemExit:
                lines = [line for line in err.getvalue().splitlines() if line.strip()]
                answer["message"] = lines[-1] if lines else "the parser ended"
            except Exception as error:
                answer["message"] = f"{type(error).__name__}: {error}"
        if answer["parsed"] and asked["engine"] == "vllm":
            try:
                answer["checked"], answer["message"] = vllm_check(args)
            except Exception as error:
                answer["message"] = f"{type(error).__name__}: {error}"
                answer["refused"] = True
    sys.stdout.write("\n" + json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
