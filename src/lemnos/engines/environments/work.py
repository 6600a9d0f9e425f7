"""Makes an environment on the machine that it runs on. Where that is another host, this file,
``leases.py`` and ``errors.py`` are sent there (``shipping.py``): so it knows the standard
library of Python 3.9 and those two, nothing else.

An environment is built in ``.NAME.partial``, verified there, and renamed at the end. uv makes it
relocatable, so that the rename breaks none of its scripts.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lemnos import leases
from lemnos.errors import LemnosError

MARKER = "environment.json"
CHECK_MARK = "lemnos-check "
WAIT_S = 6 * 3600.0
CHECK_S = 900
LAST_LINES = 12

Say = Callable[[str], None]
Order = dict[str, Any]
"""What to make: the keys that ``installing.order_of`` writes."""


def install(order: Order, say: Say) -> dict[str, Any]:
    """Have the environment of ``order``; its marker, with ``already`` and what ``verify`` found.

    Raises LemnosError, and leaves nothing, if uv fails or the verification does.
    """
    root = Path(order["root"])
    _make_root(root)
    home = root / order["name"]

    def waiting(holder: leases.Holder) -> None:
        say(f"{order['name']} is being installed by {holder}; waiting")

    with leases.lease(
        root / f"{order['name']}.lease",
        what=f"installing {order['name']}",
        wait_s=WAIT_S,
        waiting=waiting,
    ):
        found = read_marker(home)
        if found is not None:
            return {**_same(found, order, home), "already": True}
        partial = root / f".{order['name']}.partial"
        clear(partial)
        try:
            marker = _build(order, partial, home, say)
            clear(home)  # what has no marker is no environment
            os.rename(partial, home)
        except BaseException:
            clear(partial)
            raise
    return {**marker, "already": False}


def read_marker(home: Path) -> dict[str, Any] | None:
    """What ``environment.json`` says; None where there is no whole environment."""
    try:
        found = json.loads((home / MARKER).read_bytes())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and "requirement" in found else None


def resolve(
    uv: list[str], order: Order, work: Path, say: Say
) -> tuple[list[str], bool]:
    """``name==version`` of everything that the order's requirement needs; whether all are wheels.

    ``uv`` is ``uv pip compile`` with its options. No package is built from its source if it can
    be helped: nodes have no compilers. Torch's companions are left out where the index has them
    only for another build of torch. Raises LemnosError with uv's words.
    """
    wheels_only = True
    try:
        pins = _compiled(uv, order, work, ["--only-binary", ":all:"])
    except LemnosError as error:
        if "no usable wheels" not in error.what or not order["sources"]:
            raise
        say("not all packages have wheels: the others are built from their sources")
        wheels_only = False
        pins = _compiled(uv, order, work, [])
    without = mismatched(pins, order["companions"])
    if without:
        say(f"left out, built for another torch: {', '.join(without)}")
        overrides = work / "overrides.txt"
        lines = [f"{name} ; sys_platform == 'none'\n" for name in without]
        overrides.write_text("".join(lines))
        binary = ["--only-binary", ":all:"] if wheels_only else []
        pins = _compiled(uv, order, work, [*binary, "--overrides", str(overrides)])
    return pins, wheels_only


def _compiled(uv: list[str], order: Order, work: Path, more: list[str]) -> list[str]:
    wanted = work / "requirement.txt"
    wanted.write_text(order["requirement"] + "\n")
    words = [*more, "--no-header", "--no-annotate", str(wanted)]
    image = order.get("image")
    fixes = [order["hint"], f"use the image {image}" if image else ""]
    what = f"resolve {order['requirement']}"
    return pins_of(run([*uv, *words], what, fix="; or ".join(filter(None, fixes))))


def pins_of(text: str) -> list[str]:
    """The pins in what ``uv pip compile`` prints."""
    lines = (line.split(" ")[0].split(";")[0].strip() for line in text.splitlines())
    return [line for line in lines if re.fullmatch(r"[\w.-]+==\S+", line)]


def mismatched(pins: list[str], companions: list[str]) -> list[str]:
    """Of ``companions`` those whose build is another than torch's: torch has a local version
    (``2.13.0+cpu``), and they lack it."""
    versions = dict(pin.split("==", 1) for pin in pins)
    _, plus, local = versions.get("torch", "").partition("+")
    if not plus:
        return []
    return [
        name
        for name in companions
        if name in versions and not versions[name].endswith("+" + local)
    ]


def digest_of(pins: list[str]) -> str:
    """sha256 of a resolution, whatever its order."""
    return hashlib.sha256("\n".join(sorted(pins)).encode()).hexdigest()


def verify(python: Path, order: Order) -> dict[str, Any]:
    """Import the engine with ``python``; version, GPUs and options that it has.

    Raises LemnosError with the last lines of what it said if it cannot be imported, is of
    another version, or sees no GPU where there are some.
    """
    asked = {key: order[key] for key in ("distribution", "module", "flags")}
    command = [str(python), "-I", "-", json.dumps(asked)]
    env = {**os.environ, "VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1"}
    try:
        done = subprocess.run(
            command,
            input=order["check"].encode(),
            capture_output=True,
            timeout=CHECK_S,
            env=env,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise LemnosError(
            f"importing {order['module']} took over {CHECK_S} s", where=str(python)
        ) from None
    said = done.stdout.decode(errors="replace") + done.stderr.decode(errors="replace")
    answers = [line for line in said.splitlines() if line.startswith(CHECK_MARK)]
    if not answers:
        raise LemnosError(
            f"{order['module']} cannot be imported: {last_lines(said)}",
            where=str(python),
        )
    found: dict[str, Any] = json.loads(answers[-1][len(CHECK_MARK) :])
    complaint = judge(found, order)
    if complaint:
        raise LemnosError(complaint, where=str(python))
    return found


def judge(found: dict[str, Any], order: Order) -> str | None:
    """Why what a check ``found`` is not what was ordered; None: it is."""
    if found["version"].partition("+")[0] != order["version"]:
        return f"{order['distribution']} is {found['version']}, not {order['version']}"
    if not order["cuda"]:
        return None
    if order["gpus"] and not found["gpus"]:
        why = found.get("gpus_why") or "torch.cuda.device_count() is 0"
        return f"the machine has {order['gpus']} GPUs, the environment sees none: {why}"
    return None


def run(
    command: list[str], what: str, env: dict[str, str] | None = None, fix: str = ""
) -> str:
    """What ``command`` prints. Raises LemnosError: it could not do ``what``, and its last words."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "UV_NO_PROGRESS": "1", **(env or {})},
    )
    try:
        out, err = process.communicate()
    except BaseException:
        process.kill()
        process.wait()
        raise
    if process.returncode:
        raise LemnosError(
            f"uv could not {what}: {last_lines(err.decode(errors='replace'))}",
            fix="check the network, HTTPS_PROXY, and the index and wheels that uv is told of "
            "(UV_DEFAULT_INDEX, UV_FIND_LINKS); without internet: `lemnos engines bundle`"
            + (f"; or {fix}" if fix else ""),
        )
    return out.decode(errors="replace")


def last_lines(text: str) -> str:
    """The last words of a program, in one line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " | ".join(lines[-LAST_LINES:])[-1500:] or "it said nothing"


def _build(order: Order, partial: Path, home: Path, say: Say) -> dict[str, Any]:
    """Make and verify the environment in ``partial``; its marker, which is written there."""
    began = time.time()
    uv = order["uv"]
    partial.parent.mkdir(parents=True, exist_ok=True)
    say(f"{order['name']}: making an environment with Python {order['python']}")
    venv = ["venv", "--quiet", "--relocatable", "--no-project"]
    found_only = ["--no-python-downloads"] if order["wheels"] else []
    run(
        [uv, *venv, *found_only, "--python", order["python"], str(partial)],
        f"make an environment with Python {order['python']}",
    )
    python = partial / "bin" / "python"
    work = partial / "lemnos"
    work.mkdir()
    if order["wheels"]:
        pins, wheels_only = order["pins"], True
        offline = ["--no-config", "--no-index", "--offline"]
        offline += ["--find-links", order["wheels"]]
    else:
        say(f"{order['name']}: resolving {order['requirement']}")
        compile_ = [uv, "pip", "compile", "--python", str(python)]
        (pins, wheels_only), offline = resolve(compile_, order, work, say), []
    listed = work / "resolution.txt"
    listed.write_text("\n".join(pins) + "\n")
    say(f"{order['name']}: installing {len(pins)} packages")
    binary = ["--only-binary", ":all:"] if wheels_only else []
    install_ = [uv, "pip", "install", "--quiet", "--no-deps", *binary, *offline]
    install_ += ["--python", str(python), "-r", str(listed)]
    run(install_, "install " + order["requirement"], _own_index_only(offline))
    _write_alias(order, python)
    say(f"{order['name']}: importing it, to see whether it works")
    found = verify(python, order)
    marker = {
        "format": 1,
        **{
            k: order[k] for k in ("name", "engine", "version", "variant", "requirement")
        },
        **{k: order[k] for k in ("architecture", "glibc", "cuda", "gpus")},
        "host": socket.gethostname(),
        "python": found["python"],
        "packages": len(pins),
        "resolution": digest_of(pins),
        "bytes": _bytes_below(partial),
        "seconds": round(time.time() - began, 1),
        "created": time.time(),
        "from": "bundle" if order["wheels"] else "index",
        "path": str(home),
    }
    (partial / MARKER).write_text(json.dumps(marker, indent=1))
    return {**marker, "found": found}


def _own_index_only(offline: list[str]) -> dict[str, str]:
    """Variables that would lead uv to other wheels than the bundle's, emptied."""
    names = ("UV_FIND_LINKS", "UV_INDEX", "UV_DEFAULT_INDEX", "UV_EXTRA_INDEX_URL")
    return dict.fromkeys(names, "") if offline else {}


def _write_alias(order: Order, python: Path) -> None:
    """The metadata of a distribution whose name the engine looks itself up by."""
    alias = order["alias"]
    if not alias:
        return
    (site,) = (python.parent.parent / "lib").glob("python*/site-packages")
    version = f"{order['version']}+{alias['local']}"
    directory = site / f"{alias['name']}-{version}.dist-info"
    directory.mkdir()
    text = f"Metadata-Version: 2.1\nName: {alias['name']}\nVersion: {version}\n"
    (directory / "METADATA").write_text(text)
    (directory / "INSTALLER").write_text("lemnos\n")


def _same(found: dict[str, Any], order: Order, home: Path) -> dict[str, Any]:
    """``found``, if it is what ``order`` wants."""
    asked = order["python_asked"]
    if asked and not (found["python"] + ".").startswith(asked + "."):
        raise LemnosError(
            f"{order['name']} is there already, with Python {found['python']}",
            where=str(home),
            fix=f"lemnos engines rm {order['name']}, then install it again",
        )
    return {**found, "path": str(home)}


def _make_root(root: Path) -> None:
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LemnosError(
            f"cannot write here ({error.strerror})",
            where=str(root),
            fix="make it writable, or set LEMNOS_ENGINES to a directory of yours",
        ) from None


def _bytes_below(directory: Path) -> int:
    """Bytes on disk; a file with several names counts once."""
    seen: set[tuple[int, int]] = set()
    total = 0
    for root, _, names in os.walk(directory):
        for name in names:
            stat = os.lstat(os.path.join(root, name))
            if (stat.st_dev, stat.st_ino) not in seen:
                seen.add((stat.st_dev, stat.st_ino))
                total += stat.st_size
    return total


def clear(directory: Path) -> None:
    """Remove a directory, seen by no one half-removed under its own name."""
    gone = directory.with_name(f".{directory.name.strip('.')}.removed")
    shutil.rmtree(gone, ignore_errors=True)  # of one that was killed meanwhile
    if directory.exists():
        os.rename(directory, gone)
        shutil.rmtree(gone, ignore_errors=True)


def main(order: Order) -> None:
    """On another host: install, and tell of it line by line. Ends when its input does."""
    import signal
    import threading

    def tell(**what: Any) -> None:
        sys.stdout.write("lemnos-answer " + json.dumps(what) + "\n")
        sys.stdout.flush()

    def end_with_input() -> None:
        sys.stdin.buffer.read()
        os.kill(os.getpid(), signal.SIGINT)  # whoever asked has gone: clean up

    signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=end_with_input, daemon=True).start()
    try:
        tell(done=install(order, lambda text: tell(note=text)))
    except LemnosError as error:
        tell(error=error.as_dict())
    except OSError as error:
        why = {
            "what": f"the system said: {error.strerror}",
            "where": error.filename,
            "fix": "",
        }
        tell(error=why)
    sys.stdout.flush()
    os._exit(0)
