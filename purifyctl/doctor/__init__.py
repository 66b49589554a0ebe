"""`purifyctl doctor`: what works on this machine, what is missing, and the line that repairs it.

Checks do the real thing on a small scale: import the library, decode an image, load the weights, rename a file. Each
check is independent: if a broken library raises, that is the check's result, and the other checks continue.

    check.py      one check, and what became of it
    hardware.py   memory, processor, GPUs
    libraries.py  the libraries that purifyctl's metadata names
    pipeline.py   decoding, shipped weights, an engine bundle
    folders.py    cache, state and output can be written
"""

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from purifyctl.doctor import hardware, pipeline
from purifyctl.doctor.check import Check, Status, failure
from purifyctl.doctor.folders import folders
from purifyctl.doctor.libraries import libraries
from purifyctl.waiting import progress

__all__ = ["Check", "Status", "examine", "works"]


def examine(engine: Path | None = None, out: Path | None = None) -> list[Check]:
    """Check everything that `purifyctl run --engine ENGINE --out OUT` needs, and everything optional.

    Parameters
    ----------
    engine
        Engine bundle that has to work here. None: the shipped purifier and classifier have to.
    out
        Folder that has to be writable. None: the current one.
    """
    groups: dict[str, Callable[[], Iterator[Check]]] = {
        "memory": hardware.memory,  # before libraries take some
        "libraries": libraries,  # before other checks import them: the first failure says most about its cause
        "processor": hardware.processor,
        "gpu": hardware.gpus,
        "decoding": pipeline.decoding,
        "weights": partial(pipeline.weights, needed=engine is None),
        **({"engine": partial(pipeline.engine, engine)} if engine else {}),
        "disk": partial(folders, out or Path(), cache_needed=engine is None),
    }
    found = []
    # stdout is only for the result: libraries print while they are imported
    with contextlib.redirect_stdout(sys.stderr), progress(len(groups), "Checking this machine") as bar:
        for subject, group in groups.items():
            try:
                for check in group():
                    found.append(check)  # one by one: the checks before a failure stay
            except Exception as error:  # a library that the group itself needs is broken
                found.append(failure(subject, error))
            bar.advance()
    return found


def works(checks: Sequence[Check]) -> bool:
    """Whether `run` can work here: nothing that it needs has failed."""
    return all(check.status != "failed" for check in checks)
