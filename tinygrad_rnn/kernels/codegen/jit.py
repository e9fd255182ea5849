"""The one door to Numba: options, disk cache, fallback, and the switch to the NumPy references.

A kernel is a text. Its file in the cache folder is named by the hash of all that it is made from, so an edited kernel
is another file, and Numba's own cache beside it never goes stale (it does not notice edits in imported files).
Nothing is compiled, and Numba is not imported, before a kernel is first called; with TINYGRAD_RNN_JIT=0 that never
happens.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.util
import inspect
import os
import platform
import re
import sys
import tempfile
import threading
import types
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ... import settings
from ..runtime.locks import lock_across_forks

# Not `reassoc`: it folds the rounding trick of scalar.py. Not `nnan`, `ninf`: NaN must stay NaN.
_HEADER = """\
from __future__ import annotations

import math
import numba
import numpy as np
from tinygrad_rnn.kernels.codegen.intrinsics import exponent, is_single, like, pick, power_of_two
{more}

OPTIONS = dict(fastmath={"contract", "nsz"}, error_model="numpy")
scalar = numba.njit(**OPTIONS)
"""
_HEADER, _BY_ADDRESS = (
    _HEADER.replace("{more}\n", ""),
    _HEADER.replace(
        "{more}",
        "from tinygrad_rnn.kernels.codegen.pointers import (\n"
        "    add_shared, array_at, call, load, number, origin, read_shared, replace_shared, store, summed,\n"
        "    write, write_shared)\n"
        "from tinygrad_rnn.kernels.codegen.gemm_tile import PANEL, WIDEST, move, multiply_tile, turn_tile",
    ),
)

#: Held during what a fork must not interrupt: a child would inherit Numba's lock, or the loader's, in use.
lock = lock_across_forks()
_announced = False
_warned = False


class _Trying(threading.local):
    now = False


_trying = _Trying()


@contextlib.contextmanager
def nothing_compiled() -> Iterator[None]:
    """Inside, a kernel that is not compiled yet runs as its reference, for when only the order of things matters."""
    outer, _trying.now = _trying.now, True
    try:
        yield
    finally:
        _trying.now = outer


class Kernel:
    """A compiled function that compiles itself when first called; `call` is what to call.

    Args:
        name: an identifier, the function's name in its text.
        text: source of a module that defines it, with `{cache}` where Numba's `cache=` belongs.
        reference: the same on plain NumPy, called instead where the jit is off.
        result: takes the function out of the module.
    """

    __slots__ = ("call", "name", "reference", "result", "text")

    def __init__(self, name: str, text: str, reference: Callable[..., Any], result: Callable[[Any], Any]) -> None:
        self.name, self.text, self.reference, self.result = name, text, reference, result
        self.call: Callable[..., Any] = self._first if settings.jit_enabled else reference

    def _first(self, *arguments: Any) -> Any:
        if _trying.now:
            return self.reference(*arguments)
        with lock:
            if self.call == self._first:
                self.call = self.result(getattr(load(self.name, _HEADER + self.text), self.name))
        return self.call(*arguments)


def plain(name: str, function: Callable[..., Any]) -> Kernel:
    """A kernel with nothing to compile."""
    kernel = Kernel(name, "", function, lambda compiled: compiled)
    kernel.call = function
    return kernel


def ufunc(name: str, source: str, signature: str, reference: Callable[..., Any]) -> Kernel:
    """A kernel over broadcast arrays, for float32 and float64: a true NumPy ufunc.

    Both dtypes are compiled together: with only float64 there, NumPy would widen a float32 silently.

    Args:
        name: the function's name in `source`.
        source: its text, `def name(...)` and what it calls; scalars in, a scalar out.
        signature: Numba's, with `F` for the floating type: `F(F,F)`.
        reference: the same on plain NumPy.
    """
    signatures = [signature.replace("F", letter) for letter in ("f4", "f8")]
    head, own = source.rsplit("\ndef ", 1) if "\ndef " in source else ("", source.removeprefix("def "))
    text = f"{head}\n@numba.vectorize({signatures}, cache={{cache}}, fastmath=OPTIONS['fastmath'])\ndef {own}"
    return Kernel(name, text, reference, lambda compiled: compiled.ufunc)


def loop(
    *signatures: str, reference: Callable[..., Any], needs: Iterable[Any] = ()
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Compile the decorated function when it is first called.

    Arrays are made writable, C-contiguous and aligned first (outputs must be so already), or each layout would compile
    anew.

    Args:
        signatures: Numba's, with `F` for the floating type, which then stands for float32 and float64.
        reference: the same on plain NumPy.
        needs: primitives of `scalar.py` that it calls.
    """

    def declare(function: Callable[..., Any]) -> Callable[..., Any]:
        lines = inspect.getsource(function).splitlines()
        start = next(i for i, line in enumerate(lines) if line.startswith("def "))
        wanted = [s.replace("F", letter) for s in signatures for letter in (("f4", "f8") if "F" in s else ("",))]
        head = "\n".join(dict.fromkeys(source for primitive in needs for source in primitive.sources))
        njit = f"@numba.njit({wanted}, cache={{cache}}, nogil=True, **OPTIONS)"
        text = "\n".join([head, njit, *lines[start:], ""])
        kernel = Kernel(function.__name__, text, reference, lambda compiled: compiled)

        @functools.wraps(function)
        def wrapper(*arguments: Any) -> Any:
            return kernel.call(*[_prepared(a) if type(a) is np.ndarray else a for a in arguments])

        return wrapper

    return declare


def library(
    name: str, functions: Iterable[Callable[..., Any]], constants: dict[str, Any], called: Iterable[str] = ()
) -> Callable[[], Any]:
    """What gives functions of integers (addresses, sizes), compiled together when it is first called.

    Args:
        name: the library's.
        functions: each before those that call it.
        constants: names that their texts use, and the texts of what these stand for. Those that are no identifiers,
            `Head.STEPS`, are replaced by that.
        called: those called from Python. Without any, the last one is called by its `address`.
    """

    @functools.cache
    def compiled() -> Any:
        lines = [f"{constant} = {value}" for constant, value in constants.items() if constant.isidentifier()]
        dotted = {constant: str(value) for constant, value in constants.items() if not constant.isidentifier()}
        spelled = re.compile("|".join(rf"(?<![\w.]){re.escape(name)}(?!\w)" for name in dotted))
        for function in functions:
            source = inspect.getsource(function)
            result = "intp" if inspect.signature(function).return_annotation in (int, "int") else "void"
            signature = f"{result}({','.join(['intp'] * len(inspect.signature(function).parameters))})"
            if function.__name__ in called:
                lines.append(f"@numba.njit(['{signature}'], nogil=True, cache={{cache}}, **OPTIONS)")
            elif not called and function is list(functions)[-1]:
                lines.append(f"@numba.cfunc('{signature}', cache={{cache}}, **OPTIONS)")
            else:
                lines.append("@numba.njit(**OPTIONS)")
            lines.append(spelled.sub(lambda found: dotted.get(found[0], ""), source))
        return load(name, _BY_ADDRESS + "\n".join(lines))

    return compiled


def rows(
    name: str, sources: Iterable[str], text: str, functions: Iterable[str], dtype: str, numbers: int
) -> dict[str, int]:
    """Compile functions on rows, and return the address of each.

    Args:
        name: of the file that keeps them.
        sources: of the functions of numbers that they call, each before those that call it.
        text: their source: functions (table, step, within, first, last, part) marked `@rows`.
        functions: their names.
        dtype: of the numbers in rows, "float32" or "float64".
        numbers: where in the table the sizes stand.
    """
    head = [f"ZERO = np.{dtype}(0.0)", f"NUMBERS = {numbers}"]
    head.append("rows = numba.cfunc('void(intp,intp,intp,intp,intp,intp)', cache={cache}, **OPTIONS)")
    module = load(name, _BY_ADDRESS + "\n".join([*shared(sources), *head, "", text]))
    return {function: getattr(module, function).address for function in functions}


def shared(sources: Iterable[str]) -> list[str]:
    """Imports of functions of numbers, each from a module of its own: a process compiles it once for all who call it.

    The module's name has the hash of its text in it, so that the hash of who imports it covers it too.
    """
    imports: dict[str, str] = {}
    for source in sources:
        name = source.partition("def ")[2].partition("(")[0]
        called = [line for other, line in imports.items() if re.search(rf"\b{other}\b", source)]
        text = _HEADER + "\n".join([*called, "", source])
        module = _named(name, text)
        with lock:
            if module not in sys.modules:
                _executed(module, text)
        imports[name] = f"from {module} import {name}"
    return list(imports.values())


def _prepared(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """`array` itself where it is writable, C-contiguous, aligned and of native byte order, else a copy that is."""
    if array.flags.carray and array.dtype.isnative:
        return array
    return np.array(array, array.dtype.newbyteorder("="), order="C")


@contextlib.contextmanager
def _unprofiled() -> Iterator[None]:
    """Inside, no profile function sees what Numba does: it is nothing that the code around asked for."""
    outer = sys.getprofile()
    if outer is None or not callable(outer):
        yield
        return
    sys.setprofile(None)
    try:
        yield
    finally:
        sys.setprofile(outer)


@_unprofiled()
def load(name: str, text: str) -> Any:
    """Compile the module `text` or take it from the cache, and return it.

    Trouble with the cache costs one warning at most.
    """
    module_name = _named(name, text)
    file_name = f"{module_name.rpartition('.')[2]}.py"
    text = f'"""Compiled by tinygrad_rnn; named by the hash of its content, so never edited."""\n\n{text}'
    with lock:
        if module_name in sys.modules:
            return sys.modules[module_name]
        path = _written(file_name, text.replace("{cache}", "True"))
        if path is None:
            _announce(None)
            return _executed(module_name, text.replace("{cache}", "False"))
        cached = list(path.parent.glob(f"__pycache__/{path.stem}*"))
        if not cached:
            _announce(path.parent)
            return _imported(module_name, path)
        try:
            return _imported(module_name, path)
        except Exception as trouble:
            _warn(f"a damaged file among the compiled kernels was thrown away ({type(trouble).__name__})")
            for stale in cached:
                with contextlib.suppress(OSError):
                    stale.unlink()
        return _imported(module_name, path)


def _named(name: str, text: str) -> str:
    """The name of the module `text`, with the hash of all that it is made from."""
    return f"tinygrad_rnn_kernels.{name}_{hashlib.sha256(repr((text, _fingerprint())).encode()).hexdigest()[:20]}"


@functools.cache
def _fingerprint() -> tuple[str, ...]:
    """All that a kernel is made from besides its own text."""
    import numba

    here = Path(__file__).parent
    sources = [
        (here / name).read_text(encoding="utf-8")
        for name in ("intrinsics.py", "pointers.py", "gemm_tile.py", "../runtime/table.py")
    ]
    return (*sources, numba.__version__, np.__version__, platform.python_version(), platform.machine())


def _written(file_name: str, text: str) -> Path | None:
    """The path of the cache file holding `text`, written if need be; None where the cache cannot be written."""
    try:
        folder = settings.cache_folder()
        path = folder / file_name
        if path.exists() and path.read_text(encoding="utf-8", errors="replace") == text and _writable(folder):
            return path
        (folder / "__pycache__").mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=folder, suffix=".tmp")
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
            # Linking never replaces a file that another process made meanwhile: Numba stamps its cache by the file's
            # time.
            if path.exists() and path.read_text(encoding="utf-8", errors="replace") != text:
                path.unlink()
            with contextlib.suppress(FileExistsError):
                os.link(temporary, path)
        finally:
            os.unlink(temporary)
        return path
    except (OSError, RuntimeError) as trouble:  # RuntimeError: the user has no home
        _warn(f"the folder of compiled kernels cannot be written, so they are compiled each time ({trouble})")
        return None


def _writable(folder: Path) -> bool:
    """True where Numba may write beside the kernel's file, or has nothing more to write."""
    return os.access(folder / "__pycache__", os.W_OK)


def _imported(module_name: str, path: Path) -> Any:
    specification = importlib.util.spec_from_file_location(module_name, path)
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[module_name] = module  # before it runs, or the next process finds no module '<dynamic>' in the cache
    try:
        specification.loader.exec_module(module)
    except BaseException:
        del sys.modules[module_name]
        raise
    return module


def _executed(module_name: str, text: str) -> Any:
    """The module without any file: compiled for this process only."""
    module = types.ModuleType(module_name)
    sys.modules[module_name] = module
    try:
        exec(compile(text, f"<{module_name}>", "exec"), module.__dict__)
    except BaseException:
        del sys.modules[module_name]  # or the next call would find half of it
        raise
    return module


def _announce(folder: Path | None) -> None:
    """Say once that compiling takes a moment."""
    global _announced
    if not _announced and sys.stderr is not None:
        _announced = True
        where = f"kept in {folder}" if folder is not None else "for this run only"
        print(f"tinygrad_rnn: compiling kernels for the first time, some seconds ({where})", file=sys.stderr)


def _warn(message: str) -> None:
    global _warned
    if not _warned:
        _warned = True
        warnings.warn(f"tinygrad_rnn: {message}", RuntimeWarning, stacklevel=2)
