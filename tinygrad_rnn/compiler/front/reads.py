"""All that a step can have read from outside, described so that two moments can be compared.

From what the step starts with (a cell, a function) every attribute, global, closure, default argument, class attribute
and element of a container is followed whose name occurs in the code that ran: more than was read, never less. Tensors
and random keys are described by what does not vary from call to call, and listed, as a compiled step takes them anew;
everything else by its value, or where it has none by itself.
"""

from __future__ import annotations

import collections
import enum
import functools
import operator
import re
import sys
import types
import typing
import weakref
from collections.abc import Iterable, Mapping
from types import CodeType
from typing import Any

import numpy as np

from ...autograd.tensor import Tensor
from ...ops.random import RandomKey
from .anchors import Anchors, digest, elements
from .line import LIBRARY
from .observe import (
    Observer,
    Unread,
    global_names,
    imported_names,
    inner_code,
    is_pythons_file,
    is_users,
    lines_that_name,
)

#: How many things are looked at before it is called too much.
MOST = 20_000

#: Values that are what they are.
_PLAIN = frozenset({type(None), bool, int, str, bytes, type(Ellipsis), type(NotImplemented), range})
#: Containers, whose elements are looked at, and classes written in C that add nothing to their instances.
_CONTAINERS = (
    tuple, list, set, frozenset, dict, collections.deque, collections.OrderedDict, collections.defaultdict,
    collections.Counter, types.MappingProxyType, bytearray,
)  # fmt: skip
_NUMBERS: tuple[Any, ...] = (int, float, complex, str, bytes)
_SHOWN = frozenset({object, *_CONTAINERS, *_NUMBERS, types.SimpleNamespace, typing.Generic})
#: Objects that do not change, known by themselves.
_FIXED = (
    types.BuiltinFunctionType, types.MethodDescriptorType, types.WrapperDescriptorType, types.MethodWrapperType,
    types.GetSetDescriptorType, types.MemberDescriptorType, types.ClassMethodDescriptorType, types.CodeType, np.ufunc,
    np.dtype, re.Pattern, types.GenericAlias, enum.Enum, types.UnionType, typing.TypeVar,
    type(np.swapaxes), type(collections.namedtuple("_Named", "field").field),  # type: ignore[attr-defined]  # it has the field
)  # fmt: skip
_MISSING = object()


class Same:
    """An object, equal to itself only. It is not kept alive where that can be helped."""

    __slots__ = ("_hash", "_of")

    def __init__(self, value: Any) -> None:
        self._hash = id(value)
        self._of: Any
        try:
            self._of = weakref.ref(value)
        except TypeError:
            self._of = functools.partial(_itself, value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and self._hash == other._hash and self._of() is other._of() is not None

    def __hash__(self) -> int:
        return self._hash


def _itself(value: Any) -> Any:
    return value


class Reads:
    """What can have been read, as it is at this moment.

    Args:
        roots: what the step starts with.
        observer: what ran.

    Attributes:
        key: all of it but values of tensors and of random keys.
        tensors, keys: these, each once.
        trouble: why it cannot be told, or "".
    """

    def __init__(self, roots: Iterable[Any], observer: Observer) -> None:
        self._entered, self._any_name = observer.entered, observer.any_name
        self._names = observer.names
        self.seen = len(observer.entered), observer.any_name
        self.tensors: list[Tensor] = []
        self.keys: list[RandomKey] = []
        self.generators: list[np.random.Generator] = []
        self.stood: list[str] = []  # where they stood
        self.trouble = ""
        self.anchors = Anchors()
        self._noted: list[Any] = []
        self._paths: list[Any] = []
        self._places: dict[int, int] = {}
        self._held: list[Any] = []  # or another could get an id
        self._found: set[int] = set()  # code whose function was met
        try:
            for root in roots:
                self._value(root, None)
            for code, scope in list(self._entered.values()):
                self._globals(code, scope)
            self._explain_all()
        except Unread as trouble:
            self.trouble = str(trouble)
        except RecursionError:
            self.trouble = "what it reads is nested too deep to be looked into"
        self.key = tuple(self._noted)
        self._held.clear()
        self.anchors.seal()
        self._arrays = [t._array for t in self.tensors]
        self._needs = [t._requires_grad for t in self.tensors]

    def hold(self) -> bool:
        """Whether all is as it was, at a glance; may be False where it is."""
        return (
            all(map(operator.is_, [t._array for t in self.tensors], self._arrays))
            and [t._requires_grad for t in self.tensors] == self._needs
            and self.anchors.hold()
        )

    def met(self, value: Any) -> bool:
        """Whether an object, which has been alive since, is among what can have been read."""
        return id(value) in self._places

    def changed_since(self, before: Reads, observer: Observer) -> str:
        """What is another than before, in words with a line; "" for nothing."""
        tensors = zip(self.tensors, before.tensors)
        moved = next((i for i, (a, b) in enumerate(tensors) if a is not b), None)
        if self.key == before.key and moved is None:
            return ""
        for i, (one, other) in enumerate(zip(self._noted, before._noted)):
            if one != other or (moved is not None and one[:2] == ("tensor", moved)):
                return self._in_words(self._paths[i], observer)
        longer = self if len(self._noted) > len(before._noted) else before
        at = min(len(self._noted), len(before._noted))
        return self._in_words(longer._paths[at] if at < len(longer._paths) else None, observer)

    def _in_words(self, path: Any, observer: Observer) -> str:
        parts: list[str] = []
        while path is not None:
            path, part = path
            parts.append(part)
        names = [part.lstrip(".") for part in parts if part.lstrip(".").isidentifier()]
        codes = [code for code, _ in observer.entered.values()]
        where = next((line for line in (lines_that_name(codes, name) for name in names) if line), "")
        shown = "".join(reversed(parts)).lstrip(".") or "something outside"
        return f"a step changes what it reads: {shown}{f' ({where})' if where else ''}"

    # --- Describing ---

    def _note(self, path: Any, *what: Any) -> None:
        if len(self._noted) > MOST:
            raise Unread(f"it reads from more than {MOST} objects, too many to look at")
        self._noted.append(what)
        self._paths.append(path)

    def _value(self, value: Any, path: Any) -> None:
        kind = type(value)
        if kind in _PLAIN:
            self._note(path, kind, value)
        elif kind is float:
            self._note(path, kind, value.hex())  # tells 0.0 from -0.0, and NaN is itself
        elif isinstance(value, Tensor):
            self._tensor(value, path)
        elif isinstance(value, RandomKey):
            self._note(path, RandomKey)
            self.keys.append(value)
        elif kind is complex or isinstance(value, np.generic):
            self._note(path, kind, repr(value))
        elif kind is slice:
            self._note(path, slice)
            for part in (value.start, value.stop, value.step):
                self._value(part, path)
        elif id(value) in self._places:
            self._note(path, "again", self._places[id(value)])
        else:
            self._places[id(value)] = len(self._places)
            self._held.append(value)
            self._object(value, kind, path)

    def _tensor(self, value: Tensor, path: Any) -> None:
        place = self._places.get(id(value))
        if place is None:
            self._places[id(value)] = place = len(self._places)
            self._note(
                path, "tensor", len(self.tensors), value.dtype.str, value.shape, value._requires_grad, value.is_leaf
            )
            self.tensors.append(value)
        else:
            self._note(path, "again", place)

    def _object(self, value: Any, kind: type, path: Any) -> None:
        if isinstance(value, types.FunctionType):
            self._function(value, path)
        elif isinstance(value, _FIXED):
            self._note(path, Same(value))
        elif isinstance(value, type):
            self._class(value, path)
        elif isinstance(value, types.ModuleType):
            self._module(value, path)
        elif isinstance(value, types.MethodType):
            self._note(path, types.MethodType)
            self._value(value.__func__, path)
            self._value(value.__self__, (path, ".__self__"))
        elif isinstance(value, functools.partial):
            self._note(path, functools.partial)
            self._value(value.func, (path, ".func"))
            self._value(value.args, (path, ".args"))
            self._value(value.keywords, (path, ".keywords"))
        elif isinstance(value, (staticmethod, classmethod)):
            self._note(path, kind)
            self._value(value.__func__, path)
        elif isinstance(value, property):
            self._note(path, kind)
            for accessor in (value.fget, value.fset):
                self._value(accessor, path)
        elif isinstance(value, np.ndarray):
            self._array(value, path)
        elif isinstance(value, np.random.Generator):
            self._note(path, Same(value))
            self.generators.append(value)
            self.stood.append(repr(value.bit_generator.state))
            if "bit_generator" in self._names:
                raise Unread(f"it reads the state of a generator, {_shown(path)}")
        elif isinstance(value, weakref.ref):
            self._note(path, weakref.ref)
            self.anchors.references.append((value, value()))
            self._value(value(), (path, "()"))
        elif isinstance(value, _CONTAINERS):
            self._container(value, kind, path)
        elif _is_the_librarys(kind):
            self._note(path, Same(value))
        elif hasattr(kind, "__next__"):
            raise Unread(f"it can move an iterator on, {_shown(path)}")
        elif _is_python_class(kind):
            self._instance(value, kind, path)
        else:
            raise Unread(f"it can read an object that cannot be looked into: {_shown(path)}, {_kind_name(kind)}")

    def _container(self, value: Any, kind: type, path: Any) -> None:
        self._note(path, Same(kind), len(value))
        if isinstance(value, (dict, types.MappingProxyType)):
            self.anchors.containers.append((value, list(elements(value))))
            for name, part in list(value.items()):
                self._value(name, path)
                self._value(part, (path, f"[{name!r}]" if isinstance(name, (str, int)) else "[...]"))
            if isinstance(value, collections.defaultdict):
                self.anchors.objects.append(value)
                self.anchors.slots.append(("default_factory", value.default_factory))
                self._value(value.default_factory, path)
        else:
            if not isinstance(value, tuple) or value:
                self.anchors.containers.append((value, list(value)))
            for i, part in enumerate(list(value)):
                self._value(part, (path, f"[{i}]"))
        if kind not in _CONTAINERS:
            if not _is_python_class(kind):
                raise Unread(f"it can read {_kind_name(kind)}, which cannot be looked into: {_shown(path)}")
            self._attributes(value, kind, path)

    def _array(self, value: Any, path: Any) -> None:
        if type(value) not in (np.ndarray, np.memmap):
            raise Unread(f"it can read a {type(value).__name__}, which cannot be looked into: {_shown(path)}")
        self._note(path, np.ndarray, digest(value), value.flags.writeable)
        self.anchors.others.append((value, digest(value)))
        if value.dtype.hasobject:
            for part in value.ravel().tolist():
                self._value(part, (path, "[...]"))

    def _function(self, value: Any, path: Any) -> None:
        op = getattr(value, "op", None)
        if not is_users(value.__code__):
            self._note(path, Same(value))
            if op is not None and not getattr(op, "own", True):  # a user's op: a function around a rule of theirs
                self._value(op.rule, (path, ".rule"))
                for of, vjp in op.vjps.items():
                    self._value(vjp.function, (path, f".vjp({of!r})"))
            return
        code = value.__code__
        self._found.add(id(code))
        if id(code) not in self._entered:
            self._note(path, Same(value))
            return
        self._note(path, "function", code)
        self.anchors.functions.append((value, code, value.__defaults__, value.__kwdefaults__))
        for defaults in (value.__defaults__, value.__kwdefaults__):
            self._value(defaults, (path, " defaults"))
        for name, cell in zip(code.co_freevars, value.__closure__ or ()):
            try:
                content = cell.cell_contents
            except ValueError:
                self._note(path, "empty")
                continue
            self.anchors.cells.append(cell)
            self.anchors.contents.append(content)
            self._value(content, (None, name))
        self._read(vars(value), path)

    def _globals(self, code: CodeType, scope: dict[str, Any]) -> None:
        for name in global_names(code):
            value = scope.get(name, _MISSING)
            if value is _MISSING:
                self._note(None, "builtin", name)
                self.anchors.absent.append((scope, name))
            else:
                self.anchors.read(scope, name, value)
                self._value(value, (None, name))
        for name in imported_names(code):
            module = sys.modules.get(name)
            if module is None:
                raise Unread(f"it imports {name!r} while it runs")
            self._value(module, (None, name))

    def _module(self, value: types.ModuleType, path: Any) -> None:
        self._note(path, Same(value))
        name = value.__name__
        if name.startswith("numpy.random"):
            raise Unread("it can draw from numpy.random, which no kernel does")
        scope = vars(value)
        for name in sorted(self._names & scope.keys()):
            self.anchors.read(scope, name, scope[name])
            self._value(scope[name], (path, f".{name}"))

    def _class(self, value: type, path: Any) -> None:
        self._note(path, Same(value))
        if _is_the_librarys(value):
            return
        if type(value) is not type and _is_python_class(type(value)):
            self._value(type(value), path)
        self.anchors.classes.append(value)
        self.anchors.orders.append(value.__mro__)
        for of in value.__mro__:
            if of.__module__ == "builtins" or not _is_python_class(of):
                continue
            if of is not value:
                if id(of) in self._places:
                    continue
                self._places[id(of)] = len(self._places)
            scope = of.__dict__
            self.anchors.dicts.append(scope)
            self.anchors.keys.append(list(scope))
            for name, part in scope.items():
                if name in self._names or self._any_name or _is_entered(part, self._entered):
                    if name in ("__dict__", "__weakref__", "__doc__", "__module__", "__annotations__"):
                        continue
                    self.anchors.read(scope, name, part)
                    self._value(part, (path, f".{name}"))

    def _instance(self, value: Any, kind: type, path: Any) -> None:
        # Modules are copied when a sequence starts, with masks of their own: what is read of them must be the same.
        self._note(path, "module" if hasattr(kind, "_compared_by_parts") else Same(value), Same(kind))
        for number in _NUMBERS:
            if isinstance(value, number):
                self._value(number(value), path)
        self._attributes(value, kind, path)

    def _attributes(self, value: Any, kind: type, path: Any) -> None:
        if id(kind) not in self._places:
            self._places[id(kind)] = len(self._places)
            self._class(kind, (None, kind.__name__))
        self.anchors.instances.append(value)
        self.anchors.kinds.append(kind)
        own = getattr(value, "__dict__", None)
        if own is not None:
            self.anchors.owners.append(value)
            self.anchors.owned.append(own)
            self._read(own, path)
        for of in kind.__mro__:
            slots = of.__dict__.get("__slots__", ())
            for name in (slots,) if isinstance(slots, str) else slots:
                if (self._any_name or name in self._names) and name not in ("__dict__", "__weakref__"):
                    hidden = f"_{of.__name__.lstrip('_')}{name}" if name.startswith("__") else name
                    part = getattr(value, hidden, _MISSING)
                    self.anchors.objects.append(value)
                    self.anchors.slots.append((hidden, part))
                    self._note(path, "slot", name, part is not _MISSING)
                    if part is not _MISSING:
                        self._value(part, (path, f".{name}"))

    def _read(self, own: dict[str, Any], path: Any) -> None:
        """The attributes that have names which the code has."""
        if not own:
            self.anchors.dicts.append(own)
            self.anchors.keys.append([])
            return
        self.anchors.dicts.append(own)
        self.anchors.keys.append(list(own))
        for name, part in list(own.items()):
            if self._any_name or name in self._names:
                self._note(path, "attribute", name)
                self.anchors.read(own, name, part)
                self._value(part, (path, f".{name}"))

    def _explain_all(self) -> None:
        """See that the function of all code entered was met, or made inside: else it may hold what was not seen."""
        known = set(self._found)
        for code, _ in self._entered.values():
            closed = not code.co_freevars and is_pythons_file(code.co_filename)  # it holds nothing but its globals
            if id(code) in known or closed or code.co_filename.startswith(LIBRARY):
                known.update([id(code), *map(id, inner_code(code))])
        for code, _ in self._entered.values():
            if id(code) not in known:
                raise Unread(
                    f"it runs {code.co_name} ({_file(code)}), which it reaches in a way that cannot be followed"
                )


def _file(code: CodeType) -> str:
    return f"{code.co_filename.rpartition('/')[2]}, line {code.co_firstlineno}"


def _shown(path: Any) -> str:
    parts: list[str] = []
    while path is not None:
        path, part = path
        parts.append(part)
    return "".join(reversed(parts)).lstrip(".") or "what it starts with"


def _kind_name(kind: type) -> str:
    return f"a {kind.__module__}.{kind.__qualname__}"


def _is_entered(value: Any, entered: Mapping[int, Any]) -> bool:
    """Whether an entry of a class is a function, or made of functions, whose code ran."""
    if isinstance(value, property):
        return any(_is_entered(f, entered) for f in (value.fget, value.fset) if f is not None)
    value = getattr(value, "__func__", value)
    value = getattr(value, "func", value) if isinstance(value, functools.cached_property) else value
    return id(getattr(value, "__code__", None)) in entered


@functools.lru_cache(4096)
def _is_the_librarys(kind: type) -> bool:
    module = kind.__module__ or ""
    return module.startswith("tinygrad_rnn.") and not module.startswith("tinygrad_rnn.nn")


@functools.lru_cache(4096)
def _is_python_class(kind: type) -> bool:
    """Whether instances hold nothing but what Python can show: the class and its bases are written in Python."""
    hidden = (types.MethodDescriptorType, types.GetSetDescriptorType, types.MemberDescriptorType)
    for of in kind.__mro__:
        if of in _SHOWN:
            continue
        if of.__module__ == "builtins":
            return False
        slots = of.__dict__.get("__slots__", ())
        allowed = {"__dict__", "__weakref__", *((slots,) if isinstance(slots, str) else slots)}
        mangled = {f"_{of.__name__.lstrip('_')}{name}" for name in allowed}
        if any(
            isinstance(v, hidden) and n not in allowed | mangled and v.__objclass__ is of for n, v in vars(of).items()
        ):
            return False
    return True
