"""The character model as its users run it: it learns, stops, goes on, survives, and refuses in one line."""

import csv
import importlib.util
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import tinygrad_rnn as tg

PROGRAM = Path(__file__).resolve().parent.parent / "examples" / "char_lm.py"
TEXT = "the quick brown fox jumps over the lazy dog; pack my box with five dozen liquor jugs.\n" * 16
SMALL = ["--hidden", "12", "--embedding", "6", "--batch", "4", "--steps", "16"]
KILLS = int(os.environ.get("TINYGRAD_RNN_KILLS", "3"))

pytestmark = pytest.mark.skipif(not PROGRAM.exists(), reason="the examples are not part of the wheel")


@pytest.fixture(scope="module")
def program():
    specification = importlib.util.spec_from_file_location("char_lm", PROGRAM)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return str(path)


def command(*arguments):
    return [sys.executable, str(PROGRAM), *map(str, arguments)]


def losses(folder):
    with open(folder / "curve.csv") as file:
        return [(row["update"], row["bits_training"], row["bits_held_out"]) for row in csv.DictReader(file)]


def wait_for(path, process):
    limit = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None, "the run ended before it saved"
        assert time.monotonic() < limit, "no checkpoint"
        time.sleep(0.01)


def test_it_learns_saves_and_samples(program, text, tmp_path, capsys):
    out = tmp_path / "run"
    assert program.main(["train", "--text", text, "--epochs", "30", "--lr", "0.03", "--out", str(out), *SMALL]) == 0
    printed = capsys.readouterr().out
    assert "bits per character" in printed
    assert "a sample:" in printed
    rows = losses(out)
    uniform = np.log2(len(set(TEXT)))
    assert float(rows[0][1]) > 0.7 * uniform
    assert float(rows[-1][2]) < 0.5 * uniform

    state, metadata = tg.load(out / "checkpoint.safetensors")
    assert set(state) == {"model", "optimizer", "state", "rng", "progress", "recent", "curve"}
    assert "options" in metadata

    sampled = []
    for seed in ("1", "1", "2"):
        asked = [
            "sample",
            "--run",
            str(out),
            "--length",
            "50",
            "--seed",
            seed,
            "--prompt",
            "the ",
            "--temperature",
            "3",
        ]
        assert program.main(asked) == 0
        sampled.append(capsys.readouterr().out)
    assert sampled[0] == sampled[1] != sampled[2]
    assert len(sampled[0]) == len("the ") + 50 + 1
    assert program.main(["sample", "--run", str(out), "--top-k", "1", "--length", "20"]) == 0


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_and_resumed_is_as_if_nothing_had_happened(program, text, tmp_path, cell, number):
    if (cell, number) in {("rnn", signal.SIGTERM), ("gru", signal.SIGINT)}:
        return  # each cell once, each signal twice
    options = ["--text", text, "--cell", cell, "--epochs", "8", "--dropout", "0.2", "--layers", "2", *SMALL]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert program.main(["train", *options, "--out", str(whole)]) == 0

    process = subprocess.Popen(
        command("train", *options, "--out", broken, "--save-every", 1), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    wait_for(broken / "checkpoint.safetensors", process)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number, err.decode()
    assert b"--resume" in out
    state, _ = tg.load(broken / "checkpoint.safetensors")
    assert 0 < state["progress"][0] < int(losses(whole)[-1][0])
    assert program.main(["train", "--resume", str(broken)]) == 0
    assert losses(broken) == losses(whole)


def test_killed_at_any_moment_the_last_checkpoint_is_whole(text, tmp_path):
    chance = random.Random(1)
    for i in range(KILLS):
        out = tmp_path / f"run{i}"
        process = subprocess.Popen(
            command("train", "--text", text, "--epochs", 10_000, "--out", out, "--save-every", 1, *SMALL),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_for(out / "checkpoint.safetensors", process)
        time.sleep(chance.uniform(0.0, 0.5))
        process.kill()
        process.wait()
        state, metadata = tg.load(out / "checkpoint.safetensors")
        assert state["progress"][0] >= 1
        assert "symbols" in metadata


def refused(program, capsys, *arguments):
    """The one line that a refused command prints; it must print nothing else and exit with 2."""
    capsys.readouterr()
    try:
        code = program.main([str(a) for a in arguments])
    except SystemExit as stop:  # argparse itself
        code = stop.code
    err = capsys.readouterr().err
    assert code == 2
    assert "Traceback" not in err
    return err


@pytest.mark.parametrize(
    ("content", "says"),
    [(None, "cannot be read"), (b"", "empty"), (b"too short", "too short"), (b"\xff\xfe\x00bad", "not UTF-8")],
)
def test_bad_texts(program, capsys, tmp_path, content, says):
    path = tmp_path / "text"
    if content is not None:
        path.write_bytes(content)
    err = refused(program, capsys, "train", "--text", path, "--out", tmp_path / "run")
    assert says in err
    assert err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_refusals_leave_the_run_as_it_was(program, text, tmp_path, capsys):
    out = tmp_path / "run"
    assert program.main(["train", "--text", text, "--epochs", "1", "--out", str(out), *SMALL]) == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    for says, arguments in {
        "holds a run already": ["train", "--text", text, "--out", out],
        "--hidden differs": ["train", "--resume", out, "--hidden", 13],
        "--cell differs": ["train", "--resume", out, "--cell", "gru"],
        "unknown symbols 'é' '€'": ["sample", "--run", out, "--prompt", "é€"],
        "no such file": ["sample", "--run", tmp_path / "none"],
        "is not above 0": ["sample", "--run", out, "--temperature", -1],
        "is not in [0, 1)": ["train", "--dropout", 1.5],
    }.items():
        err = refused(program, capsys, *arguments)
        assert says in err
        assert err.startswith("char_lm")
        assert err.count("\n") == 1
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before

    whole = (out / "checkpoint.safetensors").read_bytes()
    (out / "checkpoint.safetensors").write_bytes(whole[: len(whole) // 2])
    assert "not a whole safetensors file" in refused(program, capsys, "sample", "--run", out)
    tg.save({"a": tg.zeros(2)}, out / "checkpoint.safetensors")
    assert "not a checkpoint" in refused(program, capsys, "sample", "--run", out)


def test_a_checkpoint_of_another_shape(program, text, tmp_path, capsys):
    out = tmp_path / "run"
    assert program.main(["train", "--text", text, "--epochs", "1", "--out", str(out), *SMALL]) == 0
    path = out / "checkpoint.safetensors"
    state, metadata = tg.load(path)
    state["model"]["scores.weight"] = tg.zeros(3, 3)
    tg.save(state, path, metadata)
    for arguments in (["sample", "--run", out], ["train", "--resume", out, "--epochs", 2]):
        err = refused(program, capsys, *arguments)
        assert "shapes differ" in err
        assert "scores.weight" in err
