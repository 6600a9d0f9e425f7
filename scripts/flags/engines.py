"""Where each engine's releases make their parser, and how they read a command line."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flags.collect import Collector, Done
from flags.natives import NATIVES
from flags.rows import configs, row
from flags.wheels import Release
from flags.world import World

HELP = {"names": ["--help", "-h"], "kind": "flag", "reads": "help"}


@dataclass(frozen=True)
class Engine:
    """One table: its name, the package whose wheels have the sources, and how to read them."""

    name: str
    package: str
    read: Callable[[Release, World, Collector], list[str]]


def read_release(name: str, version: str, cache: Path) -> dict[str, Any]:
    """The options, parser's rules and config classes of one release; ``notes`` on what is unclear."""
    engine = next(engine for engine in ENGINES if engine.name == name)
    release = Release(engine.package, version, cache)
    world = World(release, NATIVES)
    collector = Collector()
    rules = engine.read(release, world, collector)
    made = [row(one, world.notes) for one in collector.added]
    options = {option["names"][0]: option for option in made if option is not None}
    if options:
        options["--help"] = HELP
    return {
        "options": list(options.values()),
        "rules": rules,
        "configs": configs(collector.added),
        "carries": carried(release),
        "notes": [
            note for note in world.notes if "unknown" in note or "not known" in note
        ],
    }


def vllm(release: Release, world: World, collector: Collector) -> list[str]:
    """``vllm serve``. The module with make_arg_parser moves between releases."""
    for path in sorted(name for name in release.names if name.endswith("/cli_args.py")):
        if "def make_arg_parser" in (release.read(path) or ""):
            module = path.removesuffix(".py").replace("/", ".")
            world.imported(module, "make_arg_parser")(collector)
    engine = Collector()
    world.imported("vllm.engine.arg_utils", "AsyncEngineArgs").add_cli_args(engine)
    known = {one.names for one in engine.added}
    for one in collector.added:  # what only the server has: Dynamo's workers do not
        one.more["front"] = one.names not in known
    return flexible(release)


def flexible(release: Release) -> list[str]:
    """What FlexibleArgumentParser of a vLLM release does beyond argparse."""
    places = ("vllm/utils.py", "vllm/utils/__init__.py", "vllm/utils/argparse_utils.py")
    texts = [release.read(path) or "" for path in places]
    text = next((t for t in texts if "class FlexibleArgumentParser" in t), "")
    rules = ["model-positional", "config-file", "underscores"]
    if "create_nested_dict" in text:
        rules.append("dotted")
    if re.search(r'"--optimization-level"', text):
        rules.append("optimization-level")
    if re.search(
        r"should provide the model as a\s.*?raise|raise ValueError\(\s*.With `vllm serve`",
        text,
    ):
        rules.append("model-refused")
    if "served[-_]model[-_]name" in text:
        rules.append("named-needs-model")
    config = next(
        (
            n
            for n in ("vllm/config/utils.py", "vllm/config/__init__.py")
            if n in release.names
        ),
        "",
    )
    if 'extra="forbid"' in (release.read(config) or ""):
        rules.append("closed-configs")
    return rules


def sglang(release: Release, world: World, collector: Collector) -> list[str]:
    """``python -m sglang.launch_server``, ``sglang serve``."""
    world.imported("sglang.srt.server_args", "ServerArgs").add_cli_args(collector)
    return (
        ["config-file"]
        if "--config" in {n for a in collector.added for n in a.names}
        else []
    )


def dynamo(module: str) -> Callable[[Release, World, Collector], list[str]]:
    """A process of Dynamo: the options that it adds itself, before the engine's own."""

    def read(release: Release, world: World, collector: Collector) -> list[str]:
        making = world.natives["argparse"] | {
            "ArgumentParser": lambda *args, **more: collector
        }
        flexible = {"FlexibleArgumentParser": lambda *args, **more: collector}
        world.natives = world.natives | {
            "argparse": making,
            "vllm.utils": flexible,
            "vllm.utils.argparse_utils": flexible,
        }
        function = world.imported(module, "parse_args")
        try:
            function([])
        except Done:
            return []
        except Exception as error:
            world.note(f"{module}: ended with {error!r}")
        return []

    return read


def carried(release: Release) -> dict[str, str]:
    """The engines' versions that a release's extras pin: ``vllm[flashinfer]==0.26.0``."""
    found = re.findall(
        r"^Requires-Dist: (vllm|sglang|tensorrt-llm)(?:\[[^]]*\])?\s*\(?==([\w.]+)",
        release.metadata,
        re.MULTILINE,
    )
    return {} if release.package != "ai-dynamo" else dict(found)


ENGINES = (
    Engine("vllm", "vllm", vllm),
    Engine("sglang", "sglang", sglang),
    Engine("dynamo.frontend", "ai-dynamo", dynamo("dynamo.frontend.main")),
    Engine("dynamo.vllm", "ai-dynamo", dynamo("dynamo.vllm.args")),
    Engine("dynamo.sglang", "ai-dynamo", dynamo("dynamo.sglang.args")),
)
