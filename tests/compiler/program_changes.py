"""What is changed between two calls of a step: everything that it can read."""

from __future__ import annotations

import random
from dataclasses import dataclass

from program_places import Placed
from program_styles import Written


@dataclass(frozen=True)
class Change:
    """Statements of the program's module: `do`, and `undo` to have it as before."""

    what: str
    do: str
    undo: str


def _of_a_tensor(chance: random.Random, thing: Placed, read: str, what: str) -> Change:
    kind = chance.choice(("copy_", "copy_", "item", "requires_grad"))
    old = f"old_{thing.name}"
    if kind == "requires_grad":
        flip = f"{read}.requires_grad = not {read}.requires_grad"
        return Change(f"{what}: requires_grad", flip, flip)
    write = {"copy_": f"{read}.copy_({read} * -0.7 + 0.1)", "item": f"{read}[...] = {read} * 0.5 - 0.2"}[kind]
    return Change(
        f"{what}: written in place",
        f"with tg.no_grad():\n    {old} = {read}.numpy().copy()\n    {write}",
        f"with tg.no_grad():\n    {read}.copy_({old})",
    )


def _of_a_thing(chance: random.Random, thing: Placed) -> Change:
    read, what, old = thing.outside, f"{thing.name} ({thing.place})", f"old_{thing.name}"
    kind = thing.capture.kind
    if kind == "tensor" and chance.random() < 0.6:
        return _of_a_tensor(chance, thing, read, what)
    if kind == "tensors":
        sort = chance.choice(("first", "last", "item", "length", "all"))
        if sort in ("first", "last"):
            return _of_a_tensor(chance, thing, f"{read}[{0 if sort == 'first' else -1}]", what)
        if sort == "item":
            return Change(
                f"{what}: an item", f"{old} = {read}[-1]\n{read}[-1] = learned(*{old}.shape)", f"{read}[-1] = {old}"
            )
        if sort == "length":
            return Change(f"{what}: one more", f"{read}.append(learned(*{read}[0].shape))", f"{read}.pop()")
    if kind == "array" and chance.random() < 0.6:
        return Change(
            f"{what}: the array in place", f"np.negative({read}, out={read})", f"np.negative({read}, out={read})"
        )
    if kind == "object" and chance.random() < 0.5 and "tg.nn" in thing.capture.make:
        first = f"next({read}.parameters())"
        return _of_a_tensor(chance, thing, first, what)
    value = chance.choice(thing.capture.others)
    undo = thing.write.replace("$value", old)
    if thing.place == "class attribute shadowed":
        undo = f"del it.{thing.name}"
    elif thing.place == "shadowed mapping":
        undo = f"del CHAIN.maps[0]['{thing.name}']"
    if thing.place == "class attribute" and kind == "function":
        undo = f"Program.{thing.name} = staticmethod({old})"
    return Change(f"{what} = {value}", f"{old} = {read}\n{thing.write.replace('$value', value)}", undo)


def _of_the_step(chance: random.Random, program: Written) -> Change:
    constants = "tuple([0.125 if type(c) is float and c == {} else c for c in RAW.__code__.co_consts])"
    sorts = ["code"]
    if program.style in ("object", "method", "cell"):
        sorts += ["method", "method", "kind"]
    if program.style == "cell":
        sorts += ["own method", "mode", "mode"]
    sort = chance.choice(sorts)
    halved = "(lambda old: lambda *parts: (lambda a, b: {})(*old(*parts)))({})"
    if sort == "method":
        name = "__call__" if program.style == "object" else "step"
        body = "(a * 0.5, b)" if program.style == "cell" else "(a, b)"
        made = halved.format(body, "old_step")
        return Change(
            "the method on its class",
            f"old_step = Program.{name}\nProgram.{name} = {made}",
            f"Program.{name} = old_step",
        )
    if sort == "kind":
        name = "__call__" if program.style == "object" else "step"
        body = "(a * 0.5, b)" if program.style == "cell" else "(a, b)"
        made = halved.format(body, f"Program.{name}")
        return Change(
            "the class of the object",
            f"it.__class__ = type('Other', (Program,), {{'{name}': {made}}})",
            "it.__class__ = Program",
        )
    if sort == "own method":
        return Change(
            "a step of the object's own", f"it.step = {halved.format('(a * 0.5, b)', 'it.step')}", "del it.step"
        )
    if sort == "mode":
        return Change("eval()", "it.eval()", "it.train()")
    return Change(
        "the code of the step",
        f"old_code = RAW.__code__\nRAW.__code__ = RAW.__code__.replace(co_consts={constants.format(program.gain)})",
        "RAW.__code__ = old_code",
    )


def drawn_change(chance: random.Random, program: Written) -> Change:
    """A change of something that the program reads."""
    sorts = [*["thing"] * 3 * len(program.placed), *["helper"] * 2 * len(program.helpers), "step", "step"]
    sort = chance.choice(sorts)
    if sort == "thing":
        return _of_a_thing(chance, chance.choice(program.placed))
    if sort == "helper":
        name = chance.choice(program.helpers)
        made = f"(lambda old: lambda *parts: 0.5 * old(*parts))(old_{name})"
        return Change(f"the function {name}", f"old_{name} = {name}\n{name} = {made}", f"{name} = old_{name}")
    return _of_the_step(chance, program)
