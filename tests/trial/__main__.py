"""Try everything that needs a GPU, on a machine that has one, in eight minutes and without a network.

    make gpu-wheels                                        on a machine with a network: what has to be carried
    make gpu-trial WHEELS=wheels                           on the machine with the GPU: Python 3.12, torch 2.11
    make gpu-trial DEVICE=cpu                              without a GPU, to find the faults of this script: minutes

Each step is a process of its own with a time limit; after a failure, the next one starts. After each step the folder
(gpu-trial, or --out) holds everything so far: trial.json, trial.md, and a log of each step under logs/.
This file needs Python alone. Exit code 0: every step did what it should. 1: at least one did not.
"""

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.trial.report import Done, write_report
from tests.trial.wheels import DEFAULT_FOLDER

ROOT = Path(__file__).parents[2]
SECONDS = {"cuda": 480, "cpu": 350}  # of all steps together
ON_A_CPU_S = 300  # for any step: it is the script that is tried
GRACE_S = 5  # for a process that was asked to end
GIVEN = ("--device", "{device}", "--out", "{out}")  # to every step that measures


@dataclass(frozen=True)
class Step:
    """One step: a command, and how many seconds it may take on a GPU."""

    name: str
    what: str
    words: tuple[str, ...]  # of Python; {out}, {device} and {wheels} stand for the trial's own
    limit_s: int

    def limit(self, device: str) -> int:
        return self.limit_s if device == "cuda" else ON_A_CPU_S


def _step(name: str, what: str, limit_s: int, module: str) -> Step:
    return Step(name, what, ("-m", f"tests.trial.{module}", name, *GIVEN), limit_s)


# The limits add up to the whole time.
STEPS = (
    Step("install", "installed from the wheels", ("-m", "tests.trial.wheels", "install", "{wheels}", "{out}"), 45),
    _step("machine", "what is here", 35, "before"),
    _step("tests", "the tests that need a GPU", 60, "before"),
    _step("photographs", "photographs made on the spot", 20, "before"),
    _step("engines", "engines built, and compared with torch on the CPU", 55, "measures"),
    _step("decoding", "decoding and encoding alone", 15, "measures"),
    _step("alone", "each engine alone", 20, "measures"),
    _step("side", "engines side by side", 20, "measures"),
    _step("run", "end to end", 35, "measures"),
    Step("training", "the shipped recipe, interrupted and resumed", ("-m", "tests.trial.training", *GIVEN), 175),
)


def perform(step: Step, out: Path, device: str, wheels: Path, limit_s: float) -> Done:
    """Run one step; it is ended at its limit, with every process that it started."""
    log, result = out / "logs" / f"{step.name}.log", out / "results" / f"{step.name}.json"
    words = [word.format(out=out, device=device, wheels=wheels) for word in step.words]
    began = time.monotonic()
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, *words],
            cwd=ROOT,
            env=environment(out),
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = process.wait(limit_s)
            status = "ok" if code == 0 else f"failed ({code})"
        except subprocess.TimeoutExpired:
            status = "out of time"
        finally:
            _end(process)
    return Done(step.name, step.what, status, time.monotonic() - began, limit_s, log, result)


def environment(out: Path) -> dict[str, str]:
    """What a step finds: this checkout, what was installed for the trial, and caches of the trial's own."""
    path = filter(None, (str(out / "site"), str(ROOT), os.environ.get("PYTHONPATH")))
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path),
        "PYTHONUNBUFFERED": "1",
        "PURIFYCTL_CACHE": str(out / "cache"),
        "PURIFYCTL_STATE": str(out / "state"),
        "NO_COLOR": "1",
    }


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End what is left of a step's session."""
    for number, wait in ((signal.SIGTERM, GRACE_S if process.poll() is None else 0), (signal.SIGKILL, GRACE_S)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(wait)


def trial(device: str, out: Path, wheels: Path, *, seconds: float, only: Sequence[str] = ()) -> list[Done]:
    """Perform the steps, and write the report after each."""
    for folder in ("logs", "results"):
        shutil.rmtree(out / folder, ignore_errors=True)
        (out / folder).mkdir(parents=True)
    began, done = time.monotonic(), []
    for step in STEPS:
        if only and step.name not in only:
            continue
        left = seconds - (time.monotonic() - began)
        print(f"{step.name}: {step.what} ...", flush=True)
        found = perform(step, out, device, wheels, min(step.limit(device), max(left, 1.0)))
        print(f"    {found.status}, {found.seconds:.0f} of {found.limit_s:.0f} s", flush=True)
        done.append(found)
        write_report(done, out, device, time.monotonic() - began)
    return done


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.trial", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--wheels", type=Path, default=DEFAULT_FOLDER, help="what `make gpu-wheels` gathered")
    parser.add_argument("--out", type=Path, default=Path("gpu-trial"))
    parser.add_argument("--seconds", type=float, help="for all steps together; default: 480, on a CPU 350")
    parser.add_argument("--only", default="", help="names of steps, with commas between them")
    given = parser.parse_args()
    only = tuple(filter(None, given.only.split(",")))
    if unknown := set(only) - {step.name for step in STEPS}:
        parser.error(f"no step {', '.join(sorted(unknown))}; there are {', '.join(step.name for step in STEPS)}")
    out, wheels = given.out.absolute(), given.wheels.absolute()
    done = trial(given.device, out, wheels, seconds=given.seconds or SECONDS[given.device], only=only)
    print((out / "trial.md").read_text())
    print(f"Everything lies in {out}.")
    return int(any(step.status != "ok" for step in done))


if __name__ == "__main__":
    sys.exit(main())
