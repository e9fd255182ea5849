"""Cells that a user wrote: our layer, the same under `jax.lax.scan` and jit, and the same as a loop in PyTorch.

Each cell is written once, over a namespace of functions that all three have.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

import tinygrad_rnn as tg


class Functions(NamedTuple):
    """What the equations use."""

    tanh: Any
    sigmoid: Any
    relu: Any
    mean: Callable[[Any], Any]  # along the row, kept
    sqrt: Any
    where: Any


class Written(NamedTuple):
    """A cell: the shapes of its parameters, its parts of state, and its step(functions, parameters, state, x, mask)."""

    shapes: Callable[[int], dict[str, tuple[int, ...]]]
    parts: int
    step: Callable[..., tuple[Any, tuple[Any, ...]]]
    masks: int = 0


def _weights(size: int, gates: int, **more: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    return {"w": (size, gates * size), "u": (size, gates * size), "b": (gates * size,), **more}


def _minimal(f: Functions, p: Any, state: Any, x: Any, _: Any) -> Any:
    """Zhou et al. 2016, eq. 5 to 7."""
    (h,), n = state, state[0].shape[-1]
    gates = x @ p["w"] + p["b"]
    forget = f.sigmoid(gates[:, :n] + h @ p["u"][:, :n])
    candidate = f.tanh(gates[:, n:] + (forget * h) @ p["u"][:, n:])
    h = h + forget * (candidate - h)
    return h, (h,)


def _peephole(f: Functions, p: Any, state: Any, x: Any, _: Any) -> Any:
    """Gers and Schmidhuber 2000."""
    (h, c), n = state, state[0].shape[-1]
    gates = x @ p["w"] + h @ p["u"] + p["b"]
    forget = f.sigmoid(gates[:, n : 2 * n] + p["p_forget"] * c)
    c = forget * c + f.sigmoid(gates[:, :n] + p["p_input"] * c) * f.tanh(gates[:, 2 * n : 3 * n])
    h = f.sigmoid(gates[:, 3 * n :] + p["p_output"] * c) * f.tanh(c)
    return h, (h, c)


def _normed(f: Functions, x: Any, gain: Any, bias: Any) -> Any:
    centred = x - f.mean(x)
    return centred / f.sqrt(f.mean(centred * centred) + 1e-5) * gain + bias


def _layer_norm(f: Functions, p: Any, state: Any, x: Any, _: Any) -> Any:
    """Ba et al. 2016, eq. 20 to 22."""
    (h, c), n = state, state[0].shape[-1]
    gates = _normed(f, x @ p["w"], p["gain_x"], p["b"]) + _normed(f, h @ p["u"], p["gain_h"], p["bias_h"])
    c = f.sigmoid(gates[:, n : 2 * n]) * c + f.sigmoid(gates[:, :n]) * f.tanh(gates[:, 2 * n : 3 * n])
    h = f.sigmoid(gates[:, 3 * n :]) * f.tanh(_normed(f, c, p["gain_c"], p["bias_c"]))
    return h, (h, c)


def _lstm(f: Functions, p: Any, state: Any, x: Any, _: Any = None) -> Any:
    (h, c), n = state, state[0].shape[-1]
    gates = x @ p["w"] + h @ p["u"] + p["b"]
    c = f.sigmoid(gates[:, n : 2 * n]) * c + f.sigmoid(gates[:, :n]) * f.tanh(gates[:, 2 * n : 3 * n])
    h = f.sigmoid(gates[:, 3 * n :]) * f.tanh(c)
    return h, (h, c)


def _zoneout(f: Functions, p: Any, state: Any, x: Any, masks: Any) -> Any:
    """Krueger et al. 2017: where a mask is 0, the state stays."""
    _, (h, c) = _lstm(f, p, state, x)
    h, c = f.where(masks[0] > 0.0, h, state[0]), f.where(masks[1] > 0.0, c, state[1])
    return h, (h, c)


def _two_speeds(f: Functions, p: Any, state: Any, x: Any, _: Any) -> Any:
    """One's own: a fast state beside a slow one, which it writes to through a gate and reads through another."""
    (fast, slow), n = state, state[0].shape[-1]
    gates = x @ p["w"] + fast @ p["u"] + p["b"]
    write = f.sigmoid(gates[:, :n] - p["threshold"])
    slow = slow + write * (f.tanh(gates[:, n : 2 * n]) - slow)
    fast = f.tanh(gates[:, 2 * n : 3 * n] + f.sigmoid(gates[:, 3 * n :]) * slow)
    return fast + slow, (fast, slow)


def _rectified(f: Functions, p: Any, state: Any, x: Any, _: Any) -> Any:
    """One's own: a rectified state of mean square 1, and a highway around it."""
    (h,), n = state, state[0].shape[-1]
    gates = x @ p["w"] + h @ p["u"] + p["b"]
    new = f.relu(gates[:, :n])
    new = new / f.sqrt(f.mean(new * new) + 1e-3) * p["gain"]
    carry = f.sigmoid(gates[:, n:])
    h = carry * h + (1.0 - carry) * new
    return h, (h,)


CELLS = {
    "minimal gated": Written(lambda n: _weights(n, 2), 1, _minimal),
    "peephole LSTM": Written(lambda n: _weights(n, 4, p_forget=(n,), p_input=(n,), p_output=(n,)), 2, _peephole),
    "layer-norm LSTM": Written(
        lambda n: _weights(n, 4, gain_x=(4 * n,), gain_h=(4 * n,), bias_h=(4 * n,), gain_c=(n,), bias_c=(n,)),
        2,
        _layer_norm,
    ),
    "zoneout LSTM": Written(lambda n: _weights(n, 4), 2, _zoneout, masks=2),
    "two speeds": Written(lambda n: _weights(n, 4, threshold=(n,)), 2, _two_speeds),
    "rectified highway": Written(lambda n: _weights(n, 2, gain=(n,)), 1, _rectified),
}

#: Zoneout's.
KEEP = 0.1


def contestants(name: str, batch: int, steps: int, size: int, torch: Any) -> dict[str, Callable[[], Any]]:
    """A turn, forward and all gradients, for each side."""
    written, rng = CELLS[name], np.random.default_rng(0)
    parameters = {
        key: (rng.uniform(-1, 1, shape) / size**0.5).astype(np.float32) for key, shape in written.shapes(size).items()
    }
    x, g = (rng.standard_normal((steps, batch, size)).astype(np.float32) for _ in range(2))
    given = written, parameters, x, g
    return {"ours": _ours(*given), "jax": _jax(*given), "torch": _torch(*given, torch)}


def _ours(written: Written, parameters: Any, x: Any, g: Any) -> Callable[[], Any]:
    functions = Functions(tg.tanh, tg.sigmoid, tg.relu, lambda x: tg.mean(x, -1, keepdims=True), tg.sqrt, tg.where)

    class Own(tg.nn.Cell):
        def __init__(self) -> None:
            self.input_size = self.hidden_size = x.shape[-1]
            for name, array in parameters.items():
                setattr(self, name, tg.nn.Parameter(tg.tensor(array)))

        def initial_state(self, batch_size: int) -> Any:
            return tuple(self.zeros(batch_size, self.hidden_size) for _ in range(written.parts))

        def step(self, x: Any, state: Any) -> Any:
            masks = [tg.dropout(tg.ones_like(part), KEEP) for part in state[: written.masks]]
            return written.step(functions, vars(self), state, x, masks)

    layer, given, weight = tg.nn.Recurrent(Own()), tg.tensor(x, requires_grad=True), tg.tensor(g)
    leaves: list[Any] = [given, *layer.parameters()]

    def turn() -> Any:
        for leaf in leaves:
            leaf.grad = None
        layer(given)[0].backward(weight)
        return [leaf.grad.numpy() for leaf in leaves]

    return turn


def _torch(written: Written, parameters: Any, x: Any, g: Any, torch: Any) -> Callable[[], Any]:
    functions = Functions(
        torch.tanh, torch.sigmoid, torch.relu, lambda x: x.mean(-1, keepdim=True), torch.sqrt, torch.where
    )
    leaves = {name: torch.tensor(array, requires_grad=True) for name, array in parameters.items()}
    given, weight = torch.tensor(x, requires_grad=True), torch.tensor(g)

    def turn() -> Any:
        for leaf in (given, *leaves.values()):
            leaf.grad = None
        state = tuple(torch.zeros(x.shape[1:]) for _ in range(written.parts))
        outputs = []
        for one in given:
            masks = [torch.nn.functional.dropout(torch.ones_like(part), KEEP) for part in state[: written.masks]]
            output, state = written.step(functions, leaves, state, one, masks)
            outputs.append(output)
        torch.stack(outputs).backward(weight)
        return [leaf.grad.numpy() for leaf in (given, *leaves.values())]

    return turn


def _jax(written: Written, parameters: Any, x: Any, g: Any) -> Callable[[], Any]:
    import jax

    functions = Functions(
        jax.numpy.tanh, jax.nn.sigmoid, jax.nn.relu, lambda x: x.mean(-1, keepdims=True), jax.numpy.sqrt,
        jax.numpy.where,
    )  # fmt: skip

    def loss(x: Any, parameters: Any, key: Any, g: Any) -> Any:
        shape = (written.masks, *x.shape)
        masks = jax.random.bernoulli(key, 1.0 - KEEP, shape).swapaxes(0, 1) if written.masks else None

        def step(state: Any, given: Any) -> Any:
            output, state = written.step(functions, parameters, state, *given)
            return state, output

        zero = tuple(jax.numpy.zeros(x.shape[1:], x.dtype) for _ in range(written.parts))
        return (jax.lax.scan(step, zero, (x, masks))[1] * g).sum()

    gradient = jax.jit(jax.grad(loss, (0, 1)))
    x, g = jax.numpy.asarray(x), jax.numpy.asarray(g)
    parameters = {name: jax.numpy.asarray(array) for name, array in parameters.items()}
    keys = iter(range(1 << 30))

    def turn() -> Any:
        by_x, by_parameters = gradient(x, parameters, jax.random.key(next(keys)), g)
        return [np.asarray(one) for one in (by_x, *[by_parameters[name] for name in parameters])]

    return turn
