"""The spoken digits: features, batches, learning tones, and what is refused; and files from the network."""

from __future__ import annotations

import http.client
import io
import runpy
import zipfile
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
from scipy.io import wavfile

from tinygrad_rnn.data import cached
from tinygrad_rnn.errors import FileError

EXAMPLE = runpy.run_path(str(Path(__file__).parent.parent / "examples" / "spoken_digits.py"))
RATE = 8000


def tone(hertz, seconds, seed):
    time = np.arange(int(seconds * RATE)) / RATE
    noise = np.random.default_rng(seed).normal(0.0, 300.0, len(time))
    return (9000.0 * np.sin(2 * np.pi * hertz * time) + noise).astype(np.int16)


def test_features_have_a_row_for_each_ten_milliseconds_and_tell_tones_apart():
    low, high = (EXAMPLE["features"](RATE, tone(hertz, 0.5, 0)) for hertz in (400, 1600))
    assert low.shape == high.shape and low.shape[1] == 26 and 48 <= len(low) <= 52
    assert np.linalg.norm(low.mean(0) - high.mean(0)) > 5 * np.linalg.norm(low.std(0)[:13])
    assert EXAMPLE["features"](RATE, tone(400, 0.01, 0)).shape[1] == 26  # shorter than a frame


def test_it_learns_tones_of_different_lengths():
    digits = np.repeat(np.arange(10), 12)
    sounds = [
        EXAMPLE["features"](RATE, tone(250 * (d + 1), 0.15 + 0.01 * (i % 12), i)) for i, d in enumerate(digits)
    ]  # fmt: skip
    held = np.arange(len(digits)) % 12 < 3
    options = Namespace(cell="gru", hidden=16, epochs=30)
    found = EXAMPLE["learn"](sounds, digits, np.flatnonzero(~held), np.flatnonzero(held), options, 0)
    assert found > 0.9
    assert EXAMPLE["linear"](sounds, digits, np.flatnonzero(~held), np.flatnonzero(held)) > 0.5


def test_the_scale_of_features_is_that_of_the_recordings_to_learn_from():
    rng = np.random.default_rng(0)
    sounds = [rng.normal(3.0, 7.0, (n, 26)) for n in (20, 30, 40)]
    scaled = EXAMPLE["scaled"](sounds, np.array([0, 2]))
    known = np.concatenate([scaled[0], scaled[2]])
    np.testing.assert_allclose(known.mean(0), 0.0, atol=1e-6)
    np.testing.assert_allclose(known.std(0), 1.0, atol=1e-6)
    other = EXAMPLE["scaled"]([sounds[0], 9.0 * sounds[1], sounds[2]], np.array([0, 2]))
    np.testing.assert_array_equal(other[0], scaled[0])  # what is only tested changes nothing


def test_a_batch_stands_side_by_side():
    sounds = [np.full((n, 26), n, np.float32) for n in (3, 5)]
    x, lengths = EXAMPLE["batch"](sounds)
    assert x.shape == (5, 2, 26) and list(lengths) == [3, 5]
    assert not x.numpy()[3:, 0].any() and (x.numpy()[:, 1] == 5).all()


@pytest.mark.parametrize("kind", ["none", "text", "other", "damaged"])
def test_what_is_no_such_archive_is_refused_in_a_line(tmp_path, capsys, kind):
    path = tmp_path / "digits.zip"
    if kind == "text":
        path.write_text("no archive")
    if kind in ("other", "damaged"):
        sound = io.BytesIO()
        wavfile.write(sound, RATE, tone(400, 0.2, 0))
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("recordings/0_nobody_0.wav", sound.getvalue())
    if kind == "damaged":
        content = bytearray(path.read_bytes())
        content[60:80] = b"\xff" * 20  # where the recording is
        path.write_bytes(content)
    assert EXAMPLE["main"](["--data", str(path)]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and said.err.startswith("spoken_digits: ")


def test_a_file_is_downloaded_once_and_whole(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TINYGRAD_RNN_CACHE", str(tmp_path / "cache"))
    source = tmp_path / "source.bin"
    source.write_bytes(b"content")
    path = cached(source.as_uri(), "kept.bin")
    assert path.read_bytes() == b"content" and "downloading" in capsys.readouterr().err
    source.write_bytes(b"other")
    assert cached(source.as_uri(), "kept.bin").read_bytes() == b"content" and capsys.readouterr().err == ""
    with pytest.raises(FileError, match="another way"):
        cached((tmp_path / "missing").as_uri(), "missing.bin", "another way")

    def broken(*_, **__):
        raise http.client.IncompleteRead(b"half")

    monkeypatch.setattr("urllib.request.urlopen", broken)
    with pytest.raises(FileError, match="cannot get"):
        cached(source.as_uri(), "missing.bin")
    assert not (path.parent / "missing.bin").exists()
