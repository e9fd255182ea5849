"""Operations that read Python, cut the gradient, share memory, or are a user's own: where traces go wrong."""

from __future__ import annotations

from program_parts import UNUSUAL, Drawer, enter


@enter(UNUSUAL, 4.0)
def number_read(d: Drawer) -> tuple[str, int]:
    a = d.value()
    d.number("0.5", "0.25", "0", "1", "-0.0", "0.0", "True", "False", "np.float64(0.3)", "np.int64(1)", "0.7")
    return d.pick(
        "$c0 * $v0", "$v0 + $c0", "$v0 - $c0 * tg.tanh($v0)", "tg.where($v0 > $c0, $v0, 0.1)", "tg.maximum($v0, $c0)",
        "math.copysign(0.5, $c0) * $v0", "$v0 * (0.5 if $c0 is True else 0.25)", "$v0 * math.exp(-$c0)",
        "$v0 * (0.5 if type($c0) is float else 0.25)", "$v0 * tg.full((1,), $c0, dtype=$v0.dtype) + 0.1",
        "tg.leaky_relu($v0, $c0)", "$v0 * (0.3 + 0.1 * $c0) ** 2", "$v0 / (2.0 + $c0)", "($v0 * 0.5 if $c0 else -$v0)",
        "$v0 * tg.tensor(float($c0), dtype=$v0.dtype)", "$v0 + (0.1 if $c0 > 0.4 else 0)",
    ), d.of(a)  # fmt: skip


@enter(UNUSUAL)
def bound_read(d: Drawer) -> tuple[str, int]:
    a = d.value()
    d.number("0.5", "0.3", "float('inf')", "1e9", "2")
    return d.pick("tg.clip($v0, -$c0, $c0)", "tg.minimum($v0, $c0)", "tg.maximum($v0, -$c0)"), d.of(a)


@enter(UNUSUAL)
def exponent_read(d: Drawer) -> tuple[str, int]:
    a = d.value()
    d.number("2", "2.0", "3", "0.5", "1.5", "0", "-1", "1")
    return d.pick("(tg.abs(tg.tanh($v0)) + 0.2) ** $c0", "tg.power(tg.sigmoid($v0) + 0.1, $c0)"), d.of(a)


@enter(UNUSUAL)
def axis_read(d: Drawer) -> tuple[str, int]:
    a = d.value()
    d.number("0", "1", "2", "-1")
    return d.pick("tg.roll($v0, $c0, axis=-1)", "tg.roll($v0, int($c0), 1) + $v0", "$v0 * [0.5, 0.4, 0.3][$c0]"), d.of(
        a
    )


@enter(UNUSUAL)
def repeated_in_a_loop(d: Drawer) -> tuple[str, int]:
    a = d.value()
    d.number("0", "1", "2", "3")
    d.define("def loop_$n(a, count):\n    for i in range(count):\n        a = tg.sin(a + 0.1 * i)\n    return a\n")
    return "loop_$n($v0, $c0)", d.of(a)


@enter(UNUSUAL, 0.5)
def substeps(d: Drawer) -> tuple[str, int]:
    a = d.value()
    d.like(a)
    d.number("2", "3", "5", "8")
    d.define(
        "def substeps_$n(a, b, count):\n    a, b = tg.tanh(a), tg.tanh(b)\n    for _ in range(count):\n"
        "        b = b - 0.01 * (a * a * a + 0.1 * b)\n        a = a + 0.01 * b\n    return a\n"
    )
    return "substeps_$n($v0, $v1, $c0)", d.of(a)


@enter(UNUSUAL, 0.1)
def deep(d: Drawer) -> tuple[str, int]:
    a = d.value()
    d.number("60", "300", "450")
    d.tensor(d.of(a))
    d.define(
        "def deeper_$n(a, w, count):\n    for _ in range(count):\n        a = tg.tanh(w * a + 0.1)\n    return a\n"
    )
    return "deeper_$n($v0, $c1, $c0)", d.of(a)


@enter(UNUSUAL, 2.0)
def function_read(d: Drawer) -> tuple[str, int]:
    a = d.value()
    if d.chance.random() < 0.5:
        d.capture("'tanh'", "'sigmoid'", "'sin'", kind="flag")
        return "getattr(tg, '%s' % $c0)($v0)", d.of(a)
    d.capture("tg.tanh", "tg.sigmoid", "(lambda a: 0.5 * a)", "functools.partial(tg.clip, min=-0.3)", kind="function")
    return d.pick(
        "$c0($v0)", "next(iter([$c0]))($v0)", "functools.reduce(lambda a, f: f(a), [$c0, tg.sin], $v0)"
    ), d.of(a)


@enter(UNUSUAL, 2.0)
def array_read(d: Drawer) -> tuple[str, int]:
    a = d.value()
    size = d.of(a)
    shape = d.pick(f"({size},)", f"(1, {size})", "()", "(1,)")
    d.capture(f"array{shape}", f"array{shape}", f"-array{shape}", kind="array")
    return d.pick(
        "$v0 * $c0", "$v0 + tg.from_numpy(np.asarray($c0))", "$v0 - np.sin($c0)", "tg.where($c0 > 0.0, $v0, 0.1)",
        "$v0 * float($c0.sum())", "$v0 * ($c0 * 2.0)", "tg.maximum($v0, $c0)",
    ), d.of(a)  # fmt: skip


@enter(UNUSUAL)
def matrix_of_numbers(d: Drawer) -> tuple[str, int]:
    a, width = d.value(), d.width()
    d.capture(f"array({d.of(a)}, {width})", f"array({d.of(a)}, {width})", kind="array")
    return d.pick("$v0 @ $c0", "$v0 @ tg.from_numpy($c0)", "$v0 @ tg.tensor($c0)"), width


@enter(UNUSUAL)
def tensor_of_the_batch(d: Drawer) -> tuple[str, int]:
    a = d.value()
    if d.batch is None:
        raise LookupError
    d.tensor(d.batch, d.of(a))
    return d.pick("$v0 * $c0", "$v0 + tg.tanh($c0)", "tg.where($c0 > 0.0, $v0, 0.5)"), d.of(a)


@enter(UNUSUAL, 2.0)
def cut_off(d: Drawer) -> tuple[str, int]:
    a = d.value()
    d.like(a)
    d.define("def still_$n(a):\n    with tg.no_grad():\n        return tg.tanh(a)\n")
    return d.pick(
        "$v0.detach()", "tg.tanh($v0.detach() + $v1)", "$v0 + (tg.sign($v0) - $v0).detach()",
        "$v0 - 0.5 * $v0.detach()",
        "$v0 + ($v1 - $v0).detach() * 0.5", "tg.where($v0.detach() > $v1.detach(), $v0, $v1)", "still_$n($v0) + $v1",
        "$v0.detach() * $v1 + $v0 * $v1.detach()", "$v0 * tg.sigmoid($v0.detach())",
        "tg.where($v1 > 0, $v1.detach(), $v0)",
    ), d.of(a)  # fmt: skip


@enter(UNUSUAL, 2.0)
def weight_cut_off(d: Drawer) -> tuple[str, int]:
    a = d.value()
    b, width = d.like(a), d.width()
    d.tensor(d.of(b), width)
    return d.pick(
        "$v0 @ $c0.detach() + $v1 @ $c0", "$v1 @ $c0 - 0.5 * ($v0 @ $c0.detach())", "$v0 @ ($c0 + $c0.detach())",
        "$v0 @ $c0.detach()",
    ), width  # fmt: skip


@enter(UNUSUAL, 2.0)
def shared_weights(d: Drawer) -> tuple[str, int]:
    a = d.value()
    size = d.of(a)
    d.like(a)
    made = d.pick("shared", "twice", "beside", "transposes", "parts")
    d.capture(f"{made}({size})", f"twice({size})", f"shared({size})", kind="tensors")
    return d.pick(
        "$v0 @ $c0[0] + $v1 @ $c0[1]", "tg.linear($v0, $c0[0]) + $v1 @ $c0[1]", "$v0 @ $c0[1] @ $c0[0]",
        "$v0 * $c0[0][0] + $v1 * $c0[1][0] + tg.tanh($v0 @ $c0[1])",
    ), size  # fmt: skip


@enter(UNUSUAL, 2.0)
def list_of_layers(d: Drawer) -> tuple[str, int]:
    a = d.value()
    size, count = d.of(a), d.pick(1, 2, 3)
    make = f"[learned({size}, {size}) for _ in range({count})]"
    d.capture(make, make, f"[learned({size}, {size})]", kind="tensors")
    d.define(
        "def deep_$n(a, layers):\n    for i, w in enumerate(layers):\n        a = tg.tanh(a @ w + 0.1 * i)\n"
        "    return a\n"
    )
    return d.pick("deep_$n($v0, $c0)", "functools.reduce(lambda a, w: tg.sin(a @ w), $c0, $v0)"), size


@enter(UNUSUAL)
def layer_inside(d: Drawer) -> tuple[str, int]:
    a = d.value()
    size = d.of(a)
    make = d.pick(
        f"tg.nn.Linear({size}, {size}, dtype=DTYPE)", f"tg.nn.LayerNorm({size}, dtype=DTYPE)",
        f"tg.nn.Sequential(tg.nn.Linear({size}, {size}, dtype=DTYPE), tg.tanh)",
    )  # fmt: skip
    d.capture(make, make, kind="object")
    return "tg.tanh($c0($v0))", size


@enter(UNUSUAL, 3.0)
def own_elementwise(d: Drawer) -> tuple[str, int]:
    a = d.value()
    rule, vjp = d.pick(
        ("0.3 * x * x - x", "g * (0.6 * x - 1.0)"),
        ("x / (1.0 + x * x)", "g * (1.0 - x * x) / ((1.0 + x * x) * (1.0 + x * x))"),
        ("x * 0.5 + 0.0", "g * 3.0"), ("0.25 * x", "g * x"),
    )  # fmt: skip
    d.define(
        f'@elementwise()\ndef own_${{n}}(x):\n    """{rule}, which may have a gradient of its own."""\n'
        f"    return {rule}\n\n\n"
        f'@own_${{n}}.vjp("x")\ndef _(g, x):\n    return {vjp}\n'
    )
    return d.pick("own_$n(tg.tanh($v0))", "0.5 * own_$n(tg.sigmoid($v0))", "own_$n(own_$n(tg.tanh($v0)))"), d.of(a)


@enter(UNUSUAL)
def own_of_two(d: Drawer) -> tuple[str, int]:
    a = d.value()
    d.like(a)
    d.define(
        '@elementwise()\ndef mixed_$n(a, b):\n    """a b + b / 2."""\n    return a * b + 0.5 * b\n\n\n'
        '@mixed_$n.vjp("a")\ndef _(g, b):\n    return g * b\n\n\n'
        '@mixed_$n.vjp("b")\ndef _(g, a):\n    return g * (a + 0.5)\n'
    )
    return d.pick("mixed_$n(tg.tanh($v0), $v1)", "mixed_$n(tg.tanh($v0), 0.5)", "mixed_$n(0.3, $v1)"), d.of(a)


@enter(UNUSUAL)
def own_spike(d: Drawer) -> tuple[str, int]:
    a = d.value()
    d.define(
        '@elementwise()\ndef spike_$n(x):\n    """1 above 0, with the gradient of a smooth step."""\n'
        "    return scalar.where(x > 0.0, 1.0, 0.0)\n\n\n"
        '@spike_$n.vjp("x")\ndef _(g, x):\n    return g / ((1.0 + abs(x)) * (1.0 + abs(x)))\n'
    )
    return d.pick("spike_$n($v0 - 0.1)", "spike_$n($v0) * $v0"), d.of(a)


@enter(UNUSUAL)
def own_opaque(d: Drawer) -> tuple[str, int]:
    a = d.value()
    rule, vjp = d.pick(
        ("np.tanh(x)", "g * (1.0 - tg.tanh(x) ** 2)"), ("np.clip(x, -0.5, 0.5)", "g * 1.0"),
        ("x - x.mean(-1, keepdims=True)", "g - tg.mean(g, -1, keepdims=True)"),
    )  # fmt: skip
    d.define(
        f'@opaque()\ndef opaque_${{n}}(x: Array):\n    """{rule}."""\n    return {rule}\n\n\n'
        f'@opaque_${{n}}.vjp("x")\ndef _(g, x):\n    return {vjp}\n'
    )
    return "opaque_$n($v0)", d.of(a)


@enter(UNUSUAL, 2.0)
def checkpointed(d: Drawer) -> tuple[str, int]:
    a = d.value()
    d.like(a)
    d.tensor(d.of(a))
    d.define("def inner_$n(a, b, w):\n    return tg.tanh(a * w) + 0.5 * tg.sin(b)\n")
    return d.pick(
        "tg.checkpoint(inner_$n, $v0, $v1, $c0)", "tg.checkpoint(lambda a, b: tg.tanh(a * $c0) + b, $v0, $v1)"
    ), d.of(a)


@enter(UNUSUAL)
def gradient_inside(d: Drawer) -> tuple[str, int]:
    a = d.value()
    d.define(
        "def slope_$n(a, create_graph):\n    with tg.enable_grad():\n        if not a.requires_grad:\n"
        "            a = a.detach()\n            a.requires_grad = True\n"
        "        return tg.grad(tg.sum(tg.sin(a) * 0.5), [a], create_graph=create_graph)[0]\n"
    )
    return d.pick("$v0 - slope_$n($v0, True)", "$v0 + slope_$n($v0, False)", "tg.jvp(tg.sin, [$v0], [$v0])[1]"), d.of(a)


@enter(UNUSUAL)
def dropped_out(d: Drawer) -> tuple[str, int]:
    a = d.value()
    if d.chance.random() < 0.3:
        d.capture("np.random.default_rng(5)", "np.random.default_rng(6)", kind="object")
        return "tg.dropout($v0, 0.3, rng=$c0)", d.of(a)
    d.capture("True", "False", kind="flag")
    return d.pick(
        "tg.dropout($v0, 0.3)", "tg.dropout($v0, 0.5, training=$c0)", "tg.dropout($v0, 0.2) + tg.dropout($v0, 0.4)",
        "tg.dropout($v0, 0.3, $training)", "tg.dropout($v0, 0.3, training=$training)",
    ), d.of(a)  # fmt: skip


@enter(UNUSUAL)
def mode_read(d: Drawer) -> tuple[str, int]:
    a = d.value()
    return d.pick("$v0 * (0.5 if $training else 0.25)", "(tg.sin($v0) if $training else $v0)"), d.of(a)


@enter(UNUSUAL, 0.5)
def rows_mixed(d: Drawer) -> tuple[str, int]:
    a = d.value()
    return d.pick("$v0 - $v0.mean(0, keepdims=True)", "$v0[::-1]", "$v0 + $v0[:1]", "$v0 * tg.tanh($v0.sum())",
                  "tg.roll($v0, 1, 0)", "(($v0.T @ $v0) @ $v0.T).T * 0.1"), d.of(a)  # fmt: skip


@enter(UNUSUAL, 0.5)
def value_read(d: Drawer) -> tuple[str, int]:
    a = d.value()
    d.define(
        "def decided_$n(a):\n    try:\n        return a * 0.5 if float(a.sum()) > 0.0 else tg.sin(a)\n"
        "    except TypeError:\n        return a\n"
    )
    return d.pick(
        "decided_$n($v0)", "$v0 * float(np.tanh($v0.numpy().sum()))", "$v0 if ($v0 > 0.1).any() else -$v0"
    ), d.of(a)


@enter(UNUSUAL, 0.5)
def caught(d: Drawer) -> tuple[str, int]:
    a = d.value()
    d.define(
        "def tried_$n(a):\n    try:\n        return a @ tg.zeros(7, 8, dtype=a.dtype)\n    except ValueError:\n"
        "        return tg.tanh(a)\n"
    )
    return "tried_$n($v0)", d.of(a)


@enter(UNUSUAL, 0.3)
def written_in_place(d: Drawer) -> tuple[str, int]:
    a = d.value()
    d.define("def written_$n(a):\n    b = a.detach() * 1.0\n    b += 0.5\n    return b * a\n")
    return "written_$n($v0)", d.of(a)


@enter(UNUSUAL, 0.3)
def hooked(d: Drawer) -> tuple[str, int]:
    a = d.value()
    d.define(
        "def hooked_$n(a):\n    b = tg.sin(a)\n    if b.requires_grad:\n"
        "        b.register_hook(lambda g: g * 0.5)\n    return b\n"
    )
    return "hooked_$n($v0)", d.of(a)
