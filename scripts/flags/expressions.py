"""The expressions of a release's sources: what each is worth (see ``world.py``)."""

from __future__ import annotations

import ast
import operator
import typing
from collections.abc import Callable, Iterator
from typing import Any

from flags.names import Function, Module, Scope, Unknown

# Names with two underscores that sources may use; any other could reach out of the sources.
DUNDERS = {
    "__annotations__",
    "__name__",
    "__qualname__",
    "__doc__",
    "__dict__",
    "__members__",
}
DUNDERS |= {"__mro__", "__module__", "__class__", "__args__", "__origin__", "__init__"}
OPERATORS: dict[type[ast.AST], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
    ast.LShift: operator.lshift,
    ast.RShift: operator.rshift,
    ast.BitOr: operator.or_,
    ast.BitAnd: operator.and_,
    ast.BitXor: operator.xor,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Is: operator.is_,
    ast.IsNot: operator.is_not,
    ast.In: lambda one, many: one in many,
    ast.NotIn: lambda one, many: one not in many,
}


class Native:
    """A module of the standard library that sources may import: some of its names."""

    def __init__(self, names: dict[str, Any], name: str) -> None:
        self.names = names
        self.name = name


class Expressions:
    """``value(node, scope)`` for every kind of expression."""

    notes: list[str]

    def note(self, text: str) -> None:
        """Remember something that could not be worked out."""
        if text not in self.notes:
            self.notes.append(text)

    def value(self, node: ast.expr, scope: Scope) -> Any:
        """What an expression is worth; raises what it would raise."""
        method = getattr(self, "_" + type(node).__name__, None)
        return method(node, scope) if method else Unknown(type(node).__name__)

    def hint(self, node: ast.expr, scope: Scope) -> Any:
        """A type hint's value, a string's included; what is not known is a class of its name."""
        try:
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                node = ast.parse(node.value, mode="eval").body
            return as_type(self.value(node, scope))
        except Exception as error:
            self.note(f"{scope.module.name}: {ast.unparse(node)}: {error!r}")
            return as_type(Unknown(ast.unparse(node)))

    def function(self, node: Any, scope: Scope) -> Function:
        """A function or lambda, with the values of its defaults."""
        names = [a.arg for a in node.args.posonlyargs + node.args.args]
        given = node.args.defaults
        pairs = list(zip(names[len(names) - len(given) :], given, strict=True))
        pairs += [
            (a.arg, d)
            for a, d in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
            if d is not None
        ]
        return Function(node, scope, {n: self.value(d, scope) for n, d in pairs})

    def assign(self, target: ast.expr, value: Any, scope: Scope) -> None:
        """Bind a target: a name, an attribute, a subscript, or several at once."""
        if isinstance(target, ast.Name):
            scope[target.id] = value
        elif isinstance(target, ast.Tuple | ast.List):
            self._unpack(target.elts, value, scope)
        elif isinstance(target, ast.Attribute):
            owner = self.value(target.value, scope)
            if not isinstance(owner, Unknown | Native | Module):
                setattr(owner, target.attr, value)
        elif isinstance(target, ast.Subscript):
            owner = self.value(target.value, scope)
            if not isinstance(owner, Unknown):
                owner[self.value(target.slice, scope)] = value

    def _unpack(self, targets: list[ast.expr], value: Any, scope: Scope) -> None:
        values: list[Any] = [value] * len(targets)
        if not isinstance(value, Unknown):
            values = list(value)
        for place, target in enumerate(targets):
            if isinstance(target, ast.Starred):
                after = len(targets) - place - 1
                self.assign(target.value, values[place : len(values) - after], scope)
                values = [*[None] * (place + 1), *values[len(values) - after :]]
            else:
                self.assign(target, values[place], scope)

    def combined(self, op: ast.AST, left: Any, right: Any) -> Any:
        """``left op right``; Unknown if either is, but for types, which can still be joined."""
        maybe = None in (left, right)  # X | None, where nothing is known of X
        if isinstance(op, ast.BitOr) and (_typish(left) or _typish(right) or maybe):
            return typing.Union[as_type(left), as_type(right)]  # noqa: UP007 - made, not written
        if isinstance(left, Unknown) or isinstance(right, Unknown):
            return Unknown("op")
        return OPERATORS[type(op)](left, right)

    # ---- one method a kind of node, named as ast names it

    def _Constant(self, node: ast.Constant, scope: Scope) -> Any:  # noqa: N802
        return node.value

    def _Name(self, node: ast.Name, scope: Scope) -> Any:  # noqa: N802
        return scope.find(node.id)

    def _Attribute(self, node: ast.Attribute, scope: Scope) -> Any:  # noqa: N802
        return self.attribute(self.value(node.value, scope), node.attr)

    def attribute(self, owner: Any, name: str) -> Any:
        """``owner.name``; raises AttributeError where it would."""
        if isinstance(owner, Module):
            inner = owner.world.imported(owner.name, name)
            return inner
        if isinstance(owner, Native):
            return owner.names.get(name, Unknown(f"{owner.name}.{name}"))
        if isinstance(owner, Super):
            return owner.find(name)
        if name.startswith("__") and name not in DUNDERS:
            raise AttributeError(name)
        return getattr(owner, name)

    def _Call(self, node: ast.Call, scope: Scope) -> Any:  # noqa: N802
        called = self.value(node.func, scope)
        if isinstance(node.func, ast.Name) and node.func.id == "super":
            return Super(scope)
        args: list[Any] = []
        for arg in node.args:
            if isinstance(arg, ast.Starred):
                args.extend(self.value(arg.value, scope))
            else:
                args.append(self.value(arg, scope))
        more: dict[str, Any] = {}
        for keyword in node.keywords:
            value = self.value(keyword.value, scope)
            if keyword.arg is not None:
                more[keyword.arg] = value
            elif not isinstance(value, Unknown):
                more.update(value)
        return self.called(called, args, more)

    def called(self, function: Any, args: list[Any], more: dict[str, Any]) -> Any:
        """The value of a call."""
        if function in (getattr, hasattr) and isinstance(args[0], Native | Module):
            found = self.attribute(args[0], args[1])
            missing = isinstance(found, Unknown)
            if function is hasattr:
                return not missing
            return args[2] if missing and len(args) > 2 else found
        if function in (isinstance, issubclass, len, int, float, bool) and any(
            isinstance(arg, Unknown) for arg in args
        ):
            return Unknown(function.__name__)
        return function(*args, **more)

    def _Subscript(self, node: ast.Subscript, scope: Scope) -> Any:  # noqa: N802
        owner = self.value(node.value, scope)
        if isinstance(node.slice, ast.Slice):
            bounds = (node.slice.lower, node.slice.upper, node.slice.step)
            return owner[slice(*(self.value(b, scope) if b else None for b in bounds))]
        if isinstance(owner, Unknown):
            key = self.value(node.slice, scope)
            # pydantic's SkipValidation[X] and the like say nothing about the value's shape.
            return key if owner.name.endswith("SkipValidation") else owner
        if owner is typing.Literal:
            return owner[self.value(node.slice, scope)]
        if _typish(owner):
            return self._generic(owner, node.slice, scope)
        return owner[self.value(node.slice, scope)]

    def _generic(self, owner: Any, key: ast.expr, scope: Scope) -> Any:
        parts = key.elts if isinstance(key, ast.Tuple) else [key]
        if owner is typing.Annotated:
            extra = [self.value(part, scope) for part in parts[1:]]
            return owner[(self.hint(parts[0], scope), *extra)]
        hints = []
        for part in parts:
            if isinstance(part, ast.List):
                hints.append([self.hint(p, scope) for p in part.elts])
            else:
                hints.append(self.hint(part, scope))
        try:
            return owner[tuple(hints) if len(hints) > 1 else hints[0]]
        except TypeError:
            return owner

    def _BinOp(self, node: ast.BinOp, scope: Scope) -> Any:  # noqa: N802
        return self.combined(
            node.op, self.value(node.left, scope), self.value(node.right, scope)
        )

    def _UnaryOp(self, node: ast.UnaryOp, scope: Scope) -> Any:  # noqa: N802
        value = self.value(node.operand, scope)
        if isinstance(value, Unknown):
            return value
        if isinstance(node.op, ast.Not):
            return not value
        return -value if isinstance(node.op, ast.USub) else +value

    def _BoolOp(self, node: ast.BoolOp, scope: Scope) -> Any:  # noqa: N802
        decisive = isinstance(node.op, ast.Or)
        unknown = None
        value: Any = None
        for part in node.values:
            value = self.value(part, scope)
            if isinstance(value, Unknown):
                unknown = value
            elif bool(value) is decisive:
                return value
        return value if unknown is None else unknown

    def _Compare(self, node: ast.Compare, scope: Scope) -> Any:  # noqa: N802
        left = self.value(node.left, scope)
        for op, right_node in zip(node.ops, node.comparators, strict=True):
            right = self.value(right_node, scope)
            same = isinstance(op, ast.Is | ast.IsNot)
            if isinstance(left, Unknown) or isinstance(right, Unknown):
                # Something unknown is at least no None.
                if same and (left is None or right is None):
                    return isinstance(op, ast.IsNot)
                return Unknown("compared")
            if not OPERATORS[type(op)](left, right):
                return False
            left = right
        return True

    def _IfExp(self, node: ast.IfExp, scope: Scope) -> Any:  # noqa: N802
        test = self.value(node.test, scope)
        # An unknown condition mostly asks for hardware that is not there.
        taken = False if isinstance(test, Unknown) else test
        return self.value(node.body if taken else node.orelse, scope)

    def _items(self, nodes: list[ast.expr], scope: Scope) -> Iterator[Any]:
        for node in nodes:
            if isinstance(node, ast.Starred):
                yield from self.value(node.value, scope)
            else:
                yield self.value(node, scope)

    def _List(self, node: ast.List, scope: Scope) -> Any:  # noqa: N802
        return list(self._items(node.elts, scope))

    def _Tuple(self, node: ast.Tuple, scope: Scope) -> Any:  # noqa: N802
        return tuple(self._items(node.elts, scope))

    def _Set(self, node: ast.Set, scope: Scope) -> Any:  # noqa: N802
        return set(self._items(node.elts, scope))

    def _Dict(self, node: ast.Dict, scope: Scope) -> Any:  # noqa: N802
        made: dict[Any, Any] = {}
        for key, item in zip(node.keys, node.values, strict=True):
            value = self.value(item, scope)
            if key is not None:
                made[self.value(key, scope)] = value
            elif not isinstance(value, Unknown):
                made.update(value)
        return made

    def _ListComp(self, node: ast.ListComp, scope: Scope) -> Any:  # noqa: N802
        return [self.value(node.elt, s) for s in self._rounds(node.generators, scope)]

    def _SetComp(self, node: ast.SetComp, scope: Scope) -> Any:  # noqa: N802
        return {self.value(node.elt, s) for s in self._rounds(node.generators, scope)}

    def _GeneratorExp(self, node: ast.GeneratorExp, scope: Scope) -> Any:  # noqa: N802
        return iter(
            [self.value(node.elt, s) for s in self._rounds(node.generators, scope)]
        )

    def _DictComp(self, node: ast.DictComp, scope: Scope) -> Any:  # noqa: N802
        rounds = self._rounds(node.generators, scope)
        return {self.value(node.key, s): self.value(node.value, s) for s in rounds}

    def _rounds(self, loops: list[ast.comprehension], scope: Scope) -> Iterator[Scope]:
        if not loops:
            yield scope
            return
        for item in self.value(loops[0].iter, scope):
            inner = Scope(scope.module, scope)
            self.assign(loops[0].target, item, inner)
            tests = [self.value(test, inner) for test in loops[0].ifs]
            if all(not isinstance(test, Unknown) and test for test in tests):
                yield from self._rounds(loops[1:], inner)

    def _JoinedStr(self, node: ast.JoinedStr, scope: Scope) -> Any:  # noqa: N802
        parts = [self.value(part, scope) for part in node.values]
        return "".join(map(str, parts))

    def _FormattedValue(self, node: ast.FormattedValue, scope: Scope) -> Any:  # noqa: N802
        return self.value(node.value, scope)

    def _Lambda(self, node: ast.Lambda, scope: Scope) -> Any:  # noqa: N802
        return self.function(node, scope)

    def _NamedExpr(self, node: ast.NamedExpr, scope: Scope) -> Any:  # noqa: N802
        value = self.value(node.value, scope)
        self.assign(node.target, value, scope)
        return value


class Super:
    """``super()`` in a method: the next class with the attribute that is asked for."""

    def __init__(self, scope: Scope) -> None:
        self._self = scope.find("self") if "self" in scope else scope.find("cls")
        self._here = scope.find("__class__")

    def find(self, name: str) -> Any:
        """The attribute, bound as ``super()`` binds it."""
        whole = self._self if isinstance(self._self, type) else type(self._self)
        order = whole.__mro__
        for owner in order[order.index(self._here) + 1 :]:
            if name in owner.__dict__:
                found = owner.__dict__[name]
                bind = getattr(found, "__get__", None)
                instance = None if isinstance(self._self, type) else self._self
                return bind(instance, whole) if bind else found
        return Unknown(f"super.{name}")


def as_type(value: Any) -> Any:
    """A value as a type hint: what is not known becomes a class of its name."""
    if value is None:
        return type(None)
    if isinstance(value, str):
        return as_type(Unknown(value))
    if isinstance(value, Unknown):
        if value.name not in _CLASSES:
            module, _, name = value.name.rpartition(".")
            _CLASSES[value.name] = type(name, (), {"__module__": module or "unknown"})
        return _CLASSES[value.name]
    return value


_CLASSES: dict[str, type] = {}


def _typish(value: Any) -> bool:
    """Whether a value is a class or a form of ``typing``."""
    made = isinstance(value, type) or typing.get_origin(value) is not None
    return made or getattr(value, "__module__", None) == "typing"
