"""Where a captured thing lives in a program: how the step reads it, and how it is changed between calls."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from program_parts import Capture


@dataclass
class Placed:
    """A captured thing in its place.

    Attributes:
        read: the expression by which the step reads it.
        outside: the expression by which the module reads it.
        write: a statement of the module that gives it another value, written `$value`.
    """

    name: str
    capture: Capture
    place: str
    read: str
    outside: str
    write: str


@dataclass
class Frame:
    """The text around a step, in pieces that places fill."""

    module: list[str] = field(default_factory=list)
    attributes: list[str] = field(default_factory=list)
    class_body: list[str] = field(default_factory=list)
    base_body: list[str] = field(default_factory=list)
    closure: list[str] = field(default_factory=list)
    defaults: list[str] = field(default_factory=list)
    keywords: list[str] = field(default_factory=list)


#: Places in the module: the lines that make one, how it is read, how it is written.
OUTSIDE = {
    "global": ("$k = $make", "$k", "$k = $value"),
    "namespace": ("CONFIG.$k = $make", "CONFIG.$k", "CONFIG.$k = $value"),
    "dataclass": ("SETTINGS.parts.$k = $make", "SETTINGS.parts.$k", "SETTINGS.parts.$k = $value"),
    "dictionary": ("TABLE['$k'] = $make", "TABLE['$k']", "TABLE['$k'] = $value"),
    "dictionary with a default": ("TABLE['$k'] = $make", "TABLE.get('$k', None)", "TABLE['$k'] = $value"),
    "dictionary inside": (
        "TABLE.setdefault('inside', {})['$k'] = $make", "TABLE['inside']['$k']", "TABLE['inside']['$k'] = $value",
    ),
    "list": ("ITEMS.append($make); index_$k = len(ITEMS) - 1", "ITEMS[index_$k]", "ITEMS[index_$k] = $value"),
    "function": ("$k = $make\n\n\ndef read_$k():\n    return $k\n\n", "read_$k()", "$k = $value"),
    "function replaced": ("read_$k = (lambda value: lambda: value)($make)", "read_$k()",
    "read_$k = (lambda value: lambda: value)($value)"),
    "other module": ("ELSEWHERE.$k = $make", "ELSEWHERE.$k", "ELSEWHERE.$k = $value"),
    "class": ("Limits.$k = $make", "Limits.$k", "Limits.$k = $value"),
    "base of a class": ("Limits.$k = $make", "Tighter.$k", "Limits.$k = $value"),
    "class of a class": ("type.__setattr__(Limits, '$k', $make)", "getattr(Tighter(), f'{\"$k\"}')",
        "Tighter.$k = $value"),
    "slots": ("SLOTTED_$k = Slotted($make)", "SLOTTED_$k.value", "SLOTTED_$k.value = $value"),
    "named tuple": ("POINT_$k = Point($make, 0)", "POINT_$k.value", "POINT_$k = POINT_$k._replace(value=$value)"),
    "fallback of getattr": ("FALLBACK.parts['$k'] = $make", "FALLBACK.$k", "FALLBACK.parts['$k'] = $value"),
    "context variable": ("VARIABLE_$k = contextvars.ContextVar('$k'); VARIABLE_$k.set($make)",
        "VARIABLE_$k.get()", "VARIABLE_$k.set($value)"),
    "thread": ("LOCAL.$k = $make", "LOCAL.$k", "LOCAL.$k = $value"),
    "chained mapping": ("CHAIN.maps[1]['$k'] = $make", "CHAIN['$k']", "CHAIN.maps[1]['$k'] = $value"),
    "shadowed mapping": ("CHAIN.maps[1]['$k'] = $make", "CHAIN['$k']", "CHAIN['$k'] = $value"),
    "iterated": ("QUEUE_$k = collections.deque([$make])", "[*QUEUE_$k][0]", "QUEUE_$k[0] = $value"),
    "unpacked": ("PAIR_$k = [$make, 1]", "(lambda value, other: value)(*PAIR_$k)", "PAIR_$k[0] = $value"),
    "globals": ("$k = $make", "globals()['$k']", "$k = $value"),
    "weak reference": ("TARGET_$k = Slotted($make); WEAK_$k = weakref.ref(TARGET_$k)", "WEAK_$k().value",
    "TARGET_$k.value = $value"),
    "property elsewhere": ("CONFIG.$k = $make; Shown.$k = property(lambda self: CONFIG.$k)", "SHOWN.$k",
    "CONFIG.$k = $value"),
    "item of an own mapping": ("OWN.parts['$k'] = $make", "OWN['$k']", "OWN.parts['$k'] = $value"),
    "called object": ("CALLED_$k = Called($make)", "CALLED_$k()", "CALLED_$k.value = $value"),
    "bound method": ("CALLED_$k = Called($make); method_$k = CALLED_$k.__call__", "method_$k()",
    "CALLED_$k.value = $value"),
    "partial": ("partial_$k = functools.partial(lambda value: value, value=$make)", "partial_$k()",
    "partial_$k.keywords['value'] = $value"),
    "default of a function": ("def default_$k(value=$make):\n    return value\n\n", "default_$k()",
        "default_$k.__defaults__ = ($value,)"),
}  # fmt: skip

#: Places of a program with an object, `self` in its step and `it` outside.
OF_AN_OBJECT = (
    "attribute", "attribute", "attribute", "class attribute", "attribute of the base", "attribute by name", "property",
    "configuration", "dictionary of the object", "list of the object", "class attribute shadowed", "attribute by vars",
)  # fmt: skip


def places(style: str) -> Sequence[str]:
    """Where things can live in a program of this style; the likely ones several times."""
    found = [*OUTSIDE, "global", "global", "namespace"]
    if style in ("object", "method", "cell"):
        found += OF_AN_OBJECT * 3
    if style == "closure":
        found += ["closure"] * 25
    if style in ("function", "partial", "method", "cell"):
        found += ["default"] * (12 if style in ("function", "partial") else 3)
    if style == "partial":
        found += ["keyword"] * 15
    return found


def placed(chance: random.Random, name: str, capture: Capture, place: str, frame: Frame) -> Placed:
    """Put a captured thing there: fills the frame, and tells how to read and to write it."""

    def text(template: str) -> str:
        return template.replace("$k", name).replace("$make", capture.make)

    def made(read: str, write: str, outside: str | None = None) -> Placed:
        outside = outside or read.replace("self.", "it.")
        return Placed(name, capture, place, text(read), text(outside), text(write))

    if capture.kind == "function" and place == "class of a class":
        place = "global"  # there it would become a method
    if place in OUTSIDE:
        lines, read, write = OUTSIDE[place]
        frame.module.append(text(lines))
        return made(read, write)
    if place == "closure":
        frame.closure.append(text(
            "$k = $make\n\ndef set_$k(value):\n    nonlocal $k\n    $k = value\n\n"
            "globals().update(get_$k=lambda: $k, set_$k=set_$k)"
        ))  # fmt: skip
        return made("$k", "set_$k($value)", "get_$k()")
    if place == "default":
        frame.defaults.append(text("$k=$make"))
        return made("$k", "RAW.__kwdefaults__['$k'] = $value", "RAW.__kwdefaults__['$k']")
    if place == "keyword":
        frame.keywords.append(text("$k=$make"))
        return made("$k", "STEP.keywords['$k'] = $value", "STEP.keywords['$k']")
    if place in ("class attribute", "class attribute shadowed"):
        frame.class_body.append(text("$k = staticmethod($make)" if capture.kind == "function" else "$k = $make"))
        value = "staticmethod($value)" if capture.kind == "function" and place == "class attribute" else "$value"
        return made("self.$k", f"Program.$k = {value}" if place == "class attribute" else f"it.$k = {value}")
    if place == "attribute of the base":
        frame.base_body.append(text("$k = staticmethod($make)" if capture.kind == "function" else "$k = $make"))
        return made("self.$k", "Base.$k = staticmethod($value)" if capture.kind == "function" else "Base.$k = $value")
    if place == "configuration":
        frame.attributes.append(text("self.config.$k = $make"))
        return made("self.config.$k", "it.config.$k = $value")
    if place == "dictionary of the object":
        frame.attributes.append(text("self.parts['$k'] = $make"))
        return made("self.parts['$k']", "it.parts['$k'] = $value")
    if place == "list of the object":
        frame.attributes.append(text("self.items.append($make); self.index_$k = len(self.items) - 1"))
        return made("self.items[self.index_$k]", "it.items[it.index_$k] = $value")
    if place == "property":
        frame.attributes.append(text("self.hidden_$k = $make"))
        frame.class_body.append(text("@property\ndef $k(self):\n    return self.hidden_$k\n"))
        return made("self.$k", "it.hidden_$k = $value")
    frame.attributes.append(text("self.$k = $make"))
    if place == "attribute by name":
        return made(f"getattr(self, f'c{{{name[1:]}}}')", "it.$k = $value", "it.$k")
    if place == "attribute by vars":
        return made("vars(self)['$k']", "it.$k = $value", "it.$k")
    return made("self.$k", "it.$k = $value")
