"""Draw programs and compare every engine with the eager one: values, gradients, side effects, exceptions, crashes.

python tools/try_programs.py --count 1000 --jobs 2      # what differs, with the seed and the source of each program
python tools/try_programs.py --seed 17 --one            # one program again, made smaller; --whole leaves it as it is
python tools/try_programs.py --count 300 --no-compile   # nothing is compiled: the reference engine alone

The programs are those of tests/compiler/generator.py. They run in processes of their own, so that one that crashes, or
never ends, is named and the others go on. The exit code is 1 where anything was found.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent

#: Kinds of differences in the table, in this order; "needs" is requires_grad of what comes out.
KINDS = (
    "value", "gradient", "second derivative", "state", "exception", "internal error", "needs", "printed",
    "warned", "broken",
    "crash", "hang",
)  # fmt: skip

#: Seeds that one process runs before another takes its place: programs leave things behind.
ENOUGH = 200


class Task(NamedTuple):
    """A program, or a part of it."""

    seed: int
    without: tuple[int, ...] = ()
    kept: tuple[int, ...] | None = None


#: Tells a worker to audit every fused run.
AUDITED = "TRY_PROGRAMS_AUDITED"


def generator() -> Any:
    """The module that draws programs."""
    sys.path.insert(0, str(ROOT / "tests" / "compiler"))
    return importlib.import_module("generator")


def case_of(drawn: Any, task: Task) -> Any:
    """The program of a task."""
    return drawn.Case(task.seed, frozenset(task.without), task.kept)


def work() -> None:
    """A worker: a task a line from standard input, what came of it a line to where standard output was."""
    drawn = generator()
    if AUDITED in os.environ:
        sys.path.insert(0, str(ROOT / "tests"))
        audited = importlib.import_module("support.audited")
        audited.layouts.inspect = audited.inspected
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        seed, without, kept = json.loads(line)
        task = Task(seed, tuple(without), None if kept is None else tuple(kept))
        try:
            report = drawn.examined(case_of(drawn, task))
            found = {
                "calls": report.calls, "outcomes": report.outcomes, "errors": report.errors,
                "differences": [[one.kind, one.engine, one.call, one.what[:3000]] for one in report.differences],
            }  # fmt: skip
        except BaseException as trouble:  # of the program as it is written, or of this tool
            text = f"{type(trouble).__name__}: {trouble}"
            found = {"calls": 0, "outcomes": {}, "errors": {}, "differences": [["broken", "tool", 0, text]]}
        print(json.dumps(found), file=answers, flush=True)


class Worker:
    """A process that runs programs, begun anew where one has ended it."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.done = options, 0
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> subprocess.Popen[str]:
        """A new process, with an LLVM that takes little time."""
        environment = {"NUMBA_OPT": "1", **os.environ, "PYTHONHASHSEED": "0"}
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
            environment[name] = "1"
        if self.options.no_compile:
            environment["TINYGRAD_RNN_JIT"] = "0"
        if self.options.audit:
            environment[AUDITED] = "1"
        self.done = 0
        return subprocess.Popen(
            [sys.executable, "-X", "faulthandler", __file__, "--worker"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment,
        )  # fmt: skip

    def run(self, task: Task) -> dict[str, Any]:
        """What came of a task; a crash is a difference too."""
        if self.process is not None and (self.options.isolate or self.done >= ENOUGH):
            self.close()
        if self.process is None:
            self.process = self.start()
        process = self.process
        assert process.stdin is not None and process.stdout is not None
        late = threading.Timer(self.options.patience, process.kill)
        began = time.monotonic()
        late.start()
        try:
            process.stdin.write(json.dumps(task) + "\n")
            process.stdin.flush()
            answer = process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        finally:
            late.cancel()
        self.done += 1
        if answer:
            found: dict[str, Any] = json.loads(answer)
            return found
        code = process.wait()
        self.process = None
        hung = time.monotonic() - began >= self.options.patience
        kind, what = ("hang", f"after {self.options.patience} s") if hung else ("crash", f"return code {code}")
        return {"calls": 0, "outcomes": {}, "errors": {}, "differences": [[kind, "a process", 0, what]]}

    def close(self) -> None:
        """End the process."""
        if self.process is not None:
            assert self.process.stdin is not None
            self.process.stdin.close()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
            self.process = None


def shown(drawn: Any, task: Task, differences: list[Any], limit: int = 3) -> str:
    """A program that fails, and what differs."""
    lines = [f"program {task.seed}", "", case_of(drawn, task).describe(), ""]
    for kind, engine, call, what in differences[:limit]:
        lines += [f"# {kind}: {engine}, call {call}", *[f"#     {line}" for line in what.splitlines()[:30]]]
    if len(differences) > limit:
        lines.append(f"# and {len(differences) - limit} more")
    return "\n".join(lines)


def smaller(drawn: Any, worker: Worker, task: Task, kind: str) -> Task:
    """A smaller task that fails in the same way."""

    def fails(case: Any) -> bool:
        found = worker.run(Task(case.seed, tuple(case.without), case.kept))
        return any(one[0] == kind for one in found["differences"])

    case = drawn.shrunk(case_of(drawn, task), fails)
    return Task(case.seed, tuple(sorted(case.without)), case.kept)


def run_all(options: argparse.Namespace, tasks: list[Task]) -> list[tuple[Task, dict[str, Any]]]:
    """Every task, by several workers at once."""
    from tqdm import tqdm

    waiting: queue.Queue[Task] = queue.Queue()
    for task in tasks:
        waiting.put(task)
    made: list[tuple[Task, dict[str, Any]]] = []
    failed = 0
    with tqdm(total=len(tasks), unit="program", disable=options.quiet) as bar:

        def serve() -> None:
            nonlocal failed
            worker = Worker(options)
            while True:
                try:
                    task = waiting.get_nowait()
                except queue.Empty:
                    break
                found = worker.run(task)
                made.append((task, found))
                failed += bool(found["differences"])
                bar.set_postfix(failed=failed, refresh=False)
                bar.update()
            worker.close()

        threads = [threading.Thread(target=serve) for _ in range(options.jobs)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return sorted(made, key=lambda pair: pair[0].seed)


def table(made: list[tuple[Task, dict[str, Any]]], seconds: float) -> str:
    """What came of all."""
    outcomes: Counter[str] = Counter()
    errors: Counter[str] = Counter()
    for _, found in made:
        outcomes.update(found["outcomes"])
        errors.update(found["errors"])
    calls = sum(found["calls"] for _, found in made)
    each = seconds / max(calls, 1)
    lines = ["", f"{len(made)} programs, {calls} calls, {seconds:.0f} s: {1000 * each:.0f} ms a call"]
    for engine in ("auto", "fused", "reference"):
        refused = Counter(
            {k.split("refused: ", 1)[1]: n for k, n in outcomes.items() if k.startswith(f"{engine}: refused")}
        )
        tried = outcomes[f"{engine}: tried"]
        if tried:
            lines.append(
                f"{engine.ljust(10)} {tried} calls tried, {tried - refused.total()} ran, {refused.total()} refused"
            )
            lines += [f"    {n:5d}  {why}" for why, n in refused.most_common(20)]
    if errors:
        lines.append("exceptions of the programs themselves, in the eager engine")
        lines += [f"    {n:5d}  {what}" for what, n in errors.most_common(12)]
    lines.append("found")
    for kind in KINDS:
        seeds = [task.seed for task, found in made if any(one[0] == kind for one in found["differences"])]
        said = f": seeds {', '.join(map(str, seeds[:12]))}{', ...' if len(seeds) > 12 else ''}" if seeds else ""
        lines.append(f"    {kind.ljust(18)} {len(seeds):5d} programs{said}")
    return "\n".join(lines)


def one(options: argparse.Namespace) -> bool:
    """Run the program of --seed, and show it; smaller where it fails. Whether it fails."""
    drawn, worker = generator(), Worker(options)
    without = tuple(map(int, options.without.split(","))) if options.without else ()
    kept = tuple(map(int, options.events.split(","))) if options.events else None
    task = Task(options.seed, without, kept)
    found = worker.run(task)
    if found["differences"] and not options.whole:
        kind = found["differences"][0][0]
        task = smaller(drawn, worker, task, kind)
        found = worker.run(task)
        events = "" if task.kept is None else f" --events {','.join(map(str, task.kept))}"
        lines = f" --without {','.join(map(str, task.without))}" if task.without else ""
        print(f"# python tools/try_programs.py --seed {task.seed} --one --whole{lines}{events}")
    worker.close()
    print(shown(drawn, task, found["differences"], 8))
    for why, n in found["outcomes"].items():
        print(f"# {n} calls  {why}")
    return bool(found["differences"])


def main() -> int:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=200, help="programs to draw")
    parser.add_argument("--seed", type=int, default=0, help="of the first program; the others follow")
    parser.add_argument("--jobs", type=int, default=1, help="processes at once")
    parser.add_argument("--one", action="store_true", help="the program of --seed alone, made smaller where it fails")
    parser.add_argument("--whole", action="store_true", help="do not make it smaller")
    parser.add_argument("--without", default="", help="with --one: numbers of lines to leave out, with commas")
    parser.add_argument("--events", default="", help="with --one: numbers of the events to keep, with commas")
    parser.add_argument("--no-compile", action="store_true", help="with TINYGRAD_RNN_JIT=0")
    parser.add_argument("--audit", action="store_true", help="prove of each fused run that it stays in its memory")
    parser.add_argument("--isolate", action="store_true", help="a process for each program")
    parser.add_argument("--patience", type=float, default=60.0, help="seconds that a program may take")
    parser.add_argument("--show", type=int, default=3, help="how many failing programs to print, made smaller")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work()
        return 0
    if options.one:
        return int(one(options))
    began = time.monotonic()
    made = run_all(options, [Task(seed) for seed in range(options.seed, options.seed + options.count)])
    seconds = time.monotonic() - began
    failed = [(task, found) for task, found in made if found["differences"]]
    drawn, worker = generator(), Worker(options)
    seen: set[str] = set()
    for task, found in failed:  # one of each kind, as far as they are asked for
        kind = found["differences"][0][0]
        if kind in seen or len(seen) >= options.show:
            continue
        seen.add(kind)
        less = smaller(drawn, worker, task, kind)
        again = worker.run(less)["differences"]
        print(shown(drawn, less, again or found["differences"]), "\n")
        if not again:
            print("# it does so after other programs only, or not always\n")
    worker.close()
    print(table(made, seconds))
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
