"""Work out what a module's functions would do, from their source alone: nothing is imported or run.

A release's option parser is built by code that loops over dataclass fields, asks ``typing`` for
the parts of an annotation, copies dicts and calls helpers. Reading only its ``add_argument`` calls
misses much of that, and what each helper does changes between releases. So the syntax trees are
walked by a small interpreter: names are looked up when they are needed, in the module's own
source; a few harmless modules of the standard library are the real ones (``natives.py``);
everything else (torch, pydantic, the network, files) is ``Unknown``, which swallows whatever is
done with it.
"""

from __future__ import annotations

import ast
import builtins
from typing import Any

from flags.expressions import Expressions, Native
from flags.names import (
    Break,
    Collecting,
    Continue,
    Files,
    Module,
    Return,
    Scope,
    Unknown,
)

STEPS = 5_000_000  # no release needs a tenth of it


class World(Expressions):
    """Every module of one release, the values worked out so far, and what went wrong on the way."""

    def __init__(self, files: Files, natives: dict[str, dict[str, Any]]) -> None:
        self.files = files
        self.natives = natives
        self.notes: list[str] = []
        self._modules: dict[str, Module | None] = {}
        self._steps = 0
        self._tried = 0  # how many try statements are being run

    def note(self, text: str) -> None:
        """Remember something that could not be worked out."""
        if text not in self.notes:
            self.notes.append(text)

    def module(self, name: str) -> Module | None:
        """A module of the release, None where the release has no such file."""
        if name not in self._modules:
            self._modules[name] = None
            for path in (
                name.replace(".", "/") + end for end in (".py", "/__init__.py")
            ):
                text = self.files.read(path)
                if text is not None:
                    self._modules[name] = Module(self, name, path, text)
                    break
        return self._modules[name]

    def imported(self, module: str, name: str) -> Any:
        """What ``from module import name`` gives."""
        if module in self.natives:
            return self.natives[module].get(name, Unknown(f"{module}.{name}"))
        found = self.module(module)
        inner = self.module(f"{module}.{name}")
        if found is None:
            return inner or Unknown(f"{module}.{name}")
        value = found.find(name)
        return inner if inner is not None and isinstance(value, Unknown) else value

    # ---- statements

    def run(self, body: list[ast.stmt], scope: Scope) -> None:
        """Interpret statements; raises what they raise."""
        for node in body:
            self._steps += 1
            if self._steps > STEPS:
                raise RuntimeError("too many steps")
            method = getattr(self, "_do_" + type(node).__name__, None)
            if method:
                method(node, scope)

    def _do_Expr(self, node: ast.Expr, scope: Scope) -> None:  # noqa: N802 - ast's names
        tolerant = any(isinstance(v, Collecting) for v in scope.values())
        try:
            self.value(node.value, scope)
        except Exception as error:
            if not tolerant or self._tried:
                raise
            self.note(f"{scope.module.name}:{node.lineno}: {error!r}")

    def _do_Assign(self, node: ast.Assign, scope: Scope) -> None:  # noqa: N802
        value = self.value(node.value, scope)
        for target in node.targets:
            self.assign(target, value, scope)

    def _do_AnnAssign(self, node: ast.AnnAssign, scope: Scope) -> None:  # noqa: N802
        if isinstance(node.target, ast.Name) and "__annotations__" in scope:
            hints = scope["__annotations__"]
            hints[node.target.id] = self.hint(node.annotation, scope)
        if node.value is not None:
            self.assign(node.target, self.value(node.value, scope), scope)

    def _do_AugAssign(self, node: ast.AugAssign, scope: Scope) -> None:  # noqa: N802
        read = ast.parse(ast.unparse(node.target), mode="eval").body
        old, new = self.value(read, scope), self.value(node.value, scope)
        self.assign(node.target, self.combined(node.op, old, new), scope)

    def _do_If(self, node: ast.If, scope: Scope) -> None:  # noqa: N802
        test = self.value(node.test, scope)
        if not isinstance(test, Unknown):
            self.run(node.body if test else node.orelse, scope)
            return
        # Either may happen: both are done, and neither may end the function.
        for body in (node.body, node.orelse):
            try:
                self.run(body, scope)
            except Exception:
                continue

    def _do_For(self, node: ast.For, scope: Scope) -> None:  # noqa: N802
        for item in list(self.value(node.iter, scope)):
            self.assign(node.target, item, scope)
            try:
                self.run(node.body, scope)
            except Continue:
                continue
            except Break:
                return
        self.run(node.orelse, scope)

    def _do_While(self, node: ast.While, scope: Scope) -> None:  # noqa: N802
        while (test := self.value(node.test, scope)) and not isinstance(test, Unknown):
            try:
                self.run(node.body, scope)
            except Continue:
                continue
            except Break:
                return

    def _do_With(self, node: ast.With, scope: Scope) -> None:  # noqa: N802
        self.run(node.body, scope)

    def _do_Try(self, node: ast.Try, scope: Scope) -> None:  # noqa: N802
        self._tried += 1
        try:
            self.run(node.body, scope)
        except (Return, Break, Continue):
            raise
        except Exception as error:
            for handler in node.handlers:
                kind = self.value(handler.type, scope) if handler.type else Exception
                if isinstance(kind, Unknown) or isinstance(error, kind):
                    scope[handler.name or "_"] = error
                    self.run(handler.body, scope)
                    return
            raise
        else:
            self.run(node.orelse, scope)
        finally:
            self._tried -= 1
            self.run(node.finalbody, scope)

    def _do_Raise(self, node: ast.Raise, scope: Scope) -> None:  # noqa: N802
        value = (
            self.value(node.exc, scope) if node.exc else RuntimeError("raised again")
        )
        if isinstance(value, BaseException) or (
            isinstance(value, type) and issubclass(value, BaseException)
        ):
            raise value
        raise RuntimeError(repr(value))

    def _do_Return(self, node: ast.Return, scope: Scope) -> None:  # noqa: N802
        raise Return(self.value(node.value, scope) if node.value else None)

    def _do_Break(self, node: ast.Break, scope: Scope) -> None:  # noqa: N802
        raise Break

    def _do_Continue(self, node: ast.Continue, scope: Scope) -> None:  # noqa: N802
        raise Continue

    def _do_Delete(self, node: ast.Delete, scope: Scope) -> None:  # noqa: N802
        for target in node.targets:
            if isinstance(target, ast.Subscript):
                del self.value(target.value, scope)[self.value(target.slice, scope)]
            elif isinstance(target, ast.Name):
                scope.pop(target.id, None)

    def _do_Import(self, node: ast.Import, scope: Scope) -> None:  # noqa: N802
        for alias in node.names:
            name = alias.name if alias.asname else alias.name.partition(".")[0]
            native = self.natives.get(name)
            value = Native(native, name) if native is not None else self.module(name)
            scope[alias.asname or name] = value or Unknown(name)

    def _do_ImportFrom(self, node: ast.ImportFrom, scope: Scope) -> None:  # noqa: N802
        base = node.module or ""
        if node.level:
            parts = scope.module.package.split(".")
            parts = parts[: len(parts) - node.level + 1]
            base = ".".join([*parts, *([node.module] if node.module else [])])
        for alias in node.names:
            scope[alias.asname or alias.name] = self.imported(base, alias.name)

    def _do_FunctionDef(self, node: ast.FunctionDef, scope: Scope) -> None:  # noqa: N802
        made: Any = self.function(node, scope)
        for decorator in node.decorator_list:
            name = ast.unparse(decorator)
            if name in ("staticmethod", "classmethod", "property"):
                made = getattr(builtins, name)(made)
        scope[node.name] = self.natives["@functions"].get(node.name, made)

    _do_AsyncFunctionDef = _do_FunctionDef  # noqa: N815

    def _do_ClassDef(self, node: ast.ClassDef, scope: Scope) -> None:  # noqa: N802
        if node.name == "LazyLoader":  # a module that is imported at its first use
            scope[node.name] = lambda local, names, module: self.module(module)
            return
        body = Scope(scope.module, scope)
        body["__annotations__"] = {}
        for statement in node.body:
            try:
                self.run([statement], body)
            except Exception as error:
                self.note(
                    f"{scope.module.name}.{node.name}:{statement.lineno}: {error!r}"
                )
        bases = [self.value(base, scope) for base in node.bases]
        scope[node.name] = self.natives["@classes"]["make"](
            self, node, scope, bases, body
        )
