"""The ordinary operations that a drawn step is made of: all that works on rows, (B, n) -> (B, m)."""

from __future__ import annotations

from program_parts import ORDINARY, Drawer, enter

#: Of one value, of its width. Arguments stay where the functions are defined and their results small.
SAME = (
    "tg.tanh($v0)", "tg.sigmoid($v0)", "tg.relu($v0)", "tg.softplus($v0)", "tg.sin($v0)", "tg.cos($v0)",
    "tg.tan(0.5 * tg.tanh($v0))", "tg.abs($v0)", "abs($v0)", "tg.sign($v0) * 0.5", "tg.square(tg.tanh($v0))",
    "tg.tanh($v0) ** 2", "tg.tanh($v0) ** 3", "($v0.abs() + 0.1) ** 0.5" , "tg.sqrt(tg.abs($v0) + 0.1)",
    "tg.rsqrt(tg.abs($v0) + 0.5)", "tg.reciprocal(tg.abs($v0) + 0.5)", "tg.exp(tg.tanh($v0))",
    "tg.expm1(tg.tanh($v0))", "tg.log(tg.abs($v0) + 0.1)", "tg.log1p(tg.abs($v0))", "tg.leaky_relu($v0)",
    "tg.leaky_relu($v0, 0.3)", "tg.elu($v0)", "tg.elu($v0, 0.7)", "tg.gelu($v0)", "tg.gelu($v0, approximate='tanh')",
    "tg.silu($v0)", "tg.softsign($v0)", "tg.hard_sigmoid($v0)", "tg.erf($v0)", "tg.negative($v0)", "-$v0",
    "0.5 * $v0 - 0.1", "1.0 - $v0", "$v0 / 2", "1 / (2 + tg.abs($v0))", "tg.exp(-($v0 * $v0))",
    "$v0 / tg.sqrt(1.0 + $v0 * $v0)", "tg.clip($v0, -0.5, 0.7)", "tg.clip($v0, None, 0.3)", "tg.maximum($v0, 0.0)",
    "tg.minimum($v0, 0.5)", "tg.where($v0 > 0.0, $v0, 0.1 * $v0)", "tg.where($v0 <= 0.2, 0.5, $v0)",
    "$v0 - $v0.mean(-1, keepdims=True)",
    "$v0 - $v0.max(-1, keepdims=True)",
    "$v0 - tg.min($v0, axis=1, keepdims=True)", "$v0 / tg.sqrt(tg.mean($v0 * $v0, axis=-1, keepdims=True) + 0.1)",
    "$v0 / tg.sqrt(tg.var($v0, axis=-1, keepdims=True) + 0.1)",
    "$v0[:]",
    "$v0.reshape($v0.shape[0], 1, -1).reshape($v0.shape)", "$v0.expand_dims(1).squeeze(1)", "$v0[:, None, :][:, 0]",
    "tg.tanh($v0.expand_dims(-1)).squeeze(-1)",
    "tg.split($v0, 1, -1)[0]",
    "tg.concat([$v0, $v0], -1)[:, :$w]",
    "$v0 + tg.arange($w, dtype=$v0.dtype) * 0.1", "$v0 * tg.ones_like($v0)", "$v0 + tg.zeros($w, dtype=$v0.dtype)",
    "$v0 + tg.tensor([0.1], dtype=$v0.dtype)", "$v0 * tg.full((1, $w), 0.7, dtype=$v0.dtype)", "np.sin($v0)",
    "$v0.named('gate')", "tg.sigmoid($v0).named('forget_gate')",
    "$v0 * tg.equal($v0, $v0)",
    "tg.where(tg.logical_and($v0 > -0.5, $v0 < 0.5), $v0, -$v0)", "tg.broadcast_to($v0[:, :1], $v0.shape)",
    "$v0 * (0.5 if $v0.requires_grad else 0.25)", "$v0 * (0.5 if tg.is_grad_enabled() else 0.25)",
    "$v0 @ tg.eye($w, dtype=$v0.dtype)",
    "(0.3 if $v0.ndim == 2 else 0.5) * $v0", "$v0.astype($v0.dtype)",
)  # fmt: skip

#: The same, of operations that few compilers of steps know.
RARE = (
    "tg.softmax($v0, axis=-1)",
    "tg.log_softmax($v0, axis=-1)",
    "$v0 - tg.logsumexp($v0, axis=-1, keepdims=True)",
    "tg.std($v0 + 1.0, axis=-1, keepdims=True) + $v0",
    "$v0[:, ::-1]",
    "tg.flip($v0, axis=1)",
    "tg.flip($v0, -1) * 0.5",
    "tg.roll($v0, 1, axis=-1)",
    "tg.roll($v0, -2, 1)",
    "tg.cumsum($v0, axis=-1) * 0.3",
    "tg.prod(tg.tanh($v0), axis=-1, keepdims=True) + $v0",
    "tg.permute_dims($v0[:, None], (0, 2, 1))[..., 0]",
    "$v0.mT.mT.T.T",
    "tg.stack([$v0, 0.5 * $v0], axis=1).sum(1)",
    "tg.stack(($v0, $v0), axis=-1).mean(-1)",
    "tg.pad($v0, ((0, 0), (1, 0)))[:, :-1]",
    "tg.repeat($v0, 2, axis=1)[:, ::2]",
    "tg.tril($v0[:, :, None] + $v0[:, None, :]).mean(-1)",
    "($v0[:, :, None] * $v0[:, None, :]).sum(1)",
    "$v0 * (2.0 / (1.0 + $v0.shape[0]))",
    "$v0 * (1.0 / len($v0))",
    "tg.take_along_axis($v0, tg.argmax($v0, -1, keepdims=True)) + $v0",
    "tg.take($v0, [0], axis=1) * $v0",
    "tg.where(tg.isfinite($v0), $v0, 0.0)",
)

#: Of two values, of the first's width.
PAIRS = (
    "$v0 + $v1", "0.5 * ($v0 + $v1)", "0.5 * ($v0 + $v1)", "$v0 - $v1", "$v0 * tg.tanh($v1)", "tg.sigmoid($v0) * $v1",
    "$v0 * $v1 * 0.5", "tg.tanh($v0) * $v1 + $v0 * tg.sigmoid($v1)", "$v0 / (tg.abs($v1) + 0.5)",
    "tg.maximum($v0, $v1)", "tg.minimum($v0, $v1)", "tg.where($v0 > $v1, $v0, 0.5 * $v1)",
    "tg.multiply($v0, 0.5 + $v1)",
    "tg.where($v0 >= 0.1, $v1, $v0)", "tg.where(tg.less($v0, $v1), $v1, 0.3)", "(tg.abs($v0) + 0.1) ** tg.tanh($v1)",
    "tg.where(tg.logical_or($v0 > 0.5, $v1 > 0.5), $v0, $v1)", "tg.where(tg.logical_not($v0 > $v1), $v1, $v0)",
    "tg.where(($v0 > 0.0) & ($v1 > 0.0), $v0, $v1)", "tg.where($v0 != $v1, $v0, 0.0)", "tg.subtract($v0, 0.3 * $v1)",
    "$v0 * tg.tanh(($v0 * $v1).sum(-1, keepdims=True))", "tg.clip($v0, -tg.abs($v1), tg.abs($v1) + 0.1)",
    "tg.stack([$v0, $v1], 1).max(1)", "tg.add(*tg.split(tg.concat([$v0, $v1], 1), 2, 1))",
    "(lambda a, b: a * 0.5 + b)($v0, $v1)", "sum([$v0, $v1, $v0]) * 0.3", "[$v0, $v1][-1] * 0.7",
    "tg.add($v0, b=$v1)", "(tg.softmax($v0) * $v1)",
)  # fmt: skip


@enter(ORDINARY, 8.0)
def of_one(d: Drawer) -> tuple[str, int]:
    a = d.value()
    return d.either(SAME, RARE).replace("$w", str(d.of(a))), d.of(a)


@enter(ORDINARY, 6.0)
def of_two(d: Drawer) -> tuple[str, int]:
    a = d.value()
    d.like(a)
    return d.pick(*PAIRS), d.of(a)


@enter(ORDINARY)
def with_one_column(d: Drawer) -> tuple[str, int]:
    a = d.value()
    d.value(lambda width: width == 1)
    return d.pick("$v0 * $v1", "$v0 + 0.5 * $v1", "tg.where($v1 > 0.0, $v0, 0.2)", "$v0 / (1.0 + $v1 * $v1)"), d.of(a)


@enter(ORDINARY, 2.0)
def to_one_column(d: Drawer) -> tuple[str, int]:
    d.value()
    return d.either((
        "$v0.sum(-1, keepdims=True) * 0.3", "tg.mean($v0, axis=1, keepdims=True)", "$v0.max(axis=-1, keepdims=True)",
        "$v0[:, :1]", "$v0[:, -1:]", "tg.tanh($v0[:, :1])", "tg.sum($v0 * $v0, -1, keepdims=True) * 0.2",
    ), (
        "tg.min($v0, -1)[:, None]", "tg.logsumexp($v0, axis=-1).expand_dims(1)",
        "tg.var($v0, axis=-1).reshape(-1, 1)", "$v0[..., 0].expand_dims(-1)", "tg.std($v0 * $v0 + $v0, -1)[:, None]",
        "tg.sum($v0 * $v0, axis=(1,), keepdims=True) * 0.3",
        "tg.argmax($v0, -1, keepdims=True).astype($v0.dtype) * 0.1",
    )), 1  # fmt: skip


@enter(ORDINARY, 2.0)
def cut(d: Drawer) -> tuple[str, int]:
    a = d.value(lambda width: width > 1)
    width = d.of(a)
    start, stop = sorted(d.chance.sample(range(width + 1), 2))
    if not d.plain and d.chance.random() < 0.3:
        return d.pick("$v0[:, ::2]", "$v0[..., slice(None, None, 2)]"), (width + 1) // 2
    if not d.plain and d.chance.random() < 0.3:
        chosen = [d.chance.randrange(-width, width) for _ in range(d.width())]
        return d.pick(f"$v0[:, {chosen}]", f"tg.take($v0, {chosen}, axis=-1)"), len(chosen)
    return f"$v0[:, {start}:{stop}]", stop - start


@enter(ORDINARY, 3.0)
def joined(d: Drawer) -> tuple[str, int]:
    a, b = d.value(lambda width: width <= 3), d.value(lambda width: width <= 3)
    return d.pick("tg.concat([$v0, $v1], -1)", "tg.concat(($v0, $v1), axis=1)"), d.of(a) + d.of(b)


@enter(ORDINARY)
def grown(d: Drawer) -> tuple[str, int]:
    a = d.value(lambda width: width <= 3)
    width = d.of(a)
    if d.chance.random() < 0.5:
        return d.pick("tg.pad($v0, ((0, 0), (1, 1)), constant_values=0.5)", "tg.pad($v0, ((0, 0), (0, 2)))"), width + 2
    return d.pick("tg.repeat($v0, 2, axis=-1)", "tg.stack([$v0, -$v0], -1).reshape($v0.shape[0], -1)"), 2 * width


@enter(ORDINARY)
def split(d: Drawer) -> tuple[str, int]:
    a = d.value(lambda width: width in (2, 4, 6))
    half = d.of(a) // 2
    return d.pick(
        "tg.multiply(*tg.split($v0, 2, -1))", "tg.split($v0, 2, axis=1)[1]", f"tg.split($v0, [{half}, {half}], -1)[0]",
        f"$v0.reshape($v0.shape[0], 2, {half}).sum(1)", f"$v0.reshape(-1, {half}, 2)[:, :, 1]",
        f"($v0.reshape(-1, 2, {half}) @ $v0.reshape(-1, 2, {half}).mT).sum(-1)[:, :1] * $v0[:, :{half}]",
    ), half  # fmt: skip


@enter(ORDINARY, 8.0)
def product(d: Drawer) -> tuple[str, int]:
    a, width = d.value(), d.width()
    size = d.of(a)
    if d.chance.random() < 0.5:
        d.tensor(size, width)
        return d.pick("$v0 @ $c0", "tg.matmul($v0, $c0)", "tg.einsum('bi,ij->bj', $v0, $c0)"), width
    d.tensor(width, size)
    if d.chance.random() < 0.6:
        d.tensor(width)
        return d.pick("tg.linear($v0, $c0, $c1)", "$v0 @ $c0.T + $c1", "tg.tanh(tg.linear($v0, $c0)) * $c1"), width
    return d.pick("$v0 @ $c0.T", "tg.linear($v0, $c0)", "$v0 @ $c0.mT", "($c0 @ $v0[..., None])[..., 0]"), width


@enter(ORDINARY, 2.0)
def two_products(d: Drawer) -> tuple[str, int]:
    a, b = d.value(), d.value()
    width = d.width()
    d.tensor(d.of(a), width)
    d.tensor(d.of(b), width)
    return d.pick("$v0 @ $c0 + $v1 @ $c1", "tg.sigmoid($v0 @ $c0) * ($v1 @ $c1)"), width


@enter(ORDINARY)
def rows_of_weights(d: Drawer) -> tuple[str, int]:
    a, width = d.value(), d.width()
    size = d.of(a)
    d.tensor(2 * width, size)
    return d.pick(
        f"tg.linear($v0, $c0[:{width}])", f"$v0 @ $c0[{width}:].T",
        f"tg.linear($v0, tg.split($c0, 2)[1], $c0[:{width}, 0])",
        f"$v0 @ ($c0[:{width}] * 0.5 + $c0[{width}:]).T", "$v0 @ $c0[::2].T",
        f"$v0 @ $c0[{list(range(width))[::-1]}].T",
    ), width  # fmt: skip


@enter(ORDINARY, 2.0)
def scaled(d: Drawer) -> tuple[str, int]:
    a = d.value()
    d.tensor(d.of(a))
    return d.pick(
        "$v0 * $c0", "$v0 + $c0", "$v0 * tg.exp(0.3 * $c0)", "$v0 * tg.sigmoid($c0) + $c0", "$v0 - $c0[None]",
        "$v0 * $c0 / (tg.sqrt(tg.sum($c0 * $c0)) + 0.1)", "tg.maximum($v0, $c0)", "tg.where($v0 > $c0, $v0, $c0)",
        "tg.softmax($c0) * $v0", "$v0 * $c0.sum()", "tg.relu($v0 - $c0) + $c0.mean()",
    ), d.of(a)  # fmt: skip


@enter(ORDINARY, 2.0)
def learned_number(d: Drawer) -> tuple[str, int]:
    a = d.value()
    d.like(a)
    d.tensor(*d.pick((), (1,), (1, 1)))
    return d.pick(
        "(1 - $c0) * $v0 + $c0 * tg.tanh($v1)", "$c0 * $v0 + 0.3 * $v1", "$v0 / (tg.abs($c0) + 0.5) + $v1 * 0.5",
        "tg.exp(-tg.exp($c0)) * $v0", "tg.where($v0 > $c0, $v0, $v1)", "tg.tanh($v0 * $c0 - $c0)",
    ), d.of(a)  # fmt: skip


@enter(ORDINARY)
def looked_up(d: Drawer) -> tuple[str, int]:
    a, width = d.value(), d.width()
    d.tensor(d.of(a), width)
    return d.pick(
        "tg.embedding($c0, tg.argmax($v0, axis=-1))", "tg.take($c0, tg.argmin($v0, -1), axis=0)",
        f"tg.one_hot(tg.argmax($v0, -1), {d.of(a)}, dtype=$v0.dtype) @ $c0", "$c0[tg.argmax($v0, -1)]",
    ), width  # fmt: skip


@enter(ORDINARY)
def outer_products(d: Drawer) -> tuple[str, int]:
    a = d.value()
    d.value()
    return d.pick(
        "($v0[:, :, None] * $v1[:, None, :]).sum(-1) * 0.3", "tg.tanh(tg.einsum('bi,bj->bij', $v0, $v1)).mean(2)",
        "(($v0[:, :, None] @ $v1[:, None, :]) @ $v1[:, :, None])[..., 0] * 0.2",
    ), d.of(a)  # fmt: skip
