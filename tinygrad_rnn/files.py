"""Tensors in files: safetensors, never pickle. A file is either whole or untouched."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .autograd.tensor import Tensor
from .errors import ArgumentError, FileError

_STRUCTURE = "tinygrad_rnn.structure"
_KNOWN = {"BOOL", "F16", "F32", "F64", *(f"{sign}{bits}" for sign in "IU" for bits in (8, 16, 32, 64))}


def save(state: Any, path: str | os.PathLike[str], metadata: Mapping[str, str] | None = None) -> None:
    """Write `state` to a safetensors file: beside it first, flushed to the disk, then renamed into place.

    Args:
        state: a dictionary from names to tensors or arrays, such as `module.state_dict()`; or any pytree of
            dictionaries, lists, numbers, strings and tensors, such as `optimizer.state_dict()`.
        path: the file.
        metadata: strings by name, kept in the file's header.

    Raises:
        ArgumentError: for something that is neither, or arrays that are not of numbers.
        FileError: where the file cannot be written; one that was there before is untouched.
    """
    from safetensors.numpy import save as to_bytes

    arrays: dict[str, np.ndarray[Any, Any]] = {}
    header = {str(key): str(value) for key, value in (metadata or {}).items()}
    if _STRUCTURE in header:
        raise ArgumentError(f"save: the name {_STRUCTURE} is taken", hint="another name in metadata")
    if isinstance(state, Mapping) and all(
        isinstance(k, str) and k != "__metadata__" and isinstance(v, (Tensor, np.ndarray)) for k, v in state.items()
    ):
        arrays = {name: _contiguous(value, name) for name, value in state.items()}
    else:
        header[_STRUCTURE] = json.dumps(_opened(state, "", arrays))
    write_whole(path, to_bytes(arrays, header or None))


def load(path: str | os.PathLike[str]) -> tuple[Any, dict[str, str]]:
    """Read what `save` wrote, or any safetensors file: (state, metadata), with tensors in the state.

    float16 is widened to float32.

    Raises:
        FileError: for a file that is missing, damaged or no safetensors file, or holds another dtype (bfloat16).
    """
    from safetensors import SafetensorError, safe_open

    if not os.path.isfile(path):
        what = "a folder, not a file" if os.path.isdir(path) else "no such file"
        raise FileError(f"load: {what}: {os.fspath(path)}")
    try:
        with safe_open(os.fspath(path), framework="numpy") as file:
            metadata = dict(file.metadata() or {})
            for name in file.keys():  # noqa: SIM118
                if (dtype := file.get_slice(name).get_dtype()) not in _KNOWN:
                    raise FileError(f"load: {name} in {os.fspath(path)} has a dtype unknown here", got=dtype)
            tensors = {name: _widened(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118
    except FileError:
        raise
    except (SafetensorError, OSError) as trouble:
        raise FileError(f"load: not a whole safetensors file: {os.fspath(path)}", got=str(trouble)) from None
    structure = metadata.pop(_STRUCTURE, None)
    try:
        return (_closed(json.loads(structure), tensors) if structure is not None else tensors), metadata
    except (ValueError, KeyError, TypeError):
        raise FileError(f"load: the header's {_STRUCTURE} is damaged: {os.fspath(path)}") from None


def write_whole(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a file so that whoever looks, even after a crash, finds the old one whole or the new one whole.

    Raises:
        FileError: where it cannot be written.
    """
    target = Path(os.path.realpath(path))  # a link stays a link
    try:
        descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            mask = os.umask(0)
            os.umask(mask)
            os.chmod(temporary, 0o666 & ~mask)
            os.replace(temporary, target)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        if hasattr(os, "O_DIRECTORY"):  # the rename itself is safe once the folder is on the disk
            folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                with contextlib.suppress(OSError):  # not every file system can; the new file stands already
                    os.fsync(folder)
            finally:
                os.close(folder)
    except OSError as trouble:
        raise FileError(f"save: cannot write {target}: {trouble.strerror or trouble}") from None


def _contiguous(value: Any, name: str) -> np.ndarray[Any, Any]:
    """A copy that safetensors does not scramble."""
    array = np.array(value, order="C")
    if array.dtype.kind not in "fiub" or array.itemsize > 8:
        raise ArgumentError("save: this cannot be saved", expected="numbers", got=f"{array.dtype} at {name}")
    return array


def _widened(array: np.ndarray[Any, Any]) -> Tensor:
    return Tensor(array.astype(np.float32) if array.dtype == np.float16 else np.array(array))


def _opened(value: Any, name: str, arrays: dict[str, np.ndarray[Any, Any]]) -> Any:
    """The pytree as JSON, its tensors moved to `arrays` under the names of their places."""
    if isinstance(value, (Tensor, np.ndarray)):
        while name in arrays or name == "__metadata__":  # {"a": {"b": ...}, "a/b": ...}
            name += "'"
        arrays[name] = _contiguous(value, name)
        return {"tensor": name}
    below = f"{name}/" if name else ""
    if isinstance(value, Mapping):
        pairs = [[key, _opened(part, f"{below}{key}", arrays)] for key, part in value.items()]
        if any(not isinstance(key, (str, int)) for key, _ in pairs):
            raise ArgumentError("save: a key is neither a string nor a whole number", got=name or "at the top")
        return {"dict": pairs}
    if isinstance(value, (list, tuple)):
        parts = [_opened(part, f"{below}{i}", arrays) for i, part in enumerate(value)]
        return {"tuple" if isinstance(value, tuple) else "list": parts}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, np.generic) and value.dtype.kind in "fiub":
        return float(value) if value.dtype.kind == "f" else value.item()
    raise ArgumentError(
        "save: this cannot be saved",
        expected="tensors, arrays, numbers, strings, and dictionaries and lists of them",
        got=f"{type(value).__name__} at {name or 'the top'}",
    )


def _closed(value: Any, tensors: dict[str, Tensor]) -> Any:
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {key: _closed(part, tensors) for key, part in content}
    return {"tuple": tuple, "list": list}[kind](_closed(part, tensors) for part in content)
