"""What texts say about recurrent networks, tried one by one: a page with claim, experiment, picture, number and code.

    python examples/deep_dive.py                      # everything, applications from five seeds: under twenty minutes
    python examples/deep_dive.py --quick              # one seed, less of everything: under two minutes
    python examples/deep_dive.py --only gradients gates --digits FILE.zip --text FILE

Needs the extra `examples`: pip install -e '.[examples]'. The page is one file, which fetches nothing. Spoken digits are
downloaded once (16 MB), or taken from --digits; where they cannot be had, the page says so. Ctrl-C keeps what is done.
"""

import argparse
import html
import importlib
import os
import platform
import shlex
import sys
import time
import traceback
from argparse import Namespace
from pathlib import Path

import language
from tqdm import tqdm

import tinygrad_rnn as tg
from tinygrad_rnn.data import bundled_text, read_text
from tinygrad_rnn.errors import ArgumentError, FileError, TinygradError
from tinygrad_rnn.files import write_whole

CLAIMS = ("memory", "gradients", "long_range", "gates", "text", "speech", "series", "gru")

#: How much of everything.
FULL = Namespace(
    gaps={"adding": (50, 100, 200), "order": (50,)}, rates=(1e-2, 3e-3),
    memory=Namespace(updates=1400, hidden=64, batch=32), memory_seeds=2,
    gates=Namespace(updates=1600, hidden=64, batch=32), gate_steps=50, gate_seeds=2,
    gate_text_updates=150, gate_texts=4, kinds=5, adders=5,
    language=Namespace(seconds=10.0, parameters=100_000, dropout=0.0, seeds=5, moments=10, batch=32, steps=64),
    speech=Namespace(hidden=64, epochs=10), speech_cells=("gru", "lstm"), speech_seeds=5,
    series=Namespace(hidden=32, updates=400), series_cells=("gru", "lstm"), series_seeds=5,
    rounds=40,
)  # fmt: skip
QUICK = Namespace(
    gaps={"adding": (25,)}, rates=(1e-2,),
    memory=Namespace(updates=500, hidden=64, batch=32), memory_seeds=1,
    gates=Namespace(updates=1200, hidden=64, batch=32), gate_steps=25, gate_seeds=1, gate_text_updates=40, gate_texts=1,
    kinds=2, adders=1,  # of the cells with a gate less: how many, and how many of these learn to add
    language=Namespace(seconds=1.5, parameters=100_000, dropout=0.0, seeds=1, moments=4, batch=32, steps=64),
    speech=Namespace(hidden=64, epochs=3), speech_cells=("gru",), speech_seeds=1,
    series=Namespace(hidden=32, updates=100), series_cells=("gru",), series_seeds=1,
    rounds=10,
)  # fmt: skip


class Lab:
    """What claims work with: sizes, a text, bars, and what earlier claims found."""

    def __init__(self, size, text, digits):
        self.size, self.digits, self.kept = size, digits, {}
        least = 20 * (size.language.batch * size.language.steps + 1)  # a twentieth of it is the test
        if len(text) < least:
            raise ArgumentError("the text is too short", expected=f"{least:,} symbols", got=f"{len(text):,}")
        if digits and not Path(digits).is_file():
            raise FileError(f"no such file: {digits}", hint="--digits FILE.zip")
        self.text = language.Text(text, size.language.batch, size.language.steps)

    def bar(self, items, what):
        """The items, with a bar."""
        return tqdm(list(items), what, disable=None, leave=False)

    def counter(self, what, total=None):
        """A bar of updates; mostly nobody knows how many it takes."""
        return tqdm(desc=what, total=total, unit="update", disable=None, leave=False)

    def clock(self, what, seconds):
        """A bar of seconds."""
        return tqdm(desc=what, total=seconds, disable=None, leave=False, bar_format=language.BAR)


def tried(name, lab):
    """A claim, and how long it took."""
    begin = time.perf_counter()
    claim = importlib.import_module(f"claims.{name}").claim(lab)
    claim.seconds = time.perf_counter() - begin
    return claim


def told(claim):
    """A claim on the terminal."""
    head = f"{claim.said}\n  {claim.words} ({claim.seconds:.0f} s)"
    numbers = [f"  {what}: {value}" for what, value in claim.numbers.items()]
    return "\n".join([head, *numbers, *([f"  {claim.why}"] if claim.why else []), ""])


def writable(path):
    """Make the folder of a file to write; what cannot be written is said before anything has run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise FileError(f"cannot write {path}", hint="--output FILE.html in a folder of yours")


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one seed, less of everything")
    parser.add_argument("--only", nargs="+", choices=CLAIMS, default=CLAIMS, metavar="CLAIM", help=", ".join(CLAIMS))
    parser.add_argument("--text", metavar="FILE", help="UTF-8 text to learn (default: Python's help topics)")
    parser.add_argument("--digits", metavar="FILE.zip", help="the spoken digits, where there is no network")
    parser.add_argument("--output", metavar="FILE.html", default="runs/deep_dive.html", help="(%(default)s)")
    options = parser.parse_args(arguments)
    begin, done, stopped, failed = time.perf_counter(), [], False, False
    try:
        from claims.article import Claim, page

        lab = Lab(
            QUICK if options.quick else FULL,
            read_text(options.text) if options.text else bundled_text(),
            options.digits,
        )
        writable(Path(options.output))
        with tqdm(options.only, "claims", unit="claim", disable=None) as bar:
            for name in bar:
                try:
                    done.append(tried(name, lab))
                except KeyboardInterrupt:
                    stopped = True
                    break
                except Exception as trouble:  # the other claims are not lost
                    known = isinstance(trouble, (TinygradError, ImportError, OSError))
                    why = str(trouble) if known else f"{type(trouble).__name__}: {trouble}"
                    done.append(Claim(name, why=" ".join(why.split())))
                    if not known:
                        failed = True
                        traceback.print_exc()
                tqdm.write(told(done[-1]))
        left = [Claim(name, why="Stopped before this was done.") for name in options.only[len(done) :]]
        took = f"{(time.perf_counter() - begin) / 60:.1f} minutes"
        about = {
            "machine": f"{os.cpu_count()} cores ({platform.machine()}), {tg.get_num_threads()} threads",
            "took": took,
        }
        about |= {"when": time.strftime("%Y-%m-%d"), "version": tg.__version__, "python": platform.python_version()}
        asked = sys.argv[1:] if arguments is None else arguments
        command = html.escape(shlex.join(["python", "examples/deep_dive.py", *asked]))
        write_whole(options.output, page([*done, *left], command=command, **about).encode())
        tried_out = sum(claim.verdict != "not run" for claim in done)
        print(f"{options.output}: {tried_out} of {len(options.only)} claims, {took}")
    except ImportError as trouble:
        print(f"deep_dive: {trouble.name} is missing: pip install -e '.[examples]'", file=sys.stderr)
        return 2
    except TinygradError as trouble:
        print(f"deep_dive: {trouble.one_line}", file=sys.stderr)
        return 2
    except OSError as trouble:
        print(f"deep_dive: {trouble.filename or ''}: {trouble.strerror}", file=sys.stderr)
        return 2
    return 130 if stopped else int(failed)


if __name__ == "__main__":
    sys.exit(main())
