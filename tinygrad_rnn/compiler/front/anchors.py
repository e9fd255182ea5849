"""Where values stand that a step can have read: a quick look whether all of it is still there."""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Mapping
from typing import Any

import numpy as np

_MISSING = object()


class Anchors:
    """Where the values stand that were read, and what they were: a quick look whether all of it is still there."""

    def __init__(self) -> None:
        self.mappings: list[Any] = []
        self.names: list[Any] = []
        self.values: list[Any] = []
        self.dicts: list[Any] = []
        self.keys: list[list[Any]] = []
        self.absent: list[tuple[Any, str]] = []
        self.cells: list[Any] = []
        self.contents: list[Any] = []
        self.functions: list[tuple[Any, Any, Any, Any]] = []
        self.containers: list[tuple[Any, list[Any]]] = []
        self.others: list[tuple[Any, Any]] = []
        self.objects: list[Any] = []
        self.slots: list[tuple[str, Any]] = []
        self.instances: list[Any] = []
        self.kinds: list[type] = []
        self.owners: list[Any] = []
        self.owned: list[Any] = []
        self.references: list[tuple[Any, Any]] = []
        self.classes: list[type] = []
        self.orders: list[Any] = []

    def read(self, mapping: Any, name: Any, value: Any) -> None:
        """The value was read under a name."""
        self.mappings.append(mapping)
        self.names.append(name)
        self.values.append(value)

    def seal(self) -> None:
        """Leave out what there is none of: a look is taken at each call of a layer."""
        same = [
            (operator.getitem, (self.mappings, self.names), self.values),
            (type, (self.instances,), self.kinds),
            (_dict_of, (self.owners,), self.owned),
            (_order_of, (self.classes,), self.orders),
            (_contents, (self.cells,), self.contents),
            (_slot_of, (self.objects, [slot for slot, _ in self.slots]), [part for _, part in self.slots]),
            (_target_of, ([reference for reference, _ in self.references],), [was for _, was in self.references]),
            (_code_of, ([f for f, *_ in self.functions],), [code for _, code, _, _ in self.functions]),
            (_defaults_of, ([f for f, *_ in self.functions],), [defaults for *_, defaults, _ in self.functions]),
            (_named_defaults_of, ([f for f, *_ in self.functions],), [named for *_, named in self.functions]),
        ]
        self._same: list[Any] = [entry for entry in same if entry[2]]

    def hold(self) -> bool:
        """Whether everything is what it was, each thing itself."""
        try:
            for look, columns, values in self._same:
                if not all(map(operator.is_, map(look, *columns), values)):
                    return False
            if not all(map(operator.eq, map(list, self.dicts), self.keys)):
                return False
            for mapping, name in self.absent:
                if name in mapping:
                    return False
            for container, was in self.containers:
                now = elements(container)
                if len(now) != len(was) or not all(map(operator.is_, now, was)):
                    return False
            return all(digest(array) == was for array, was in self.others)
        except (KeyError, ValueError, RuntimeError):  # gone; an empty closure; changed by another thread meanwhile
            return False


_contents = operator.attrgetter("cell_contents")
_dict_of, _order_of = operator.attrgetter("__dict__"), operator.attrgetter("__mro__")
_code_of, _defaults_of = operator.attrgetter("__code__"), operator.attrgetter("__defaults__")
_named_defaults_of = operator.attrgetter("__kwdefaults__")


def _slot_of(value: Any, slot: str) -> Any:
    return getattr(value, slot, _MISSING)


def _target_of(reference: Any) -> Any:
    return reference()


def elements(container: Any) -> Any:
    """What a container holds, in order; of a mapping its keys and its values."""
    return [*container, *container.values()] if isinstance(container, Mapping) else container


def digest(array: Any) -> Any:
    """What stands for an array's values; its objects are looked at one by one."""
    if array.dtype.hasobject:
        return None
    values = np.ascontiguousarray(array).view(np.uint8).data if array.size else b""
    return array.shape, array.dtype.str, hashlib.blake2b(values).digest()
