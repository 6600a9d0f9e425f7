"""``lemnos engines install``: decide for each machine, then make the environment there."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from importlib import resources
from pathlib import Path
from typing import Any

from lemnos.engines.environments import bundle, places, targets, work
from lemnos.engines.environments.builds import (
    Build,
    Refusal,
    Request,
    choose_build,
    image_for,
    known_builds,
    request_named,
)
from lemnos.engines.environments.bundling import Manifest, unfit
from lemnos.engines.environments.places import Environment
from lemnos.engines.environments.shipping import Shipping
from lemnos.engines.environments.targets import Machine
from lemnos.engines.environments.work import Order, Say
from lemnos.errors import LemnosError, UsageError
from lemnos.hardware import probe
from lemnos.spec.base import Value


class Installed(Value):
    """What an installation, or a check, found."""

    environment: Environment
    machine: str
    already: bool = False
    """It was there before."""
    shared_with: tuple[str, ...] = ()
    """Other hosts that see it, by a shared file system."""
    gpus: str = ""
    flags: str = ""
    notes: tuple[str, ...] = ()


class Image(Value):
    """The container image of an engine for a machine."""

    machine: str
    image: str


def install_engine(
    engine: str | None = None,
    *,
    hosts: str | Sequence[str] | None = None,
    python: str | None = None,
    source: Path | None = None,
    ssh_config: Path | None = None,
    note: Say = lambda _: None,
) -> list[Installed]:
    """Have the environment of ``engine`` (``vllm==0.26.0``) here, or on ``hosts`` over SSH.

    ``source`` is a directory that ``bundle_engine`` wrote: no index is asked, and ``engine`` may
    be left out. What is there already is given at once. ``note`` is told what goes on. Raises
    UsageError, or LemnosError that names the image to use where there is no build for a machine.
    """
    opened = bundle.read_manifest(source) if source else None
    request = _requested(engine, opened)
    done = places.installed(request.engine, request.version, request.variant)
    if done and hosts is None and not python and _brings_nothing_new(opened, done):
        return [Installed(environment=done, machine=done.host, already=True)]
    python = python or (opened.python if opened else None)
    machines = _machines(hosts, ssh_config, note)
    groups = targets.alike(machines) if hosts else [machines]
    builds = [_build(request, group[0], python, opened) for group in groups]
    with contextlib.ExitStack() as stack:
        brought = stack.enter_context(bundle.joined(source, note)) if source else None

        def install(
            group: Sequence[Machine], build: Build, shipping: Shipping
        ) -> Installed:
            found = group[0]
            with _wheels_on(found, brought, note) as wheels:
                order = order_of(build, found, wheels, opened, python)
                own_uv = brought / "uv" if brought else None
                order["uv"] = targets.uv_on(found, note, own_uv)
                return _installed(_install(order, found, shipping, note), build, group)

        results = _on_each(groups, builds, install)
    if opened and opened.model and source:
        bundle.install_model(source, opened, [m.ssh for m in machines if m.ssh], note)
    return results


def engine_images(
    engine: str,
    *,
    hosts: str | Sequence[str] | None = None,
    ssh_config: Path | None = None,
    note: Say = lambda _: None,
) -> list[Image]:
    """The container image of ``engine`` for this machine, or for ``hosts``. Raises LemnosError."""
    request = request_named(engine)
    found = []
    for each in _machines(hosts, ssh_config, note):
        image = image_for(request, each.target)
        if image is None:
            raise LemnosError(
                f"there is no image of {request} for its architecture and driver",
                where=each.target.name,
                fix="choose another version",
            )
        found.append(Image(machine=each.target.name, image=image))
    return found


def check_engine(name: str) -> Installed:
    """Import the environment ``name`` again: version, GPUs, options. Raises LemnosError."""
    environment = places.find(name)
    request = Request(
        engine=environment.engine,
        version=environment.version,
        variant=environment.variant,
    )
    found = targets.here()
    build = choose_build(request, found.target.model_copy(update={"free_gib": None}))
    if isinstance(build, Refusal):
        raise build.error()
    order = order_of(build, found, None, None, None)
    answer = work.verify(Path(environment.program), order)
    done = {**environment.model_dump(), "found": answer, "already": True}
    return _installed(done, build, [found])


def order_of(
    build: Build,
    found: Machine,
    wheels: str | None,
    opened: Manifest | None,
    python_asked: str | None,
) -> Order:
    """What ``work.install`` is to make; plain data, since it may travel. ``uv`` is added there."""
    request = build.request
    return {
        "root": found.root,
        "name": request.name,
        "engine": request.engine,
        "version": request.version,
        "variant": request.variant,
        "requirement": build.requirement,
        "distribution": build.distribution,
        "module": build.module,
        "flags": known_builds().engines[request.engine].flags,
        "alias": build.alias.model_dump() if build.alias else None,
        "companions": list(build.companions),
        "hint": build.hint,
        "architecture": build.architecture,
        "glibc": build.glibc,
        "cuda": build.cuda,
        "gpus": found.target.gpus,
        "python": build.python,
        "python_asked": python_asked,
        "sources": True,
        "image": image_for(request, found.target),
        "wheels": wheels,
        "pins": list(opened.packages) if opened else [],
        "check": _check_script(),
    }


def flags_verdict(table: str, version: str, found: dict[str, Any]) -> str:
    """How the options of the engine's own parser stand to lemnos's table of them, in words."""
    if not table:
        return "no table of its flags to hold them against"
    if "flags" not in found:
        return f"not compared: {found.get('flags_why', 'they were not asked for')}"
    try:
        from lemnos.engines.flags.schema import schema_for

        schema = schema_for(table, version)
    except (OSError, ImportError, UsageError) as error:
        return f"not compared: no table ({error})"
    if schema.asked:
        return f"not compared: the table's nearest release is {schema.version}"
    return _difference(set(found["flags"]), set(schema.spellings))


def _difference(real: set[str], table: set[str]) -> str:
    """Which options only one of the two has. Help is argparse's own, so no table has it."""
    real = {_plain(name) for name in real} - {"--help", "-h"}
    table = {_plain(name) for name in table} - {"--help", "-h"}
    if real == table:
        return f"{len(real)}, as in the table"
    said = [f"{len(real & table)} as in the table"]
    for names, who in ((real - table, "the engine"), (table - real, "the table")):
        if names:
            said.append(f"only {who} has {', '.join(sorted(names)[:8])}")
    return "; ".join(said)


def _plain(name: str) -> str:
    """Underscores and dashes are the same to the engines' parsers."""
    return name.replace("_", "-")


def _requested(engine: str | None, opened: Manifest | None) -> Request:
    if engine is None and opened is None:
        raise UsageError("names no engine", fix="lemnos engines install vllm==0.26.0")
    bundled = request_named(opened.request) if opened else None
    asked = request_named(engine) if engine else bundled
    assert asked
    if bundled and asked != bundled:
        raise UsageError(f"the bundle holds {bundled}, not {asked}")
    return asked


def _brings_nothing_new(opened: Manifest | None, done: Environment) -> bool:
    """Whether the environment that is here has all that a bundle (None: an index) would bring."""
    if opened is None:
        return True
    return done.resolution == work.digest_of(list(opened.packages)) and not opened.model


def _machines(
    hosts: str | Sequence[str] | None, config: Path | None, note: Say
) -> list[Machine]:
    if hosts is None:
        return [targets.here()]
    text = hosts if isinstance(hosts, str) else ",".join(hosts)
    return targets.there(probe.hosts_named(text, config), note)


def _build(
    request: Request, found: Machine, python: str | None, opened: Manifest | None
) -> Build:
    if opened and (why := unfit(opened, found.target)):
        raise LemnosError(
            why,
            where=found.target.name,
            fix="write another: lemnos engines bundle --platform ... --glibc ...",
        )
    without_index = opened is not None
    build = choose_build(
        request, found.target, python=python, fetches_python=not without_index
    )
    if isinstance(build, Refusal):
        raise build.error()
    return build


@contextlib.contextmanager
def _wheels_on(found: Machine, brought: Path | None, note: Say) -> Iterator[str | None]:
    """The bundle's wheels on a machine while the body runs; None where there is no bundle."""
    if brought is None:
        yield None
        return
    wheels = brought / "wheels"
    if found.ssh is None:
        yield str(wheels)
        return
    there = f"{found.root}/{brought.name}"
    note(f"{found.target.name}: copying the wheels")
    try:
        targets.send_directory(found.ssh, wheels, there)
        yield there
    finally:
        with contextlib.suppress(LemnosError):
            found.ssh.output("rm", "-rf", there)


def _on_each(
    groups: list[list[Machine]],
    builds: list[Build],
    install: Callable[[Sequence[Machine], Build, Shipping], Installed],
) -> list[Installed]:
    """``install`` for every group, hosts some at a time. All are tried before one's error is raised."""
    shipping = Shipping()
    if groups[0][0].ssh is None:
        return [install(groups[0], builds[0], shipping)]
    with ThreadPoolExecutor(probe.AT_ONCE) as pool:
        try:
            running = [
                pool.submit(install, group, build, shipping)
                for group, build in zip(groups, builds, strict=True)
            ]
            wait(running)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            shipping.end()
            raise
    return [each.result() for each in running]


def _install(
    order: Order, found: Machine, shipping: Shipping, note: Say
) -> dict[str, Any]:
    if found.ssh is None:
        return work.install(order, note)
    python = targets.python_on(found, order["uv"], order["python"])
    return shipping.install(found.ssh, python, order, note)


def _installed(
    done: dict[str, Any], build: Build, group: Sequence[Machine]
) -> Installed:
    environment = places.environment_of(done, done["path"])
    found = done.get("found")
    table = known_builds().engines[build.request.engine].flags
    return Installed(
        environment=environment,
        machine=group[0].target.name,
        already=done["already"],
        shared_with=tuple(each.target.name for each in group[1:]),
        gpus=_gpus(found, build) if found else "",
        flags=flags_verdict(table, build.request.version, found) if found else "",
        notes=build.notes,
    )


def _gpus(found: dict[str, Any], build: Build) -> str:
    if build.cuda is None:
        return "none: a build for CPUs"
    return f"{found['gpus']} seen" if found["gpus"] else "none here"


def _check_script() -> str:
    package = resources.files("lemnos.engines.environments")
    return package.joinpath("check.py").read_text()
