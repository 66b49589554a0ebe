"""What `--precision auto` has timed on this machine, in the user's cache."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from purifyctl.config import BackendName, from_dict, to_dict
from purifyctl.engine.backends import implementation
from purifyctl.engine.manifest import Candidate
from purifyctl.errors import PurifyctlError
from purifyctl.files import write_json
from purifyctl.machine import cache_folder, cpu_flags, machine
from purifyctl.strict_json import read_json


@dataclass(frozen=True)
class Times:
    """The candidates for one chain of networks on one machine."""

    networks: str  # for people
    backend: BackendName
    backend_version: str
    machine: dict[str, Any]
    candidates: tuple[Candidate, ...]  # the best first; those before the first that was not refused are faster

    @property
    def taken(self) -> Candidate | None:
        """The best one that was not refused."""
        return next((one for one in self.candidates if not one.refused), None)

    def __str__(self) -> str:
        return describe(self.candidates)


def this_machine() -> dict[str, Any]:
    """What the times depend on besides networks and libraries."""
    return {"processor": machine()["processor"], "cores": machine()["cores"], "flags": " ".join(sorted(cpu_flags()))}


def file_of(key: str) -> Path:
    return _folder() / f"{key}.json"


def read_times(file: Path) -> Times | None:
    """None: there is nothing that can be read."""
    try:
        return from_dict(Times, read_json(file))
    except (OSError, PurifyctlError, ValueError):
        return None


def write_times(file: Path, times: Times) -> None:
    """Raises OSError if the cache cannot be written."""
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, to_dict(times))


def times_here() -> Iterator[Times]:
    """What was timed on this machine, with the libraries that are installed."""
    for file in sorted(_folder().glob("*.json")):
        times = read_times(file)
        if times and (times.machine, times.backend_version) == (
            this_machine(),
            implementation(times.backend).version(),
        ):
            yield times


def describe(candidates: Sequence[Candidate]) -> str:
    """Which candidate was taken, what that gains, and the others."""
    taken = next((one for one in candidates if not one.refused), None)
    if taken is None:
        return "no candidate agrees with torch"
    plain = min((one.ms_per_image for one in candidates if one.precision == "fp32"), default=0.0)
    gain = f", {plain / taken.ms_per_image:.2f} times as fast as fp32" if taken.precision != "fp32" and plain else ""
    others = ", ".join(f"{one} {one.ms_per_image:.1f}" for one in candidates if one != taken and not one.refused)
    refused = "; ".join(f"{one} {one.ms_per_image:.1f} ({one.refused})" for one in candidates if one.refused)
    return (
        f"The best precision on this machine is {taken}: {taken.ms_per_image:.1f} ms per image{gain}."
        + (f" Others: {others}." if others else "")
        + (f" Faster, but refused: {refused}." if refused else "")
    )


def _folder() -> Path:
    return cache_folder() / "precisions"
