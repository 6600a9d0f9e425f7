"""What the commands print: the formats of OpenPBS 23.06. Pure."""

from __future__ import annotations

import json
import time
from typing import Any

TIMES = {"ctime", "mtime", "qtime", "stime", "etime", "obittime"}
Attributes = dict[str, Any]
"""Nested once, as in JSON; times are epoch seconds."""


def as_json(part: str, objects: dict[str, Attributes], tz: str) -> str:
    """``qstat -f -F json``; tabs as the real one has them."""
    shown: dict[str, Any] = {
        "timestamp": int(time.time()),
        "pbs_version": "23.06.06",
        "pbs_server": "login",
    }
    if objects:
        shown[part] = {name: _ready(own, tz) for name, own in objects.items()}
    return json.dumps(shown, indent="\t", separators=(",", ":\t")) + "\n"


def as_text(objects: dict[str, Attributes], tz: str, opening: str = "Job Id: ") -> str:
    """``qstat -f``: lines are broken after commas, and within what is too long between two."""
    text = ""
    for name, own in objects.items():
        text += f"{opening}{name}\n"
        for key, value in _ready(own, tz).items():
            if key == "Variable_List":
                pairs = [
                    f"{k}={v.replace(',', chr(92) + ',')}" for k, v in value.items()
                ]
                text += _wrapped(key, ",".join(pairs))
            elif isinstance(value, dict):
                for inner, number in value.items():
                    text += _wrapped(f"{key}.{inner}", str(number))
            else:
                text += _wrapped(key, str(value))
        text += "\n"
    return text


def as_list(objects: dict[str, Attributes]) -> str:
    """Plain ``qstat``."""
    if not objects:
        return ""
    text = (
        "Job id            Name             User              Time Use S Queue\n"
        "----------------  ---------------- ----------------  -------- - -----\n"
    )
    for name, own in objects.items():
        user = own["Job_Owner"].partition("@")[0]
        text += (
            f"{name:<17} {own['Job_Name'][:15]:<16} {user[:15]:<16} "
            f"{'0':>9} {own['job_state']} {own['queue']:<16}\n"
        )
    return text


def _ready(own: Attributes, tz: str) -> Attributes:
    """Times as ``ctime`` of the asker's zone; numbers where a word looks like one, as qstat has it."""
    return {
        key: _time(value, tz) if key in TIMES else value
        for key, value in own.items()
        if value is not None and value != {}
    }


def _time(seconds: float, tz: str) -> str:
    moment = time.gmtime(seconds) if tz == "UTC" else time.localtime(seconds)
    return time.asctime(moment)


def _wrapped(key: str, value: str) -> str:
    """prt_attr of qstat.c, with its limit of 78 columns."""
    text, used = f"    {key} = ", len(key) + 7
    for number, part in enumerate(value.split(",")):
        text += "," if number else ""
        if len(part) + used < 78:
            text, used = text + part, used + len(part)
            continue
        if number:
            text, used = text + "\n\t", 9
        for letter in part:
            text, used = text + letter, used + 1
            if used > 78:
                text, used = text + "\n\t", 8
    return text + "\n"
