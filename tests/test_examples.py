"""The short examples run as they are."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parent.parent / "examples"


def test_own_op(tmp_path):
    picture = tmp_path / "own_op.dot"
    command = [sys.executable, str(EXAMPLES / "own_op.py"), str(picture)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    for name in ("mish", "solve"):
        assert f"{name}: derivative checked True, second derivative checked True" in done.stdout
    assert "%3 = solve(%0, %2)" in done.stdout
    assert "expected 0.5 by finite differences\n  got 1 by backward" in done.stdout
    source = picture.read_text(encoding="utf-8")
    assert "mish" in source
    assert "a⁻¹b" in source
