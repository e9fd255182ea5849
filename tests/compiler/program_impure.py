"""Operations that are no function of what they read: coins, counters, logs, clocks, writes, exceptions."""

from __future__ import annotations

from program_parts import IMPURE, Drawer, enter

#: How a line reads something that moves: definitions, the number it gives, and what to compare afterwards.
MOVING = {
    "coin": ("", "random.random()", "random.getstate()"),
    "coin of two sides": ("", "(0.5 if random.random() < 0.5 else 0.25)", "random.getstate()"),
    "coin that mostly falls so": ("", "(0.5 if random.random() < 0.9 else 0.25)", "random.getstate()"),
    "NumPy's coin": ("", "np.random.rand()", "np.random.get_state()[1:3]"),
    "generator of NumPy": ("dice_$n = np.random.default_rng(3)\n", "dice_$n.random()", "dice_$n.bit_generator.state"),
    "own source": ("dice_$n = random.Random(3)\n", "dice_$n.random()", "dice_$n.getstate()"),
    "shuffled list": ("deck_$n = [0.1, 0.3, 0.5]\n", "(random.shuffle(deck_$n), deck_$n[0])[1]", "deck_$n"),
    "the library's coin": ("", "float(tg.rand(1)[0])", "None"),
    "count": ("moves_$n = itertools.count()\n", "(0.3 if next(moves_$n) < 6 else 0.5)", "repr(moves_$n)"),
    "cycle": ("moves_$n = itertools.cycle([0.1, 0.2, 0.3])\n", "next(moves_$n)", "next(moves_$n)"),
    "schedule": ("moves_$n = iter([0.5] * 5 + [0.25] * 10000)\n", "next(moves_$n)", "moves_$n.__length_hint__()"),
    "generator": (
        "def made_$n():\n    i = 0\n    while True:\n        i += 1\n        yield 1.0 / i\n\n\nmoves_$n = made_$n()\n",
        "next(moves_$n)", "moves_$n.gi_frame.f_locals['i'] if moves_$n.gi_frame else None",
    ),
    "count in a list": (
        "count_$n = [0]\n\n\ndef moved_$n():\n    count_$n[0] += 1\n    return 0.5 if count_$n[0] <= 6 else 0.25\n",
        "moved_$n()", "count_$n",
    ),
    "count in a global": (
        "count_$n = 0\n\n\ndef moved_$n():\n    global count_$n\n    count_$n += 1\n    return 1.0 / count_$n\n",
        "moved_$n()", "count_$n",
    ),
    "count in an object": (
        "count_$n = types.SimpleNamespace(n=0)\n\n\ndef moved_$n():\n    count_$n.n += 1\n"
            "    return 0.1 * min(count_$n.n, 5)\n",
        "moved_$n()", "count_$n.n",
    ),
    "count in a dictionary": (
        "count_$n = collections.Counter()\n\n\ndef moved_$n(key='step'):\n    count_$n[key] += 1\n"
        "    return {1: 0.1, 2: 0.2}.get(count_$n[key], 0.5)\n",
        "moved_$n()", "dict(count_$n)",
    ),
    "count in a closure": (
        "def outer_$n():\n    n = 0\n\n    def moved():\n        nonlocal n\n        n += 1\n"
            "        return 0.5 if n % 3 else 0.25\n\n"
        "    return moved\n\n\nmoved_$n = outer_$n()\n", "moved_$n()", "moved_$n.__closure__[0].cell_contents",
    ),
    "count on a function": (
        "def moved_$n():\n    moved_$n.calls += 1\n    return 0.5 if moved_$n.calls < 7 else 0.2\n\n\n"
            "moved_$n.calls = 0\n",
        "moved_$n()", "moved_$n.calls",
    ),
    "count in a NumPy array": (
        "count_$n = np.zeros(1)\n\n\ndef moved_$n():\n    count_$n[0] += 1.0\n    return 1.0 / count_$n[0]\n",
            "moved_$n()", "count_$n",
    ),
    "count in a property": (
        "class Moves_$n:\n    n = 0\n\n    @property\n    def value(self):\n        self.n += 1\n"
            "        return 0.5 / self.n\n\n\n"
        "moves_$n = Moves_$n()\n", "moves_$n.value", "moves_$n.n",
    ),
    "list that is emptied": ("deck_$n = [0.5] * 5 + [0.3] * 10000\n", "deck_$n.pop(0)", "len(deck_$n)"),
    "queue that turns": (
        "deck_$n = collections.deque([0.5, 0.4, 0.3])\n", "(deck_$n.rotate(1), deck_$n[0])[1]", "list(deck_$n)",
    ),
    "length of a log": ("log_$n = []\n", "(log_$n.append(1.0), 1.0 / len(log_$n))[1]", "len(log_$n)"),
    "log": ("log_$n = []\n", "(log_$n.append('step'), 0.5)[1]", "log_$n"),
    "set": ("known_$n = set()\n", "(known_$n.add(len(known_$n)), 0.5)[1]", "known_$n"),
    "dictionary": ("known_$n = {}\n", "(known_$n.update({len(known_$n): 1}), 0.5)[1]", "known_$n"),
    "clock": ("", "(0.5 if time.perf_counter() > 0.0 else 0.1)", "None"),
    "print": ("page_$n = io.StringIO()\n", "(print('a step', file=page_$n), 0.5)[1]", "page_$n.getvalue()"),
    "print to the screen": ("", "(print('a step'), 0.5)[1]", "None"),
    "page turned": ("page_$n = io.StringIO('0.5\\n0.4\\n' * 9999)\n", "float(page_$n.readline())", "page_$n.tell()"),
    "cached function": (
        "@functools.lru_cache(maxsize=None)\ndef cached_$n(key):\n    return 0.5\n", "cached_$n(1)",
        "cached_$n.cache_info()[:2]",
    ),
    "exception": (
        "count_$n = [0]\n\n\ndef moved_$n():\n    count_$n[0] += 1\n    if count_$n[0] in (5, 30):\n"
        "        raise KeyError('the fifth step')\n    return 0.5\n", "moved_$n()", "count_$n",
    ),
    "end of an iterator": ("moves_$n = iter([0.5] * 17)\n", "next(moves_$n)", "moves_$n.__length_hint__()"),
}  # fmt: skip


@enter(IMPURE, 6.0)
def moving_number(d: Drawer) -> tuple[str, int]:
    a = d.value()
    definition, number, observed = MOVING[d.pick(*MOVING)]
    if definition:
        d.define(definition)
    d.observe(observed)
    return d.pick(f"$v0 * {number}", f"{number} * $v0", f"$v0 + {number}"), d.of(a)


@enter(IMPURE)
def branch_on_what_moves(d: Drawer) -> tuple[str, int]:
    a = d.value()
    d.like(a)
    definition, number, observed = MOVING[
        d.pick("coin", "coin of two sides", "count", "count in a list", "cycle", "own source")
    ]
    if definition:
        d.define(definition)
    d.observe(observed)
    return f"$v0 if {number} < 0.3 else $v1", d.of(a)


@enter(IMPURE)
def tensors_kept(d: Drawer) -> tuple[str, int]:
    a = d.value()
    d.define("kept_$n = []\n\n\ndef keep_$n(a):\n    kept_$n.append(a.detach())\n    return a\n")
    d.observe("len(kept_$n), [a.numpy() for a in kept_$n[-3:]]")
    return d.pick("keep_$n($v0)", "keep_$n($v0) + 0.1 * len(kept_$n)", "(keep_$n($v0), $v0 * 0.5)[1]"), d.of(a)


@enter(IMPURE)
def last_step_kept(d: Drawer) -> tuple[str, int]:
    a = d.value()
    d.define(
        "last_$n = {}\n\n\ndef with_last_$n(a):\n    before = last_$n.get(a.shape, 0.0)\n"
        "    last_$n[a.shape] = a.detach()\n"
        "    return a + 0.5 * before\n"
    )
    d.observe("{shape: a.numpy() for shape, a in last_$n.items()}")
    return "with_last_$n($v0)", d.of(a)


@enter(IMPURE)
def identity(d: Drawer) -> tuple[str, int]:
    a = d.value()
    d.define(
        "met_$n = []\n\n\ndef met_before_$n(a):\n    known = any(one is a for one in met_$n)\n    met_$n.append(a)\n"
        "    return a * (0.5 if known else 0.25)\n"
    )
    d.observe("len(met_$n)")
    return "met_before_$n($v0)", d.of(a)


@enter(IMPURE)
def buffer_written(d: Drawer) -> tuple[str, int]:
    a = d.value()
    d.define(
        "total_$n = tg.zeros(1, dtype=DTYPE)\n\n\ndef counted_$n(a):\n    with tg.no_grad():\n"
        "        total_$n.copy_(total_$n + 0.1)\n    return a * 0.5\n"
    )
    d.observe("total_$n.numpy()")
    return d.pick("counted_$n($v0)", "counted_$n($v0) + total_$n.detach() * 1.0"), d.of(a)
