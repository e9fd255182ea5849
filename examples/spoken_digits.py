"""Which digit was said? A bidirectional GRU or LSTM over the spectrum of a recording.

    python examples/spoken_digits.py                            # downloads 3,000 recordings, once (16 MB)
    python examples/spoken_digits.py --data FILE.zip --cell lstm --seeds 5
    python examples/spoken_digits.py --split speaker            # harder: each speaker in turn is never heard before

Data: the Free Spoken Digit Dataset (Jackson et al. 2018, CC BY-SA 4.0), 6 speakers, 50 takes of each digit: 0 to 4 are
the test, 5 to 9 have chosen the settings. The baseline is linear in the mean and the spread of the same features.
"""

import argparse
import hashlib
import io
import sys
import zipfile
import zlib

import numpy as np
from scipy.fft import dct
from scipy.io import wavfile
from scipy.signal import stft
from tqdm import tqdm

import tinygrad_rnn as tg
from tinygrad_rnn import nn
from tinygrad_rnn.data import cached
from tinygrad_rnn.errors import FileError, TinygradError
from tinygrad_rnn.viz.typed import positive

URL = "https://github.com/Jakobovski/free-spoken-digit-dataset/archive/refs/tags/v1.0.10.zip"
DIGEST = "ddb17656a0bca4c5ddace082be188ca630516dc2ef1110afe3c4e9cc71173de4"
CELLS = {"gru": nn.GRU, "lstm": nn.LSTM, "rnn": nn.RNN}


def features(rate, wave):
    """Cepstra of the mel spectrum, and their slopes: (T, 26). A frame has 25 ms, one begins every 10."""
    width = int(0.025 * rate)
    wave = np.pad(wave / 32768.0, (0, max(width - len(wave), 0)))
    hertz, _, spectrum = stft(wave, rate, nperseg=width, noverlap=width - int(0.01 * rate), nfft=256, padded=False)
    mel = 2595.0 * np.log10(1.0 + hertz / 700.0)
    centres = np.linspace(0.0, mel[-1], 28)
    bank = np.maximum(0.0, 1.0 - np.abs(mel[None] - centres[1:-1, None]) / (centres[1] - centres[0]))
    cepstra = dct(np.log(bank @ np.abs(spectrum) ** 2 + 1e-8), axis=0, norm="ortho")[:13].T
    return np.concatenate([cepstra, np.gradient(cepstra, axis=0)], axis=1)


def read(path):
    """The features of every recording of an archive, and which digit was said by whom at which take."""
    with zipfile.ZipFile(path) as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".wav"))
        contents = [archive.read(name) for name in names]
    digest = hashlib.sha256(b"".join(contents)).hexdigest()
    if digest != DIGEST:
        raise FileError(f"{path}: these are other recordings", expected=f"SHA-256 {DIGEST}", got=digest)
    said = [name.rpartition("/")[2].removesuffix(".wav").split("_") for name in names]
    sounds = [features(*wavfile.read(io.BytesIO(content))) for content in tqdm(contents, "features", disable=None)]
    return sounds, *(np.array(part) for part in zip(*[(int(digit), who, int(take)) for digit, who, take in said]))


def scaled(sounds, train):
    """Each feature on one scale: that of the recordings to learn from, as nothing else may be known."""
    mean, std = (of(np.concatenate([sounds[i] for i in train]), 0) for of in (np.mean, np.std))
    return [((sound - mean) / std).astype(np.float32) for sound in sounds]


class Listener(nn.Module):
    """Features (T, B, 26) -> scores (B, 10): both directions of the layer, averaged over each recording's steps."""

    def __init__(self, cell, hidden):
        self.recurrent = CELLS[cell](26, hidden, bidirectional=True)
        self.dropout, self.scores = nn.Dropout(0.5), nn.Linear(2 * hidden, 10)

    def forward(self, x, lengths):
        outputs, _ = self.recurrent(x, lengths=lengths)  # 0 past each end
        return self.scores(self.dropout(outputs.sum(0) / tg.tensor(lengths[:, None].astype(np.float32))))


def varied(sound, rng):
    """As said by somebody else, faster or slower, in another room, with a noise over a syllable."""
    at = np.linspace(0.0, len(sound) - 1.0, max(int(len(sound) * rng.uniform(0.8, 1.2)), 4))
    sound = sound[at.astype(int)] + rng.normal(0.0, 0.3, (1, 26)) + rng.normal(0.0, 0.3, (len(at), 26))
    for start in rng.integers(0, len(at), 2):
        sound[start : start + rng.integers(1, max(len(at) // 6, 2))] = 0.0
    return sound


def batch(sounds):
    """Recordings side by side, (T, B, 26), and how long each is."""
    lengths = np.array([len(sound) for sound in sounds])
    x = np.zeros((lengths.max(), len(sounds), 26), np.float32)
    for column, sound in enumerate(sounds):
        x[: len(sound), column] = sound
    return tg.tensor(x), lengths


def learn(sounds, digits, train, test, options, seed):
    """Train on some recordings; the share of others that is recognised."""
    tg.manual_seed(seed)
    sounds, rng, model = scaled(sounds, train), np.random.default_rng(seed), Listener(options.cell, options.hidden)
    optimizer = tg.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=1e-2)
    for epoch in tqdm(range(options.epochs), f"seed {seed}", unit="epoch", disable=None, leave=False):
        optimizer.lr = 3e-3 * (1.0 - epoch / options.epochs)
        for chosen in np.array_split(rng.permutation(train), max(len(train) // 64, 1)):
            scores = model(*batch([varied(sounds[i], rng) for i in chosen]))
            optimizer.zero_grad()
            tg.cross_entropy(scores, tg.tensor(digits[chosen])).backward()
            tg.optim.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
    model.eval()
    with tg.no_grad():
        scores = [model(*batch([sounds[i] for i in part])).numpy() for part in np.array_split(test, 8)]
    return float((np.concatenate(scores).argmax(1) == digits[test]).mean())


def linear(sounds, digits, train, test):
    """The baseline: least squares on the mean and the spread of the features, of all and of each half."""
    halves = [(sound, sound[: len(sound) // 2], sound[len(sound) // 2 :]) for sound in sounds]
    known = np.stack([[1.0, len(parts[0]), *np.ravel([(p.mean(0), p.std(0)) for p in parts])] for parts in halves])
    weights = np.linalg.lstsq(known[train], np.eye(10)[digits[train]], rcond=None)[0]
    return float(((known[test] @ weights).argmax(1) == digits[test]).mean())


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", metavar="FILE.zip", help="the recordings, where there is no network")
    parser.add_argument("--split", choices=("take", "validation", "speaker"), default="take", help="what is held out")
    parser.add_argument("--cell", choices=tuple(CELLS), default="gru")
    for name, number in (("hidden", 64), ("epochs", 30), ("seeds", 1)):
        parser.add_argument(f"--{name}", type=positive, default=number, metavar="N", help="(%(default)s)")
    options = parser.parse_args(arguments)
    try:
        sounds, digits, speakers, takes = read(options.data or cached(URL, "spoken_digits.zip", "--data FILE.zip"))
        held = {"take": {"takes 0 to 4": takes < 5}, "validation": {"takes 5 to 9": (takes >= 5) & (takes < 10)}}
        held["speaker"] = {speaker: speakers == speaker for speaker in np.unique(speakers)}
        for name, test in held[options.split].items():
            chosen = np.flatnonzero(~test if options.split == "speaker" else takes >= 10), np.flatnonzero(test)
            found = [learn(sounds, digits, *chosen, options, seed) for seed in range(options.seeds)]
            spread = f" ({min(found):.1%} to {max(found):.1%} over {len(found)} seeds)" if len(found) > 1 else ""
            print(f"{name}: {options.cell} {np.mean(found):.1%}{spread}, linear {linear(sounds, digits, *chosen):.1%}")
    except KeyboardInterrupt:
        return 130
    except (TinygradError, OSError, RuntimeError, zipfile.BadZipFile, zlib.error) as trouble:
        print(f"spoken_digits: {' '.join(str(trouble).split())}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
