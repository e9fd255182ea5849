"""Python itself, watched while a step runs: the code that was entered, and the C functions that were called.

`sys.setprofile` tells both. A code object names the globals, closures and attributes that it can read or write, so the
code entered bounds what the step can have touched; `reads.py` follows these names from what the step starts with. What
a C function reads is not seen: those that depend only on what they are given are known here, any other is trouble.
"""

from __future__ import annotations

import collections
import dis
import functools
import gc
import sys
import types
from collections.abc import Iterable
from pathlib import Path
from types import CodeType
from typing import Any

import numpy as np

from .line import LIBRARY, line_of

#: Files whose code is the library's engine, or of what that stands on: they read nothing but what they are given.
_PACKAGES = [str(Path(np.__file__).parent.parent / name) for name in ("numpy", "numba", "llvmlite", "scipy")]
_TRUSTED = (LIBRARY, *_PACKAGES, "<tinygrad_rnn", "<frozen importlib", "<__array_function__")
#: Of these, what calls nothing of the user's: whatever runs below is an errand of its own.
_OWN_ERRANDS = ("<frozen importlib", str(Path(LIBRARY) / "kernels"))
#: The modules of what Python makes as text for named tuples and for the library's data classes.
_GENERATED = ("namedtuple_", "tinygrad_rnn.")
#: Python's own library: it belongs to whoever calls it.
_PYTHONS = (str(Path(dis.__file__).parent), "<frozen ")
#: Cells and layers are Python like the user's own.
_LIKE_USERS = str(Path(LIBRARY) / "nn")

#: Builtins whose result depends on their arguments only, or that only make an object.
_BUILTINS = frozenset({
    "__build_class__", "abs", "all", "any", "ascii", "bin", "callable", "chr", "delattr", "dir", "divmod", "format",
    "getattr", "hasattr", "hash", "hex", "id", "isinstance", "issubclass", "iter", "len", "max", "min", "next", "oct",
    "ord", "pow", "repr", "round", "setattr", "sorted", "sum", "vars",
})  # fmt: skip
#: Of these, what looks at names that no code object tells.
_ANY_NAME = frozenset({"getattr", "hasattr", "dir", "vars", "setattr", "delattr"})
#: Modules of C functions that depend on their arguments only.
_MODULES = frozenset({
    "math", "cmath", "_operator", "operator", "_functools", "functools", "itertools", "_collections", "collections",
    "_abc", "_typing", "numpy", "numpy._core._multiarray_umath", "_struct", "binascii", "zlib", "_bisect", "_heapq",
    "_statistics", "_weakref",
})  # fmt: skip
#: Types whose methods read and change nothing but their own object.
_TYPES: tuple[Any, ...] = (
    str, bytes, bytearray, int, float, complex, tuple, list, dict, set, frozenset, range, slice, type(None), memoryview,
    collections.deque, collections.OrderedDict, collections.defaultdict, types.MappingProxyType, property,
    type({}.keys()), type({}.values()), type({}.items()), np.ndarray, np.generic, np.dtype, BaseException,
)  # fmt: skip
#: Methods that change their object.
_CHANGING = frozenset({
    "append", "appendleft", "extend", "extendleft", "insert", "pop", "popleft", "popitem", "remove", "clear", "add",
    "discard", "update", "setdefault", "sort", "reverse", "rotate", "__setitem__", "__delitem__", "fill", "put",
})  # fmt: skip
#: Methods of classes that make an instance or look one up.
_OF_CLASSES = frozenset({"__new__", "__init__", "__setattr__", "__getattribute__", "__init_subclass__", "fromkeys",
                         "from_bytes", "mro", "__prepare__", "__subclasshook__", "__instancecheck__", "__reduce_ex__",
                         "__format__", "__contains__", "__getitem__", "maketrans", "fromhex", "__sizeof__",
                         "__setstate__", "__getstate__", "__subclasscheck__"})  # fmt: skip


class Unread(Exception):
    """What a step reads, or does, cannot be looked into."""


class Observer:
    """Watches this thread inside a `with` block.

    Attributes:
        entered: the code objects entered that are not the library's engine, by identity, each with its globals.
        names: every name that they load or store: attributes and globals.
        any_name: whether attributes were looked up by names that are made while it runs.
        trouble: the first call that cannot be looked into, in words with its line, or "".
        stored: where something was first stored that is no local variable, or may be none, or "".
        changed: the containers that methods changed, each with the line.
    """

    def __init__(self) -> None:
        self.entered: dict[int, tuple[CodeType, dict[str, Any]]] = {}
        self.names: set[str] = set()
        self.any_name = False
        self.trouble = self.stored = ""
        self.changed: list[tuple[Any, str]] = []
        self._outer: Any = None
        self._collects = False

    def __enter__(self) -> Observer:
        self._outer = sys.getprofile()
        if self._outer is not None and not callable(self._outer):
            self._outer.disable()  # cProfile's: it is no function, and cannot be called on
        # Objects that die elsewhere must not run their own code in between.
        self._collects = gc.isenabled()
        gc.disable()
        sys.setprofile(self._see)
        return self

    def __exit__(self, *trouble: object) -> None:
        if self._outer is not None and not callable(self._outer):
            sys.setprofile(None)
            self._outer.enable()
        else:
            sys.setprofile(self._outer)
        if self._collects:
            gc.enable()

    def _see(self, frame: Any, event: str, argument: Any) -> None:
        code = frame.f_code
        if event == "call":
            if id(code) not in self.entered and _is_for_user(frame):
                self.entered[id(code)] = code, frame.f_globals
                self.names.update(code.co_names)
                self.any_name |= "__dict__" in code.co_names
                if not self.stored and not code.co_filename.startswith(LIBRARY):
                    self.stored = _stores(code)
        elif event == "c_call" and id(code) in self.entered and _is_for_user(frame):
            self._called(argument, frame)
        if callable(self._outer):
            self._outer(frame, event, argument)

    def _called(self, function: Any, frame: Any) -> None:
        name, owner = getattr(function, "__name__", "?"), getattr(function, "__self__", None)
        if name in _ANY_NAME and getattr(owner, "__name__", "") == "builtins":
            self.any_name = True
        if name in _CHANGING and isinstance(owner, _TYPES):
            self.changed.append((owner, line_of(frame)))
        if not self.trouble and not _is_pure(function, name, owner):
            self.trouble = (
                f"it calls {_called_name(function, name, owner)}, which cannot be looked into ({line_of(frame)})"
            )


def is_users(code: CodeType) -> bool:
    """Whether code may read and write what is the user's."""
    return _is_users_file(code.co_filename)


def _is_for_user(frame: Any) -> bool:
    """Whether a frame runs a user's code, or Python's own library on its behalf."""
    while frame is not None and is_pythons_file(frame.f_code.co_filename):
        frame = frame.f_back
    if frame is None or not is_users(frame.f_code):
        return frame is None
    module = str(frame.f_globals.get("__name__", ""))
    if frame.f_code.co_filename.startswith("<") and module.startswith(_GENERATED) and ".nn" not in module:
        return False
    while frame is not None and not frame.f_code.co_filename.startswith(_TRUSTED):
        frame = frame.f_back
    return frame is None or not frame.f_code.co_filename.startswith(_OWN_ERRANDS)


@functools.lru_cache(4096)
def is_pythons_file(name: str) -> bool:
    return name.startswith(_PYTHONS) and "-packages" not in name and not name.startswith(_TRUSTED)


@functools.lru_cache(4096)
def _is_users_file(name: str) -> bool:
    if f"tinygrad_rnn_kernels.{Path(name).stem}" in sys.modules:
        return False  # a compiled kernel, which Numba shows as a frame
    return name.startswith(_LIKE_USERS) or not name.startswith(_TRUSTED)


def _is_pure(function: Any, name: str, owner: Any) -> bool:
    if owner is None:
        return getattr(function, "__module__", None) in _MODULES or isinstance(
            function, (types.MethodDescriptorType, types.WrapperDescriptorType)
        )
    if isinstance(owner, types.ModuleType):
        if owner.__name__ == "builtins":
            return name in _BUILTINS
        return owner.__name__ in _MODULES or getattr(function, "__module__", None) in _MODULES
    if isinstance(owner, type):
        return name in _OF_CLASSES
    return isinstance(owner, _TYPES) or name in _OF_CLASSES or isinstance(owner, types.GeneratorType)


def _called_name(function: Any, name: str, owner: Any) -> str:
    if isinstance(owner, types.ModuleType):
        return name if owner.__name__ in ("builtins", "_io") else f"{owner.__name__}.{name}"
    if owner is None:
        return str(getattr(function, "__qualname__", name))
    return f"{owner.__name__ if isinstance(owner, type) else type(owner).__name__}.{name}"


@functools.lru_cache(4096)
def global_names(code: CodeType) -> tuple[str, ...]:
    """The globals and builtins that code names."""
    return tuple(
        dict.fromkeys(i.argval for i in dis.get_instructions(code) if "GLOBAL" in i.opname or "NAME" in i.opname[-5:])
    )


@functools.lru_cache(4096)
def imported_names(code: CodeType) -> tuple[str, ...]:
    """The modules that code imports while it runs."""
    return tuple(dict.fromkeys(i.argval for i in dis.get_instructions(code) if i.opname == "IMPORT_NAME"))


def inner_code(code: CodeType) -> tuple[CodeType, ...]:
    """The code of functions that are made inside, to any depth: these objects, and not others that are equal."""
    found: list[CodeType] = []
    stack = [code]
    while stack:
        for constant in stack.pop().co_consts:
            if isinstance(constant, CodeType):
                found.append(constant)
                stack.append(constant)
    return tuple(found)


def _stores(code: CodeType) -> str:
    """The line at which code stores to what is no variable of its own; "" for none."""
    line = code.co_firstlineno
    for instruction in dis.get_instructions(code):
        line = _line_of(instruction, line)
        own = instruction.opname == "STORE_DEREF" and instruction.argval not in code.co_freevars
        if instruction.opname.startswith(_STORING) and not own:
            return f"{Path(code.co_filename).name}, line {line}"
    return ""


_STORING = ("STORE_ATTR", "STORE_GLOBAL", "STORE_SUBSCR", "STORE_DEREF", "STORE_SLICE", "DELETE_ATTR", "DELETE_SUBSCR",
            "DELETE_GLOBAL", "DELETE_DEREF")  # fmt: skip


def _line_of(instruction: Any, before: int) -> int:
    """The line of an instruction, where the one before it is of this line."""
    starts = instruction.starts_line  # a line, or from Python 3.13 on whether one starts
    if isinstance(starts, bool):
        return int(instruction.line_number) if starts and instruction.line_number else before
    return starts if starts is not None else before


def lines_that_name(codes: Iterable[CodeType], name: str) -> str:
    """The first line of some code that stores under a name, or else that loads from it; "" where none does."""
    found = ""
    for code in codes:
        line = code.co_firstlineno
        for instruction in dis.get_instructions(code):
            line = _line_of(instruction, line)
            if instruction.argval == name and isinstance(instruction.argval, str):
                where = f"{Path(code.co_filename).name}, line {line}"
                if instruction.opname.startswith(("STORE", "DELETE")):
                    return where
                found = found or where
    return found
