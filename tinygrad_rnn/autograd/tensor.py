"""The tensor: an array, the node that made it, and the operators."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np

from .. import settings
from ..errors import DtypeError, GraphError, ShapeError
from ..ops import arrange, compare, contract, elementwise, index, reduce
from ..ops import shape as shapes
from .convert import array_of, arrays_of, checked_dtype, numpy_functions, plain_index
from .tape import Node, read, thread, tick, writes

#: What `Tensor.backward` runs: the last one. It is itself made of tensors, so it stands above and comes in by itself.
_engines: list[Callable[..., None]] = []
Engine = TypeVar("Engine", bound=Callable[..., None])


def runs_backward(engine: Engine) -> Engine:
    """Let `Tensor.backward` run `engine(outputs, grads, retain_graph=, create_graph=)`; as a decorator."""
    _engines.append(engine)
    return engine


def _swapped(function: Callable[..., Any]) -> Callable[..., Any]:
    def operator(self: Any, other: Any) -> Any:
        return function(other, self)

    return operator


class Tensor:
    """An n-dimensional array that remembers how it was made. Make one with `tg.tensor`, `tg.zeros` and so on.

    Attributes:
        node: the tape's entry of the operation that made this tensor, or None.
    """

    __slots__ = ("__weakref__", "_array", "_grad", "_requires_grad", "node")
    __array_priority__ = 1000  # NumPy arrays on the left leave the operator to us

    def __init__(self, array: np.ndarray[Any, Any], node: Node | None = None, requires_grad: bool = False) -> None:
        self._array = array
        self.node = node
        self._requires_grad = requires_grad
        self._grad: Tensor | None = None

    # --- What it is ---

    @property
    def shape(self) -> tuple[int, ...]:
        """The size along each axis."""
        size: tuple[int, ...] = self._array.shape
        return size

    @property
    def dtype(self) -> np.dtype[Any]:
        """The elements' dtype, a NumPy dtype."""
        dtype: np.dtype[Any] = self._array.dtype
        return dtype

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return self._array.ndim

    @property
    def size(self) -> int:
        """The number of elements."""
        return self._array.size

    @property
    def requires_grad(self) -> bool:
        """Whether `backward` brings a gradient here. Settable on a leaf."""
        return self._requires_grad

    @requires_grad.setter
    def requires_grad(self, wanted: bool) -> None:
        if not self.is_leaf:
            raise GraphError("requires_grad: only a leaf's can be set", hint="x.detach() is the same value as a leaf")
        if wanted and self._array.dtype.kind != "f":
            raise DtypeError(
                "requires_grad: only floating tensors have gradients",
                expected="float32 or float64",
                got=self.dtype,
                hint='x.astype("float32")',
            )
        self._requires_grad = bool(wanted)
        if wanted:
            if self.node is None or self.node.op is not None:
                self.node = Node.leaf(self._array)
            self.node.owner = weakref.ref(self)

    @property
    def grad(self) -> Tensor | None:
        """The gradient that `backward` left, or None.

        Settable: None drops it; an array, or another dtype, becomes a tensor of this one's dtype.

        Raises:
            ShapeError: for a gradient of another shape.
        """
        return self._grad

    @grad.setter
    def grad(self, given: Any) -> None:
        if given is not None:
            given = as_tensor(given).astype(self.dtype)
            if given.shape != self.shape:
                raise ShapeError("grad: the gradient does not fit", expected=self.shape, got=given.shape)
        self._grad = given

    @property
    def is_leaf(self) -> bool:
        """True where no recorded operation made this tensor."""
        return self.node is None or self.node.op is None or not self._requires_grad

    @property
    def data(self) -> np.ndarray[Any, Any]:
        """The values as a read-only NumPy array that shares memory."""
        # Through a memoryview: a plain view's flag could be turned back, and the tape would not see what is written.
        read(self)
        buffer: Any = self._array
        return np.asarray(memoryview(buffer).toreadonly())

    def numpy(self) -> np.ndarray[Any, Any]:
        """The values as a read-only NumPy array that shares memory. Write through tensor methods, or copy."""
        return self.data

    def item(self) -> Any:
        """The one element as a Python number.

        Raises:
            ShapeError: where there is not exactly one.
        """
        if self._array.size != 1:
            raise ShapeError("item: more or less than one element", expected="size 1", got=f"shape {self.shape}")
        read(self)
        return self._array.item()

    def tolist(self) -> Any:
        """The values as nested Python lists."""
        read(self)
        return self._array.tolist()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        read(self)
        if dtype is not None and np.dtype(dtype) != self._array.dtype:
            return self._array.astype(dtype)
        return self._array.copy() if copy else self.data

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **named: Any) -> Any:
        ours = numpy_functions().get(ufunc)
        if method != "__call__" or named or ours is None:
            return NotImplemented
        # NumPy hands its scalars over as arrays without axes; here they count as Python numbers.
        return ours(*[x.item() if isinstance(x, np.ndarray) and x.ndim == 0 else x for x in inputs])

    def __array_function__(self, function: Any, types: Any, inputs: Any, named: Any) -> Any:
        """NumPy's functions: the one of this library where it has one, else NumPy's on plain arrays."""
        ours = numpy_functions().get(function)
        if ours is not None:
            return ours(*inputs, **named)
        return function(*arrays_of(inputs), **{name: arrays_of(value) for name, value in named.items()})

    def __len__(self) -> int:
        if self._array.ndim == 0:
            raise ShapeError("len: a tensor without axes has no length", got="shape ()")
        return len(self._array)

    def __iter__(self) -> Iterator[Tensor]:
        return (self[i] for i in range(len(self)))

    def __bool__(self) -> bool:
        if self._array.size != 1:
            raise ShapeError(
                "bool: the truth of several elements is not one truth",
                got=f"shape {self.shape}",
                hint="compare .item()s",
            )
        read(self)
        return bool(self._array)

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __index__(self) -> int:
        if self._array.dtype.kind not in "iu":
            raise DtypeError("only an integer tensor is an index", got=self.dtype)
        return int(self.item())

    def __repr__(self) -> str:
        read(self)
        values = np.array2string(self._array, separator=", ", precision=4, prefix="tensor(")
        parts = [values]
        if self.dtype not in (settings.default_dtype, np.dtype(np.int64), np.dtype(bool)):
            parts.append(f"dtype={self.dtype}")
        if self._requires_grad:
            parts.append("requires_grad=True" if self.is_leaf else f"made_by={self.node.name if self.node else ''}")
        return f"tensor({', '.join(parts)})"

    __hash__ = object.__hash__

    def __reduce__(self) -> Any:
        if not self.is_leaf:
            raise GraphError(
                "copy: this tensor has a history, which cannot be copied", hint="x.detach() is the same value as a leaf"
            )
        return _rebuilt, (type(self), self._array, self._requires_grad, self.grad)

    # --- The tape ---

    def detach(self) -> Tensor:
        """The same values, in the same memory, without a history."""
        if not thread.state.watchers:
            return Tensor(self._array)
        made: Tensor = shapes.detach(self)  # whoever watches sees where the values come from
        return made

    def backward(self, grad: Any = None, retain_graph: bool = False, create_graph: bool = False) -> None:
        """Add the gradient of this tensor with respect to every leaf to the leaf's `grad`.

        Args:
            grad: the gradient that starts it, of this tensor's shape; 1 for a scalar.
            retain_graph: keep what is saved, so that backward may be called again.
            create_graph: record backward itself, so that gradients can be differentiated.

        Raises:
            GraphError: where nothing was recorded, `grad` is missing, the graph was freed, or a saved value was
            changed.
        """
        _engines[-1]([self], [grad], retain_graph=retain_graph or create_graph, create_graph=create_graph)

    def retain_grad(self) -> None:
        """Make `backward` leave the gradient of this intermediate result in its `grad` too."""
        if self.node is None or not self._requires_grad:
            raise GraphError(
                "retain_grad: this tensor has no gradient", hint="set requires_grad on what it is made from"
            )
        self.node.owner = weakref.ref(self)

    def register_hook(self, hook: Callable[[Tensor], Any]) -> Callable[[], None]:
        """Call `hook(gradient)` when this tensor's gradient is known; what it returns, if anything, replaces it.

        Returns:
            A function that removes the hook.
        """
        node = self.node
        if node is None or not self._requires_grad:
            raise GraphError("register_hook: this tensor has no gradient", hint="set requires_grad on it")
        if node.hooks is None:
            node.hooks = {}
        hooks, key = node.hooks, tick()  # the clock's, so that it can be told which came when
        hooks[key] = hook

        def remove() -> None:
            hooks.pop(key, None)

        return remove

    def named(self, name: str) -> Tensor:
        """Label the operation that made this tensor, for the tape, pictures and `record`; returns the tensor."""
        named = thread.state.named
        if named is not None:
            named[name] = self
        if self.node is not None:
            self.node.label = name
        return self

    # --- Writing in place ---

    def _writable(self, what: str, instead: str) -> None:
        if self._requires_grad and not self.is_leaf:
            raise GraphError(
                f"{what}: this tensor has a history, which a write would falsify",
                expected="a tensor outside the graph",
                got=f"the result of {self.node.name if self.node else ''}",
                hint=instead,
            )
        if self._requires_grad and thread.state.enabled:
            raise GraphError(
                f"{what}: a leaf that requires a gradient cannot be changed while the tape records",
                hint="with tg.no_grad(): ...",
            )
        if not self._array.flags.writeable:
            raise GraphError(f"{what}: the memory is read-only", hint="tg.tensor(x) is a copy that can be written")

    def _write(self, what: str, key: Any, value: Any, instead: str) -> None:
        self._writable(what, instead)
        if isinstance(value, Tensor):
            if value._requires_grad and thread.state.enabled:
                raise GraphError(f"{what}: the value has a history, which a write would lose", hint=instead)
            value = value._array
        if value is None:
            raise DtypeError(f"{what}: the value is no number", got="None")
        try:
            self._array[key] = value
        except (ValueError, IndexError) as trouble:
            raise ShapeError(f"{what}: the value does not fit", got=str(trouble)) from None
        writes.note(self._array)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._write(
            "x[...] = value", plain_index(key), value, "tg.where(mask, value, x) or tg.concat make a new tensor"
        )

    def copy_(self, value: Any) -> Tensor:
        """Write `value`, broadcast, into this tensor's memory; for tensors outside the graph."""
        self._write("copy_", ..., value, "use the value itself")
        return self

    def _in_place(self, sign: str, function: Callable[..., Any], other: Any) -> Tensor:
        instead = f"x = x {sign} value makes a new tensor"
        self._writable(f"x {sign}= value", instead)
        if isinstance(other, Tensor) and other._requires_grad and thread.state.enabled:
            raise GraphError(f"x {sign}= value: the value has a history, which a write would lose", hint=instead)
        made = function(self, other)
        if made.shape != self.shape:
            raise ShapeError(f"x {sign}= value: the value does not fit", expected=self.shape, got=made.shape)
        if not np.can_cast(made.dtype, self.dtype, "same_kind"):
            raise DtypeError(f"x {sign}= value: the result does not fit", expected=self.dtype, got=made.dtype)
        self._array[...] = made._array
        writes.note(self._array)
        return self

    def __iadd__(self, other: Any) -> Tensor:  # type: ignore[misc]  # the plain operators are functions
        return self._in_place("+", elementwise.add, other)

    def __isub__(self, other: Any) -> Tensor:  # type: ignore[misc]  # the plain operators are functions
        return self._in_place("-", elementwise.subtract, other)

    def __imul__(self, other: Any) -> Tensor:  # type: ignore[misc]  # the plain operators are functions
        return self._in_place("*", elementwise.multiply, other)

    def __itruediv__(self, other: Any) -> Tensor:  # type: ignore[misc]  # the plain operators are functions
        return self._in_place("/", elementwise.divide, other)

    # --- Operators ---

    __add__, __radd__ = elementwise.add, _swapped(elementwise.add)
    __sub__, __rsub__ = elementwise.subtract, _swapped(elementwise.subtract)
    __mul__, __rmul__ = elementwise.multiply, _swapped(elementwise.multiply)
    __truediv__, __rtruediv__ = elementwise.divide, _swapped(elementwise.divide)
    __matmul__, __rmatmul__ = contract.matmul, _swapped(contract.matmul)
    __rpow__ = _swapped(elementwise.power)
    __neg__, __abs__, __invert__ = elementwise.negative, elementwise.abs, compare.logical_not
    __gt__, __ge__ = compare.greater, compare.greater_equal
    __lt__, __le__ = compare.less, compare.less_equal
    __eq__, __ne__ = compare.equal, compare.not_equal
    __and__, __or__, __xor__ = compare.logical_and, compare.logical_or, compare.logical_xor

    def __pow__(self, exponent: Any) -> Tensor:
        if type(exponent) is int and exponent == 2:
            squared: Tensor = elementwise.square(self)
            return squared
        powered: Tensor = elementwise.power(self, exponent)
        return powered

    def __getitem__(self, key: Any) -> Tensor:
        picked: Tensor = index.getitem(self, plain_index(key))
        return picked

    # --- Functions as methods ---

    exp, log, sqrt, square, sign = (
        elementwise.exp, elementwise.log, elementwise.sqrt, elementwise.square, elementwise.sign,
    )  # fmt: skip
    expm1, log1p, rsqrt, reciprocal = elementwise.expm1, elementwise.log1p, elementwise.rsqrt, elementwise.reciprocal
    tanh, sigmoid, relu, sin, cos, tan, erf = (
        elementwise.tanh, elementwise.sigmoid, elementwise.relu, elementwise.sin, elementwise.cos, elementwise.tan,
        elementwise.erf,
    )  # fmt: skip
    greater, greater_equal, less, less_equal, not_equal = (
        compare.greater, compare.greater_equal, compare.less, compare.less_equal, compare.not_equal,
    )  # fmt: skip
    isnan, isinf, isfinite, negative = compare.isnan, compare.isinf, compare.isfinite, elementwise.negative
    logical_and, logical_or, logical_xor, logical_not = (
        compare.logical_and, compare.logical_or, compare.logical_xor, compare.logical_not,
    )  # fmt: skip
    add, subtract, multiply, divide = elementwise.add, elementwise.subtract, elementwise.multiply, elementwise.divide
    maximum, minimum, clip, abs = elementwise.maximum, elementwise.minimum, elementwise.clip, elementwise.abs
    mean, var, std, max, min = reduce.mean, reduce.var, reduce.std, reduce.max, reduce.min
    prod, cumsum, argmax, argmin, any, all = (
        reduce.prod, reduce.cumsum, reduce.argmax, reduce.argmin, reduce.any, reduce.all,
    )  # fmt: skip
    sum, logsumexp, softmax, log_softmax = reduce.sum, reduce.logsumexp, reduce.softmax, reduce.log_softmax
    matmul, outer, take = contract.matmul, contract.outer, index.take
    squeeze, expand_dims, broadcast_to = shapes.squeeze, shapes.expand_dims, shapes.broadcast_to
    permute_dims, split = shapes.permute_dims, shapes.split
    flip, roll, repeat, tril, triu = arrange.flip, arrange.roll, arrange.repeat, arrange.tril, arrange.triu

    def reshape(self, *shape: Any) -> Tensor:
        """The same elements in another shape: `x.reshape(2, -1)` or `x.reshape((2, -1))`."""
        made: Tensor = shapes.reshape(self, shape[0] if len(shape) == 1 else shape)
        return made

    def astype(self, dtype: Any) -> Tensor:
        """This tensor in another dtype; itself where it has it already."""
        wanted = checked_dtype(np.dtype(dtype))
        if wanted == self._array.dtype:
            return self
        made: Tensor = shapes.astype(self, wanted)
        return made

    @property
    def T(self) -> Tensor:
        """The axes in reverse order."""
        turned: Tensor = shapes.permute_dims(self)
        return turned

    @property
    def mT(self) -> Tensor:
        """The last two axes swapped.

        Raises:
            ShapeError: with fewer than two axes.
        """
        if self.ndim < 2:
            raise ShapeError("mT: a matrix has two axes", expected="(..., M, N)", got=self.shape)
        turned: Tensor = shapes.permute_dims(self, (*range(self.ndim - 2), self.ndim - 1, self.ndim - 2))
        return turned


def _rebuilt(kind: type[Tensor], array: np.ndarray[Any, Any], requires_grad: bool, grad: Tensor | None) -> Tensor:
    """A leaf from its parts, for copying and pickling: a copied node would deliver gradients to the original."""
    made = kind.__new__(kind)
    Tensor.__init__(made, array)
    made.requires_grad, made.grad = requires_grad, grad
    return made


# --- Making tensors ---


def tensor(data: Any, dtype: Any = None, requires_grad: bool = False) -> Tensor:
    """A new tensor with a copy of `data`.

    Args:
        data: numbers, nested lists, a NumPy array or a tensor.
        dtype: its dtype. Where None, an array keeps its own; Python floats become the default dtype (float32),
            ints int64, booleans bool.
        requires_grad: whether `backward` shall bring a gradient here.

    Raises:
        DtypeError: for data that are not numbers, or a dtype that is not supported.
        ShapeError: for nested lists of unequal lengths.
    """
    made = Tensor(array_of(data, dtype))
    if requires_grad:
        made.requires_grad = True
    return made


def as_tensor(data: Any) -> Tensor:
    """`data` itself where it is a tensor, else a tensor with a copy."""
    return data if isinstance(data, Tensor) else tensor(data)


def from_numpy(a: np.ndarray[Any, Any]) -> Tensor:
    """A tensor that shares memory with the array `a`; writing to `a` afterwards is the caller's risk."""
    if not isinstance(a, np.ndarray):
        raise DtypeError("from_numpy: not an array", expected="a numpy.ndarray", got=type(a).__name__)
    dtype = checked_dtype(a.dtype)
    return Tensor(a if a.dtype is dtype else a.view(dtype) if a.dtype.isnative else a.astype(dtype))
