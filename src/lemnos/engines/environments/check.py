"""Run by an environment's own Python: imports the engine and says what it is. Standard library."""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import json
import platform
import sys
from typing import Any

CHECK_MARK = "lemnos-check "


def main() -> None:
    """Print one line with what is found. An import that fails ends it with a traceback."""
    asked = json.loads(sys.argv[1])
    importlib.import_module(asked["module"])
    found: dict[str, Any] = {
        "version": importlib.metadata.version(asked["distribution"]),
        "python": platform.python_version(),
    }
    try:
        import torch  # type: ignore[import-not-found]

        found["torch"] = str(torch.__version__)
        found["gpus"] = int(torch.cuda.device_count())
    except (
        Exception
    ) as error:  # an engine without torch, or one that cannot ask the driver
        found["gpus"] = 0
        found["gpus_why"] = str(error)
    if asked["flags"]:
        try:
            found["flags"] = options(asked["flags"])
        except BaseException as error:  # what argparse raises too
            why = " ".join(f"{type(error).__name__}: {error}".split())
            found["flags_why"] = why[:300]
    sys.stdout.write("\n" + CHECK_MARK + json.dumps(found) + "\n")


def options(engine: str) -> list[str]:
    """Every spelling of every option that the engine's own parser has."""
    parser = sglang_parser() if engine == "sglang" else vllm_parser()
    return sorted(
        {name for action in parser._actions for name in action.option_strings}
    )


def vllm_parser() -> argparse.ArgumentParser:
    """That of ``vllm serve``. Releases have moved its parts, and kept its subcommand."""
    sys.argv = ["vllm", "serve"]  # some defaults depend on it
    kind = first(
        ("vllm.utils.argparse_utils", "FlexibleArgumentParser"),
        ("vllm.utils", "FlexibleArgumentParser"),
    )
    serve = first(("vllm.entrypoints.cli.serve", "ServeSubcommand"))
    commands = kind(prog="vllm").add_subparsers(dest="subparser")
    parser: argparse.ArgumentParser = serve().subparser_init(commands)
    return parser


def sglang_parser() -> argparse.ArgumentParser:
    """That of ``sglang.launch_server``."""
    parser = argparse.ArgumentParser()
    first(("sglang.srt.server_args", "ServerArgs")).add_cli_args(parser)
    return parser


def first(*places: tuple[str, str]) -> Any:
    """The first of these names that can be imported."""
    for module, name in places:
        try:
            return getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError):
            continue
    raise ImportError("not found in this release: " + places[0][1])


if __name__ == "__main__":
    main()
