"""The actions of `sequences`: what a program may do next, drawn from what there is."""

from __future__ import annotations

import functools

import jets
import numpy as np
from jets import COLUMNS, Ref
from sequence_functions import ALONG, BINARY, UNARY, VIEWS, broadcasts
from sequences import Action

SHAPES = [(2,), (2,), (2, 2), (2, 2), (1, 2), (), (3,), (2, 1)]
QUIET = "with tg.no_grad(): "
#: Two rows that overlap: a view that NumPy does not know the owner of.
STRIDED = "np.lib.stride_tricks.as_strided({0}, (2, 2), (8, 8), writeable=True)"


class Source:
    """Draws actions for a machine. A method returns None where there is nothing to do it with."""

    def __init__(self, machine, chance):
        self.machine, self.chance, self.count = machine, chance, 0

    # --- Choosing ---

    def name(self, letter):
        self.count += 1
        return f"{letter}{self.count}"

    def number(self):
        return self.chance.choice([0.5, -0.5, 2.0, round(self.chance.uniform(-2, 2), 2)])

    def array(self, shape):
        """Its text and its value."""
        value = np.array([self.number() for _ in range(int(np.prod(shape)))]).reshape(shape)
        return f"np.array({value.tolist()})", value

    def some(self, accept=lambda ref: True):
        """The name of a tensor, the younger the likelier; None if there is none."""
        names = [name for name, ref in self.machine.refs.items() if accept(ref)]
        return names[-1 - int(len(names) * self.chance.random() ** 2)] if names else None

    def shape(self, name):
        return self.machine.refs[name].value.shape

    def room(self, size):
        return self.machine.free + size <= COLUMNS

    # --- New tensors ---

    def leaf(self):
        shape = self.chance.choice(SHAPES)
        if not self.room(int(np.prod(shape))):
            return None
        name, (text, value) = self.name("x"), self.array(shape)

        def effect(m):
            m.define(name, jets.leaf(value.copy(), m.columns(value.size), m.order))

        return Action(f"{name} = tg.tensor({text}, requires_grad=True)", (), effect)

    def buffer(self):
        name, (text, value) = self.name("c"), self.array(self.chance.choice(SHAPES))
        return Action(f"{name} = tg.tensor({text})", (), lambda m: m.define(name, Ref(value.copy())))

    def shared(self):
        """Two tensors on one NumPy array."""
        array, name, other, (text, value) = self.name("a"), self.name("c"), self.name("c"), self.array((2, 2))
        part = self.chance.choice(["{0}", "{0}[0]", "{0}[:, ::-1]", "{0}.T", "{0}[1:]", STRIDED, STRIDED])
        line = f"{array} = {text}; {name} = tg.from_numpy({array}); {other} = tg.from_numpy({part.format(array)})"

        def effect(m):
            whole = value.copy()
            m.define(name, base := Ref(whole))
            base.value = whole  # `define` may have laid a copy
            m.define(other, Ref(eval(part.format("whole"), {"whole": whole, "np": np})), operands=(base,))

        return Action(line, (), effect)

    def again(self):
        """A leaf in the memory of another tensor."""
        old = self.some(lambda ref: self.room(ref.value.size))
        if old is None:
            return None
        name = self.name("x")
        way = self.chance.choice(["{0}.detach()", "{0}.detach()", "copy.copy({0})", "tg.tensor({0})"])
        if "copy" in way and not self.machine.refs[old].leaf:
            way = "{0}.detach()"

        def effect(m):
            value = m.refs[old].value
            made = jets.leaf(value.copy() if "tensor" in way else value, m.columns(value.size), m.order)
            made.grad = m.refs[old].grad if "copy" in way else None
            m.define(name, made, operands=(m.refs[old],))

        def ready(m):
            return m.refs[old].leaf or "copy" not in way

        return Action(f"{name} = {way.format(old)}; {name}.requires_grad = True", (old,), effect, ready)

    def detached(self):
        old, name = self.some(), self.name("d")
        way = self.chance.choice(
            ["{0}.detach()", "{0}.detach()", "tg.from_numpy({0}.numpy())", "tg.from_numpy(np.asarray({0}))"]
        )

        def effect(m):
            value = m.refs[old].value.view()
            value.flags.writeable = value.flags.writeable and "numpy" not in way
            m.define(name, Ref(value), operands=(m.refs[old],))

        return Action(f"{name} = {way.format(old)}", (old,), effect)

    # --- Operations ---

    def operation(self, template, compute, *operands):
        name, quiet = self.name("v"), self.chance.random() < 0.08
        text = template.format(*operands)
        if self.chance.random() < 0.06:
            names = "ab"[: len(operands)]
            text = f"tg.checkpoint(lambda {', '.join(names)}: {template.format(*names)}, {', '.join(operands)})"

        def effect(m):
            refs = tuple(m.refs[operand] for operand in operands)
            m.define(name, compute(*refs), quiet, refs)

        return Action(f"{QUIET if quiet else ''}{name} = {text}", operands, effect)

    def unary(self):
        template, compute = self.chance.choice(UNARY)
        return self.operation(template, compute, self.some())

    def along(self):
        template, compute = self.chance.choice(ALONG)
        old = self.some(lambda ref: ref.value.ndim > 0)
        return self.operation(template, compute, old) if old else None

    def binary(self):
        template, fits, compute = self.chance.choice(BINARY)
        one = self.some()
        other = self.some(lambda ref: fits(self.shape(one), ref.value.shape))
        return self.operation(template, compute, one, other) if other else None

    def view(self):
        template, fits, function = self.chance.choice(VIEWS)
        old = self.some(lambda ref: fits(ref.value.shape))
        return self.operation(template, functools.partial(jets.moved, function), old) if old else None

    def itself(self):
        """Another name of the same tensor."""
        old, name = self.some(), self.name("v")
        way = self.chance.choice(["{0}.astype('float64')", "{0}.named('n')", "tg.dropout({0}, 0.5, training=False)"])

        def effect(m):
            m.refs[name] = m.refs[old]

        return Action(f"{name} = {way.format(old)}", (old,), effect)

    def picked(self):
        """Operations that save an index or a truth value, which a program may change too."""
        wide = self.some(lambda ref: ref.value.ndim > 0 and ref.value.shape[0] > 1)
        names = [name for name in self.machine.plain if name[0] in "ib"]
        if not names or self.chance.random() < 0.3:
            return self.selector()
        by = self.chance.choice(sorted(names))
        if wide is None:
            return None
        name, shape = self.name("v"), self.shape(wide)
        if by[0] == "b":
            other = self.some(lambda ref: broadcasts(shape, ref.value.shape))
            templates = {"tg.where({2}, {0}, {1})": lambda by, a, b: jets.chosen(by, a, b)}
            if not broadcasts(shape, (2,)) or not broadcasts(self.shape(other), (2,)):
                return None
        else:
            other = wide
            templates = {
                "tg.take({0}, {2})": lambda by, a, b: jets.moved(lambda v: v[by], a),
                "{0}[{2}]": lambda by, a, b: jets.moved(lambda v: v[by], a),
            }
            if shape[-1] > 1:
                templates["tg.take({0}, {2}, axis=-1)"] = lambda by, a, b: jets.moved(lambda v: v[..., by], a)
            if len(shape) == 2:
                templates["tg.embedding({0}, {2})"] = templates["{0}[{2}]"]
                if len(self.machine.space[by]) == shape[0] and shape[1] > 1:
                    templates["tg.cross_entropy({0}, {2})"] = lambda by, a, b: jets.cross_entropy(a, by)
        template = self.chance.choice(sorted(templates))
        compute = templates[template]

        def effect(m):
            refs = (m.refs[wide], m.refs[other])
            m.define(name, compute(np.array(m.space[by]), *refs), operands=refs)

        return Action(f"{name} = {template.format(wide, other, by)}", (wide, other, by), effect)

    def selector(self):
        if self.chance.random() < 0.5:
            name, values = self.name("b"), [self.chance.random() < 0.5, True]
        else:
            name, values = self.name("i"), [self.chance.randrange(2) for _ in range(self.chance.choice([2, 3]))]
        return Action(f"{name} = tg.tensor({values})", (), lambda m: m.plain.add(name))

    # --- Writes ---

    def target(self):
        kinds = [
            lambda ref: ref.used and not ref.tracked,
            lambda ref: ref.used and not ref.tracked,
            lambda ref: ref.used and ref.leaf,
            lambda ref: ref.used,
            lambda ref: True,
        ]
        return self.some(self.chance.choice(kinds))

    def write(self):
        """In-place writes, with the key that they go to and what stands there afterwards."""
        name = self.target()
        if name is None:
            return None
        shape = self.shape(name)
        other = self.some(lambda ref: ref.value.shape in (shape, (), shape[1:]))
        number, quiet = self.number(), self.chance.random() < (0.9 if self.machine.refs[name].tracked else 0.3)
        first = bool(shape)
        behind = self.machine.refs[name].tracked and self.chance.random() < 0.3
        ways = [
            ("{0}[...] = {2}", False, ..., lambda old, value: number),
            ("{0} += {2}", False, ..., lambda old, value: old + number),
            ("{0} *= {2}", False, ..., lambda old, value: old * number),
            ("{0} /= 2.0", False, ..., lambda old, value: old / 2.0),
        ]
        if first:
            ways.append(("{0}[0] = {2}", False, 0, lambda old, value: number))
            if not self.machine.refs[name].tracked or self.machine.refs[name].leaf:  # else half of it is refused
                ways.append(("{0}[::-1] -= {2}", False, slice(None, None, -1), lambda old, value: old - number))
        if other is not None:
            ways += [
                ("{0}.copy_({1})", True, ..., lambda old, value: value),
                ("{0} -= {1}", True, ..., lambda old, value: old - value),
            ]
            if first and self.shape(other) in ((), shape[1:]):
                ways.append(("{0}[-1] = {1}", True, -1, lambda old, value: value))
        template, takes, key, change = self.chance.choice(ways)
        text = f"{name}.detach()" if behind and template.startswith(("{0}[", "{0}.copy_")) else name
        line = f"{QUIET if quiet else ''}{template.format(text, other, number)}"

        def effect(m):
            target, value = m.refs[name], m.refs[other].value if takes else None
            m.write(target, key, change(np.array(target.value[key]), value))

        def refusal(m):
            target = m.refs[name]
            if not target.value.flags.writeable:
                return True
            if text == name and target.tracked and (not target.leaf or not quiet):
                return True
            return takes and m.refs[other].tracked and not quiet

        return Action(line, (name, other) if takes else (name,), effect, refusal=refusal)

    def rewrite_selector(self):
        names = sorted(name for name in self.machine.plain if name[0] in "ib")
        if not names:
            return None
        name = self.chance.choice(names)
        old = self.machine.space[name][0].item()
        change = f"{name}[0] = {not old if name[0] == 'b' else 1 - old}"
        return Action(change, (name,), lambda m: setattr(m, "risky", True), refusal=lambda m: False)

    # --- Other ---

    def frozen(self):
        """A leaf that requires no gradient for a while."""
        name = self.some(lambda ref: ref.leaf and ref.columns is not None)
        if name is None:
            return None

        def freeze(m):
            m.frozen[name], m.refs[name].parts = m.refs[name].parts, None
            m.refs[name].leaf = False
            m.risky = True  # what `checkpoint` runs again records other operations now

        return Action(f"{name}.requires_grad = False", (name,), freeze, lambda m: m.refs[name].leaf)

    def thawed(self):
        """A leaf that requires a gradient again."""
        names = [name for name in self.machine.frozen if name in self.machine.refs]
        if not names:
            return None
        name = self.chance.choice(names)

        def thaw(m):
            m.refs[name].parts, m.refs[name].leaf, m.risky = m.frozen.pop(name), True, True

        return Action(f"{name}.requires_grad = True", (name,), thaw, lambda m: name in m.frozen)

    def forget(self):
        """A tensor dies, and its memory may be another's."""
        name = self.some() if len(self.machine.refs) > 4 else None
        return Action(f"del {name}", (name,), lambda m: m.refs.pop(name)) if name else None

    def watch(self):
        """From here on everything is on a tape, constants too."""
        name = self.name("t")
        return Action(f"{name} = tg.Tape(); {name}.__enter__()", (), lambda m: None)
