"""Modules: objects that hold parameters and other modules, found again by walking their attributes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from ..autograd.tensor import Tensor, as_tensor
from ..errors import ArgumentError, DtypeError, ShapeError
from ..settings import floating_dtype


class Parameter(Tensor):
    """A tensor that a module learns: a leaf that requires a gradient, and that `Module.parameters` finds."""

    __slots__ = ()

    def __init__(self, data: Any, requires_grad: bool = True) -> None:
        super().__init__(as_tensor(data)._array)
        self.requires_grad = requires_grad


class Module:
    """Base class of layers and models: assign parameters and modules to attributes, write `forward`.

    >>> import tinygrad_rnn as tg
    >>> class Affine(tg.nn.Module):
    ...     def __init__(self):
    ...         self.weight = tg.nn.Parameter(tg.ones(2))
    ...     def forward(self, x):
    ...         return x * self.weight
    >>> [name for name, _ in Affine().named_parameters()]
    ['weight']
    """

    training = True
    _buffers: tuple[str, ...] = ()

    #: Two modules are the same to a compiled step where all is the same that it reads of them.
    _compared_by_parts = True

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return self.forward(*arguments, **named)

    def forward(self, *arguments: Any, **named: Any) -> Any:
        """What the module computes."""
        raise TypeError(f"{type(self).__name__} does not define forward(...)")

    # --- Finding what is inside ---

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """Modules held directly, with their attributes' names."""
        for name, value in vars(self).items():
            if isinstance(value, Module):
                yield name, value

    def with_child(self, name: str, child: Any) -> Any:
        """A copy that shares the parameters, with another module of that name directly inside."""
        made = copy.copy(self)
        vars(made)[name] = child
        return made

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """This module and all below it, with dotted names."""
        yield prefix, self
        for name, child in self.named_children():
            yield from child.named_modules(f"{prefix}.{name}" if prefix else name)

    def modules(self) -> Iterator[Module]:
        """This module and all below it, each once."""
        seen: set[int] = set()
        for _, module in self.named_modules():
            if id(module) not in seen:
                seen.add(id(module))
                yield module

    def _named_tensors(self, chosen: Callable[[Module], Iterable[tuple[str, Tensor]]]) -> Iterator[tuple[str, Tensor]]:
        """Tensors that `chosen` finds in each module, with the names they have from here."""
        yield from chosen(self)
        for name, child in self.named_children():
            for below, tensor in child._named_tensors(chosen):
                yield f"{name}.{below}", tensor

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """Parameters here and below, with dotted names; a shared one once, by its first name."""
        seen: set[int] = set()
        for name, tensor in self._named_tensors(_own_parameters):
            if id(tensor) not in seen and isinstance(tensor, Parameter):
                seen.add(id(tensor))
                yield name, tensor

    def parameters(self) -> Iterator[Parameter]:
        """Parameters here and below, each once."""
        return (parameter for _, parameter in self.named_parameters())

    def register_buffer(self, name: str, value: Any) -> None:
        """Hold a tensor that is saved with the module but not learned."""
        setattr(self, name, as_tensor(value))
        self._buffers = (*self._buffers, name)

    def named_buffers(self) -> Iterator[tuple[str, Tensor]]:
        """Buffers here and below, with dotted names."""
        return self._named_tensors(_own_buffers)

    # --- Modes and gradients ---

    def train(self, mode: bool = True) -> Any:
        """Switch dropout and the like on (or off); returns the module."""
        for module in self.modules():
            module.training = mode
        return self

    def eval(self) -> Any:
        """Switch dropout and the like off; returns the module."""
        return self.train(False)

    def zero_grad(self) -> None:
        """Drop every parameter's gradient."""
        for parameter in self.parameters():
            parameter.grad = None

    def astype(self, dtype: Any) -> Any:
        """Change the dtype of every floating parameter and buffer, in place; returns the module."""
        wanted = floating_dtype(dtype)
        for _, tensor in self._named_tensors(_own_all):
            if tensor._array.dtype.kind == "f":
                requires_grad = tensor._requires_grad
                tensor._array, tensor.node, tensor.grad = tensor._array.astype(wanted), None, None
                tensor.requires_grad = requires_grad
        return self

    # --- State ---

    def state_dict(self) -> dict[str, Tensor]:
        """Parameters and buffers by name, as tensors without history that share memory."""
        return {name: tensor.detach() for name, tensor in self._named_tensors(_own_all)}

    def load_state_dict(self, state: Mapping[str, Any], strict: bool = True) -> None:
        """Copy values in by name. Either all are copied or none.

        Args:
            state: from names to tensors, NumPy arrays or torch tensors.
            strict: whether a missing or unknown name is an error.

        Raises:
            ArgumentError: listing the names that are missing or unknown.
            ShapeError: listing the tensors whose shapes differ.
        """
        own = dict(self._named_tensors(_own_all))
        missing, unknown = [n for n in own if n not in state], [n for n in state if n not in own]
        if strict and (missing or unknown):
            raise ArgumentError(
                "load_state_dict: the names differ",
                expected=f"also {', '.join(missing)}" if missing else "fewer names",
                got=f"unknown {', '.join(unknown)}" if unknown else "too few names",
                hint="strict=False takes the names that fit",
            )
        values = {name: _array(state[name]) for name in own if name in state}
        unfit = [n for n, value in values.items() if value.shape != own[n].shape]
        if unfit:
            raise ShapeError(
                "load_state_dict: shapes differ",
                expected=", ".join(f"{n} {own[n].shape}" for n in unfit),
                got=", ".join(f"{values[n].shape}" for n in unfit),
            )
        for name, value in values.items():
            Tensor(own[name]._array).copy_(value)

    def __repr__(self) -> str:
        children = [f"  ({name}): " + repr(child).replace("\n", "\n  ") for name, child in self.named_children()]
        said = self.extra_repr()
        inside = (f"{said}," if said else "") + "\n" + "\n".join(children) + "\n" if children else said
        return f"{type(self).__name__}({inside})"

    def extra_repr(self) -> str:
        """What stands between the parentheses when the module is printed."""
        return ""


def _own_parameters(module: Module) -> Iterator[tuple[str, Tensor]]:
    return ((name, value) for name, value in vars(module).items() if isinstance(value, Parameter))


def _own_buffers(module: Module) -> Iterator[tuple[str, Tensor]]:
    return ((name, getattr(module, name)) for name in module._buffers)


def _own_all(module: Module) -> Iterator[tuple[str, Tensor]]:
    yield from _own_parameters(module)
    yield from _own_buffers(module)


def _array(value: Any) -> np.ndarray[Any, Any]:
    if hasattr(value, "detach") and not isinstance(value, Tensor):
        value = value.detach().cpu().numpy()
    array = np.asarray(value)
    if array.dtype.kind not in "fiub":
        raise DtypeError("load_state_dict: a value is not of numbers", expected="arrays of numbers", got=array.dtype)
    return array


class ModuleList(Module):
    """Modules in a list."""

    def __init__(self, modules: Iterable[Module] = ()) -> None:
        self._list = list(modules)

    def named_children(self) -> Iterator[tuple[str, Module]]:
        yield from ((str(i), module) for i, module in enumerate(self._list))
        yield from super().named_children()

    def with_child(self, name: str, child: Any) -> Any:
        made = copy.copy(self)
        made._list = [child if str(i) == name else module for i, module in enumerate(self._list)]
        return made

    def append(self, module: Module) -> None:
        """Add a module at the end."""
        self._list.append(module)

    def __getitem__(self, i: Any) -> Any:
        return ModuleList(self._list[i]) if isinstance(i, slice) else self._list[i]

    def __len__(self) -> int:
        return len(self._list)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._list)


class Sequential(Module):
    """Modules, or functions of one tensor, applied one after another.

    >>> import tinygrad_rnn as tg
    >>> tg.nn.Sequential(tg.nn.Linear(2, 8), tg.tanh, tg.nn.Linear(8, 1))(tg.zeros(5, 2)).shape
    (5, 1)
    """

    def __init__(self, *steps: Callable[[Any], Any]) -> None:
        self._steps = steps

    def named_children(self) -> Iterator[tuple[str, Module]]:
        yield from ((str(i), step) for i, step in enumerate(self._steps) if isinstance(step, Module))
        yield from super().named_children()

    def with_child(self, name: str, child: Any) -> Any:
        made = copy.copy(self)
        made._steps = tuple(child if str(i) == name else step for i, step in enumerate(self._steps))
        return made

    def forward(self, x: Any) -> Any:
        for step in self._steps:
            x = step(x)
        return x

    def __getitem__(self, i: Any) -> Any:
        return Sequential(*self._steps[i]) if isinstance(i, slice) else self._steps[i]

    def __len__(self) -> int:
        return len(self._steps)
