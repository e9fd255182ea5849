"""Every exception of the library. A message says what went wrong, what was expected, what came, and what to do."""

from __future__ import annotations


class TinygradError(Exception):
    """Base of all errors raised on purpose by this library.

    Args:
        what: one line naming the function and the trouble.
        expected: what would have been right.
        got: what came instead.
        hint: what to do about it.
    """

    def __init__(self, what: str, *, expected: object = None, got: object = None, hint: str | None = None) -> None:
        lines = [what]
        if expected is not None:
            lines.append(f"expected {expected}")
        if got is not None:
            lines.append(f"got {got}")
        if hint is not None:
            lines.append(f"hint: {hint}")
        super().__init__("\n  ".join(lines))

    @property
    def one_line(self) -> str:
        """The message on one line, for command-line tools."""
        return "; ".join(part.strip() for part in str(self).splitlines())


class ShapeError(TinygradError, ValueError):
    """Shapes, axes or sizes that do not fit together."""


class DtypeError(TinygradError, TypeError):
    """A dtype that the operation does not take."""


class ArgumentError(TinygradError, ValueError):
    """An argument outside its range or not among the choices."""


class GraphError(TinygradError, RuntimeError):
    """The tape cannot do what was asked: freed, detached, or changed behind its back."""


class FusionError(TinygradError, RuntimeError):
    """A step cannot become compiled kernels, and nothing else was allowed; the message names the operation."""


class DeclarationError(TinygradError, TypeError):
    """An op was declared wrongly; raised when its module loads."""


class GradcheckError(TinygradError, AssertionError):
    """An analytic derivative differs from the numerical one."""


class AnomalyError(TinygradError, FloatingPointError):
    """A NaN or an infinity appeared, and `detect_anomaly` was asked to find where."""


class OutOfMemoryError(TinygradError, MemoryError):
    """There is no memory left; the message tells what the tape holds."""


class FileError(TinygradError, OSError):
    """A file is missing, damaged, or of another kind."""


class MissingError(TinygradError, ImportError):
    """An optional program or package is not installed; the message names the command that brings it."""
