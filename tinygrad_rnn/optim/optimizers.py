"""SGD, Adam, AdamW and RMSprop: the update rules, each one kernel over all parameters."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ..autograd.tape import writes
from ..autograd.tensor import Tensor, as_tensor
from ..errors import ArgumentError, GraphError
from ..kernels import optimizer as kernels


class Optimizer:
    """Base class: parameters in groups, each group with its own settings.

    Args:
        params: parameters, or dictionaries with `params` and settings that differ from the defaults.
        defaults: the settings.

    Attributes:
        param_groups: a list of dictionaries; change `group["lr"]` to change the rate.
        state: for each parameter, its buffers and its number of steps.

    Raises:
        ArgumentError: for no parameters, one given twice, one that is no leaf, or a setting below zero.
    """

    def __init__(self, params: Iterable[Any], defaults: dict[str, Any]) -> None:
        given = list(params)
        if not given:
            raise ArgumentError(f"{type(self).__name__}: no parameters to optimize")
        groups: list[Any] = given if isinstance(given[0], Mapping) else [{"params": given}]
        self.param_groups: list[dict[str, Any]] = []
        self.state: dict[int, dict[str, Any]] = {}
        for group in groups:
            several = [group["params"]] if isinstance(group["params"], Tensor) else list(group["params"])
            self.param_groups.append({**defaults, **group, "params": several})
        every = self._parameters()
        for p in every:
            if not isinstance(p, Tensor) or not p.is_leaf:
                got = "the result of an operation" if isinstance(p, Tensor) else type(p).__name__
                raise ArgumentError(f"{type(self).__name__}: not a parameter", expected="leaf tensors", got=got)
        if len({id(p) for p in every}) < len(every):
            raise ArgumentError(f"{type(self).__name__}: a parameter is given twice")
        for group in self.param_groups:
            for name in ("lr", "eps", "weight_decay", "momentum"):
                if name in group and not group[name] >= 0.0:
                    raise ArgumentError(f"{type(self).__name__}: {name} is at least 0", got=group[name])

    def _parameters(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"]]

    def zero_grad(self) -> None:
        """Drop the gradients of all parameters."""
        for p in self._parameters():
            p.grad = None

    def step(self) -> None:
        """Change every parameter that has a gradient."""
        every = [(p, group) for group in self.param_groups for p in group["params"]]
        moved = [(i, p, group) for i, (p, group) in enumerate(every) if p.grad is not None]
        for _, p, _ in moved:
            if not p._array.flags.writeable and p.size:
                raise GraphError(
                    "step: the parameter's memory is read-only", hint="tg.tensor(x) is a copy that can be written"
                )
        given = []
        for i, p, group in moved:
            state = self.state.setdefault(i, {"step": 0})
            state["step"] += 1
            buffers, numbers = self._update(p, state, group)
            slope = np.ascontiguousarray(p.grad.astype(p.dtype)._array).reshape(-1)
            if p._array.flags.c_contiguous:
                given.append(((p._array.reshape(-1), slope, *buffers), numbers))
                continue
            self.rule(given)  # this one may be a view of another
            flat = np.ascontiguousarray(p._array).reshape(-1)
            given = []
            self.rule([((flat, slope, *buffers), numbers)])
            p._array[...] = flat.reshape(p.shape)
        self.rule(given)
        for _, p, _ in moved:
            writes.note(p._array)

    #: The update's kernel.
    rule: kernels.Update

    def _update(
        self, p: Tensor, state: dict[str, Any], group: dict[str, Any]
    ) -> tuple[Sequence[np.ndarray[Any, Any]], Sequence[float]]:
        """The buffers of a parameter, flat, and the numbers of its step, as the kernel wants them."""
        raise TypeError(f"{type(self).__name__} does not define _update")

    def state_dict(self) -> dict[str, Any]:
        """Buffers and settings, by the parameters' numbers: `{"state": ..., "param_groups": ...}`, copied."""
        numbers, count = [], 0
        for group in self.param_groups:
            here = list(range(count, count + len(group["params"])))
            count += len(here)
            numbers.append({**{k: copy.deepcopy(v) for k, v in group.items() if k != "params"}, "params": here})
        state = {
            i: {k: Tensor(v.copy()) if isinstance(v, np.ndarray) else v for k, v in one.items()}
            for i, one in self.state.items()
        }
        return {"state": state, "param_groups": numbers}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take what `state_dict` returned, for the same parameters in the same order.

        Raises:
            ArgumentError: where groups or sizes differ; nothing is changed then.
        """
        groups = state["param_groups"]
        own = [len(group["params"]) for group in self.param_groups]
        if [len(group["params"]) for group in groups] != own:
            raise ArgumentError(
                "load_state_dict: other parameters", expected=own, got=[len(group["params"]) for group in groups]
            )
        parameters, loaded = self._parameters(), {}
        for key, one in state["state"].items():
            p = parameters[int(key)]
            made: dict[str, Any] = {}
            for name, value in one.items():
                if isinstance(value, (int, float)):
                    made[name] = value
                    continue
                array = np.array(as_tensor(value)._array, dtype=p.dtype, order="C")  # updates write to it flat
                if array.shape != p.shape:
                    raise ArgumentError("load_state_dict: a buffer does not fit", expected=p.shape, got=array.shape)
                made[name] = array
            loaded[int(key)] = made
        self.state = loaded
        for group, new in zip(self.param_groups, groups):
            group.update({k: tuple(v) if isinstance(v, list) else v for k, v in new.items() if k != "params"})


_NOTHING: dict[Any, np.ndarray[Any, Any]] = {}


def _buffer(state: dict[str, Any], name: str, p: Tensor, wanted: bool = True) -> np.ndarray[Any, Any]:
    """The buffer `name` of a parameter, flat; zeros at first, empty where it is not wanted."""
    if not wanted:
        return _NOTHING.setdefault(p.dtype, np.zeros(0, p.dtype))
    if name not in state:
        state[name] = np.zeros(p.shape, p.dtype)
    elif state[name].dtype != p.dtype:  # the module was given another dtype
        state[name] = state[name].astype(p.dtype)
    flat: np.ndarray[Any, Any] = state[name].reshape(-1)
    return flat


class SGD(Optimizer):
    """Stochastic gradient descent: v = momentum v + (1 - dampening) g, p = p - lr v, with g + weight_decay p for g.

    `nesterov` uses g + momentum v in place of v (Sutskever et al. 2013).
    """

    rule = kernels.sgd

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
    ) -> None:
        if nesterov and (momentum <= 0 or dampening != 0):
            raise ArgumentError("SGD: nesterov needs a momentum and no dampening", got=f"{momentum=}, {dampening=}")
        super().__init__(
            params,
            {
                "lr": lr,
                "momentum": momentum,
                "dampening": dampening,
                "weight_decay": weight_decay,
                "nesterov": nesterov,
            },
        )

    def _update(self, p: Tensor, state: dict[str, Any], group: dict[str, Any]) -> Any:
        first = "momentum_buffer" not in state
        b = _buffer(state, "momentum_buffer", p, group["momentum"] != 0)
        c = [group["lr"], group["momentum"], group["dampening"], group["weight_decay"], group["nesterov"], first]
        return (b,), c


class Adam(Optimizer):
    """Adam (Kingma and Ba 2015): m and v are running means of g and g^2, p = p - lr m^ / (sqrt(v^) + eps).

    `weight_decay` adds weight_decay p to g.
    """

    rule = kernels.adam
    decoupled = False

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        if not all(0.0 <= beta < 1.0 for beta in betas):
            raise ArgumentError(f"{type(self).__name__}: betas are in [0, 1)", got=betas)
        super().__init__(params, {"lr": lr, "betas": tuple(betas), "eps": eps, "weight_decay": weight_decay})

    def _update(self, p: Tensor, state: dict[str, Any], group: dict[str, Any]) -> Any:
        t, lr, decay = state["step"], group["lr"], group["weight_decay"]
        beta1, beta2 = group["betas"]
        l2, shrink = (0.0, lr * decay) if self.decoupled else (decay, 0.0)
        c = [lr / (1.0 - beta1**t), beta1, beta2, math.sqrt(1.0 - beta2**t), group["eps"], l2, shrink]
        return (_buffer(state, "exp_avg", p), _buffer(state, "exp_avg_sq", p)), c


class AdamW(Adam):
    """Adam with decoupled weight decay: p shrinks by lr weight_decay p beside the step (Loshchilov and Hutter 2019)."""

    decoupled = True

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay)


class RMSprop(Optimizer):
    """v = alpha v + (1 - alpha) g^2, p = p - lr g / (sqrt(v) + eps) (Hinton 2012).

    `centered` subtracts the square of the running mean of g from v; `momentum` keeps a running sum of the steps.
    """

    rule = kernels.rmsprop

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "alpha": alpha,
                "eps": eps,
                "weight_decay": weight_decay,
                "momentum": momentum,
                "centered": centered,
            },
        )

    def _update(self, p: Tensor, state: dict[str, Any], group: dict[str, Any]) -> Any:
        v = _buffer(state, "square_avg", p)
        a = _buffer(state, "grad_avg", p, group["centered"])
        b = _buffer(state, "momentum_buffer", p, group["momentum"] != 0)
        c = [group["lr"], group["alpha"], group["eps"], group["weight_decay"], group["momentum"]]
        return (v, a, b), c
