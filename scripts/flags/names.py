"""What a walk over a release's sources deals in: modules, scopes, functions, and the unknown."""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from flags.world import World

BUILTINS = """abs all any bool dict enumerate filter float frozenset getattr hasattr int isinstance
issubclass iter len list map max min next object property range repr reversed round set sorted
staticmethod classmethod str sum tuple type vars zip Exception ValueError TypeError KeyError
AttributeError ImportError RuntimeError AssertionError NotImplementedError OSError StopIteration
IndexError ModuleNotFoundError NameError""".split()


class Unknown:
    """What cannot be known from the sources; ``name`` says where it came from."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Unknown(f"{self.name}.{name}")

    def __call__(self, *args: object, **more: object) -> Unknown:
        return Unknown(f"{self.name}()")

    def __getitem__(self, key: object) -> Unknown:
        return Unknown(f"{self.name}[]")

    def __iter__(self) -> Iterator[Any]:
        return iter(())

    def __deepcopy__(self, memo: object) -> Unknown:
        return self

    def __repr__(self) -> str:
        return f"<{self.name}>"


class Files(Protocol):
    """Where sources come from."""

    def read(self, path: str) -> str | None:
        """The text of a file, None if there is none."""
        ...


class Return(Exception):  # noqa: N818 - control flow, no error
    """A function ends with a value."""

    def __init__(self, value: Any) -> None:
        self.value = value


class Break(Exception):  # noqa: N818
    """A loop ends."""


class Continue(Exception):  # noqa: N818
    """A round of a loop ends."""


class Collecting:
    """What options are being added to: a function that has one may fail statement by statement."""


class Scope(dict[str, Any]):
    """The names of a running function or class body, and those around it."""

    def __init__(self, module: Module, outer: Scope | None = None) -> None:
        super().__init__()
        self.module = module
        self.outer = outer

    def find(self, name: str) -> Any:
        """The value of a name: local, around, of the module, built in, or Unknown."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope:
                return scope[name]
            scope = scope.outer
        return self.module.find(name)


class Function:
    """A function of the sources: calling it interprets its body."""

    def __init__(self, node: Any, scope: Scope, defaults: dict[str, Any]) -> None:
        self.node = node
        self.scope = scope
        self.defaults = defaults
        self.__name__ = getattr(node, "name", "lambda")

    def __get__(self, instance: object, owner: type) -> Any:
        if instance is None:
            return self
        return lambda *args, **more: self(instance, *args, **more)

    def __deepcopy__(self, memo: object) -> Function:
        return self

    def __call__(self, *args: Any, **more: Any) -> Any:
        local = Scope(self.scope.module, self.scope)
        self._bind(local, args, more)
        if isinstance(self.node, ast.Lambda):
            return self.scope.module.world.value(self.node.body, local)
        try:
            self.scope.module.world.run(self.node.body, local)
        except Return as found:
            return found.value
        return None

    def _bind(self, local: Scope, args: tuple[Any, ...], more: dict[str, Any]) -> None:
        names = [a.arg for a in self.node.args.posonlyargs + self.node.args.args]
        local.update(self.defaults)
        local.update(zip(names, args, strict=False))
        if self.node.args.vararg:
            local[self.node.args.vararg.arg] = tuple(args[len(names) :])
        known = set(names) | {a.arg for a in self.node.args.kwonlyargs}
        local.update({k: v for k, v in more.items() if k in known})
        if self.node.args.kwarg:
            rest = {k: v for k, v in more.items() if k not in known}
            local[self.node.args.kwarg.arg] = rest


class Module:
    """A module of the sources; a name is worked out when it is first asked for."""

    def __init__(self, world: World, name: str, path: str, text: str) -> None:
        self.world = world
        self.name = name
        self.package = name if path.endswith("__init__.py") else name.rpartition(".")[0]
        self.scope = Scope(self)
        self._statements: dict[str, list[ast.stmt]] = {}
        self._typing: dict[str, list[ast.stmt]] = {}
        self._collect(ast.parse(text).body, self._statements)

    def find(self, name: str) -> Any:
        """The value of a global or a builtin; Unknown for any other name."""
        if name not in self.scope:
            self._work_out(name)
        if name in self.scope:
            return self.scope[name]
        if name in BUILTINS:
            return getattr(builtins, name, None)
        return Unknown(f"{self.name}.{name}")

    def __deepcopy__(self, memo: object) -> Module:
        return self

    def _work_out(self, name: str) -> None:
        # What only type checkers see still tells an environment variable's default.
        statements = self._statements.get(name) or self._typing.get(name, [])
        for statement in statements:
            try:
                self.world.run([statement], self.scope)
            except Exception as error:
                self.world.note(f"{self.name}: {name}: {error!r}")

    def _collect(self, body: list[ast.stmt], into: dict[str, list[ast.stmt]]) -> None:
        for node in body:
            if isinstance(node, ast.If):
                typing_only = ast.unparse(node.test).endswith("TYPE_CHECKING")
                self._collect(node.body, self._typing if typing_only else into)
                self._collect(node.orelse, into)
            elif isinstance(node, ast.Try):
                self._collect(node.body, into)
            else:
                for name in bound(node):
                    into.setdefault(name, []).append(node)


def bound(node: ast.stmt) -> list[str]:
    """The names that a top-level statement makes or changes (``X = 1``, ``X.extend(...)``)."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [node.name]
    if isinstance(node, ast.Import):
        return [a.asname or a.name.partition(".")[0] for a in node.names]
    if isinstance(node, ast.ImportFrom):
        return [a.asname or a.name for a in node.names]
    targets: list[ast.expr] = []
    if isinstance(node, ast.Assign):
        targets = node.targets
    elif isinstance(node, ast.AnnAssign | ast.AugAssign):
        targets = [node.target]
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        called = node.value.func
        targets = [called] if isinstance(called, ast.Attribute) else []
    names = []
    for target in targets:
        parts = target.elts if isinstance(target, ast.Tuple) else [target]
        for part in parts:
            while isinstance(part, ast.Attribute | ast.Subscript):
                part = part.value
            if isinstance(part, ast.Name):
                names.append(part.id)
    return names
