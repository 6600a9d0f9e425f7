"""Write down a real parser's options and its verdicts on generated command lines."""

from __future__ import annotations

import argparse
import contextlib
import gzip
import io
import json
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path

from flag_lines import Lines

ROOT = Path(__file__).parent.parent
COUNT = 5_000


def write(
    engine: str,
    version: str,
    parser: argparse.ArgumentParser,
    lines: Lines,
    parse: Callable[[list[str]], object],
) -> None:
    """tests/data/ENGINE_options.json.gz: every option string, and (line, accepted) pairs.

    With FLAG_MESSAGES=PATH the parser's words for each refused line go there, for debugging.
    """
    logging.disable(logging.CRITICAL)
    verdicts, messages = [], []
    for argv in lines.many(COUNT):
        accepted, message = verdict(parse, argv)
        verdicts.append([argv, accepted])
        messages.append(message)
    options = sorted([*action.option_strings] for action in parser._actions)
    found = {
        "engine": engine,
        "version": version,
        "options": [names for names in options if names],
        "lines": verdicts,
    }
    out = ROOT / f"tests/data/{engine}_options.json.gz"
    # No time stamp: the same parser gives the same bytes.
    text = json.dumps(found, ensure_ascii=False, separators=(",", ":"))
    out.write_bytes(gzip.compress(text.encode(), 9, mtime=0))
    if path := os.environ.get("FLAG_MESSAGES"):
        Path(path).write_text(json.dumps(messages))
    accepted = sum(1 for _, taken in verdicts if taken)
    sys.stdout.write(
        f"{engine} {version}: {len(parser._actions)} options, {len(verdicts)} lines, "
        f"{accepted} accepted, {out.stat().st_size // 1024} KiB\n"
    )


def verdict(parse: Callable[[list[str]], object], argv: list[str]) -> tuple[bool, str]:
    """Whether the real parser takes a line, and what it says if not."""
    said = io.StringIO()
    try:
        with (
            contextlib.redirect_stderr(said),
            contextlib.redirect_stdout(io.StringIO()),
        ):
            parse(list(argv))
    except SystemExit as ended:
        return ended.code in (0, None), said.getvalue()[-200:].strip()
    except Exception as error:
        return False, repr(error)[:200]
    return True, ""
