"""The actions of `sequences` that have to do with gradients, and the drawing of a whole program."""

from __future__ import annotations

import jets
import numpy as np
from jets import Ref
from sequence_actions import QUIET, Source
from sequences import Action


class Gradients(Source):
    """Draws backwards too, and what is done with what they leave."""

    # --- Gradients that are held ---

    def held(self):
        """Something done with the `grad` of a leaf."""
        name = self.some(lambda ref: ref.columns is not None and ref.grad is not None)
        if name is None:
            return None
        g, number = self.name("g"), self.number()
        refs, shape = self.machine.refs, self.shape(name)
        other = self.some(lambda ref: not ref.tracked and ref.value.shape == shape and ref.value.flags.writeable)
        way = self.chance.choice(["none", "name", "name", "scale", "set", "step", "step", "clip", "give"])
        if way == "none":
            return Action(f"{name}.grad = None", (name,), lambda m: setattr(m.refs[name], "grad", None))
        if way == "name":
            return Action(
                f"{g} = {name}.grad", (name,), lambda m: m.refs.__setitem__(g, m.refs[name].grad),
                lambda m: m.refs[name].grad is not None,
            )  # fmt: skip
        if way == "give" and other is not None:
            return Action(
                f"{name}.grad = {other}", (name, other), lambda m: setattr(m.refs[name], "grad", m.refs[other])
            )
        if way == "step" and refs[name].leaf:
            return Action(
                f"tg.optim.SGD([{name}], 0.1).step()", (name,),
                lambda m: m.write(m.refs[name], ..., m.refs[name].value - 0.1 * m.refs[name].grad.value),
                lambda m: m.refs[name].grad is not None,
                lambda m: not m.refs[name].value.flags.writeable,
            )  # fmt: skip
        if way == "clip":

            def clip(m):
                grad = m.refs[name].grad
                m.write(grad, ..., grad.value * min(1.0, 0.5 / (np.linalg.norm(grad.value) + 1e-6)))

            return Action(
                f"tg.optim.clip_grad_norm_([{name}], 0.5)", (name,), clip,
                lambda m: m.refs[name].grad is not None,
                lambda m: False,
            )  # fmt: skip
        return Action(
            f"{name}.grad *= {number}", (name,),
            lambda m: m.write(m.refs[name].grad, ..., m.refs[name].grad.value * number),
            lambda m: m.refs[name].grad is not None,
            lambda m: m.refs[name].grad.tracked,
        )  # fmt: skip

    def listen(self):
        """A hook or `retain_grad`, before anything is made from the tensor.

        It is a leaf or a product with 1: a hook on a result that its own derivative is written in (tanh) acts on a
        derivative of second order through that result too, so that it depends on the formula.
        """
        ways = ["retain"] * 3 + ["scale"] * 2 + ["mask"] * 2 + ["see"] * 2 + ["write"] * 3
        old, way = self.some(lambda ref: ref.tracked and ref.order), self.chance.choice(ways)
        if old is None:
            return None
        if way == "see":
            return self.see()
        size, leaf = self.machine.refs[old].value.size, self.machine.refs[old].leaf
        if way == "retain" and (leaf or not self.room(size)):
            return None
        name = old if leaf else self.name("h")
        factors = np.full(self.shape(old), self.chance.choice([2.0, -0.5]))
        if way == "mask":
            factors = np.array([self.chance.choice([0.0, 1.0, 2.0]) for _ in range(size)]).reshape(factors.shape)
        hook = {
            "retain": "retain_grad()",
            "write": f"register_hook(lambda g: (g.__imul__({factors.flat[0]}), None)[1])",
        }.get(way, f"register_hook(lambda g: g * np.array({factors.tolist()}))")

        def effect(m):
            if not leaf:
                m.define(name, jets.scaled(m.refs[old], 1.0), operands=(m.refs[old],))
            made = m.refs[name]
            if way == "retain":
                made.follow(m.columns(size))
            else:
                made.weigh(factors)
            m.risky = m.risky or way == "write"

        def ready(m):
            ref = m.refs[old]
            if leaf:
                return not ref.used and ref.leaf and sum(r is ref for r in m.refs.values()) == 1
            return ref.order > 0

        return Action(f"{'' if leaf else f'{name} = {old} * 1.0; '}{name}.{hook}", (old,), effect, ready)

    def see(self):
        """A hook that keeps what it sees."""
        name = self.some(lambda ref: ref.columns is not None and ref.tracked and not ref.used)
        if name is None or name in self.machine.listeners:
            return None

        def effect(m):
            m.listeners[name] = m.refs[name]
            m.refs[name].used = True  # a hook from here on would change what is not seen

        return Action(
            f"{name}.register_hook(lambda g: kept.append(({name!r}, g)))", (name,), effect,
            lambda m: not m.refs[name].used and name not in m.listeners,
        )  # fmt: skip

    # --- Backward ---

    def root(self):
        return self.some(lambda ref: ref.order > 0)

    def seed(self, root):
        """The text of a gradient to start from and its reference, as a function of the machine; names it uses."""
        shape = self.shape(root)
        other = self.some(lambda ref: ref.value.shape == shape)
        if int(np.prod(shape)) == 1 and self.chance.random() < 0.7:
            return "None", lambda m: Ref(np.ones(shape)), ()
        if other is not None and self.chance.random() < 0.5:
            return other, lambda m: m.refs[other], (other,)
        text, value = self.array(shape)
        return text, lambda m: Ref(value), ()

    def flags(self):
        record = self.chance.random() < 0.3
        retain = self.chance.random() < 0.75
        return record, retain or record, f"retain_graph={retain}, create_graph={record}"

    def backward(self):
        root = self.root()
        if root is None:
            return None
        text, seed, uses = self.seed(root)
        record, retained, flags = self.flags()

        def effect(m):
            m.accumulate(m.arrived([m.refs[root]], [seed(m)], record, retained), record)

        def ready(m):
            held = [ref.grad for _, ref in m.followed() if ref.grad is not None]
            return not record or all(g.order > 0 or not g.tracked for g in held)

        return Action(f"{root}.backward({text}, {flags})", (root, *uses), effect, ready, lambda m: None)

    def grad(self):
        roots = sorted({self.root(), self.root() if self.chance.random() < 0.2 else None} - {None})
        wanted, other = (self.some(lambda ref: ref.columns is not None and ref.tracked) for _ in "ab")
        if not roots or wanted is None:
            return None
        starts = [self.seed(root) for root in roots]
        record, _, flags = self.flags()
        retained = "retain_graph=True" in flags
        names, inputs = (self.name("g"), self.name("g")), (wanted, other)
        line = f"tg.grad([{', '.join(roots)}], [{wanted}, {other}], [{', '.join(text for text, _, _ in starts)}]"
        line = f"{names[0]}, {names[1]} = {line}, {flags}, allow_unused=True)"

        def effect(m):
            found = m.arrived([m.refs[root] for root in roots], [seed(m) for _, seed, _ in starts], record, retained)
            for name, of in zip(names, inputs):
                ref = m.refs[of]
                part = jets.moved(lambda v, ref=ref: v[ref.columns].reshape(ref.value.shape), found)
                got = m.space[name]
                m.check(f"the gradient {name}", np.zeros(part.value.shape) if got is None else got, part.value)
                if got is not None:
                    m.history(name, got, part, record)
                    m.define(name, part if got.requires_grad else Ref(part.value))
            if m.space[names[0]] is m.space[names[1]] and names[0] in m.refs:  # one input, given twice
                m.refs[names[1]] = m.refs[names[0]]
            m.compared += 1

        quiet = QUIET if self.chance.random() < 0.1 else ""
        uses = (*roots, wanted, other, *(name for _, _, more in starts for name in more))
        return Action(quiet + line, uses, effect, refusal=lambda m: None)


WEIGHTS = {
    Gradients.leaf: 1,
    Gradients.buffer: 1.5,
    Gradients.shared: 1.2,
    Gradients.again: 0.7,
    Gradients.detached: 1,
    Gradients.unary: 5,
    Gradients.along: 2,
    Gradients.binary: 7,
    Gradients.view: 3,
    Gradients.itself: 0.4,
    Gradients.picked: 3,
    Gradients.write: 5,
    Gradients.rewrite_selector: 2,
    Gradients.held: 2,
    Gradients.listen: 1.5,
    Gradients.backward: 3,
    Gradients.grad: 2.5,
    Gradients.frozen: 0.3,
    Gradients.thawed: 0.6,
    Gradients.forget: 0.5,
    Gradients.watch: 0.15,
}


def draw(machine, chance):
    """Actions, one after another: each drawn when the one before it has run."""
    source = Gradients(machine, chance)
    yield source.leaf()
    yield source.leaf() if chance.random() < 0.6 else source.buffer()
    makers, weights = zip(*WEIGHTS.items())
    soon = [weight * (6 if maker in (Gradients.backward, Gradients.grad) else 1) for maker, weight in WEIGHTS.items()]
    written = False
    for _ in range(200):
        maker = chance.choices(makers, soon if written else weights)[0]
        action = maker(source)
        if action is not None:
            yield action
            written = maker in (Gradients.write, Gradients.rewrite_selector)
