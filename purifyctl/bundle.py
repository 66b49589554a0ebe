"""An engine bundle on disk: a folder whose manifest names, and hashes, everything in it.

    manifest.json            what it is, what it was made from, how well it agrees with torch
    purifier.onnx            the graphs; CPU backends run these
    classifier.onnx
    plans/SM86/purifier.plan TensorRT's own files, one per GPU generation

A bundle is native code: run only bundles whose hash you trust.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from purifyctl import console
from purifyctl.backends import Runner, backend_version, open_runner
from purifyctl.errors import BundleError, PurifyctlError
from purifyctl.labels import Labels

SCHEMA = 1
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Bundle:
    """A bundle whose files were checked against their hashes."""

    path: Path
    manifest: dict[str, Any]
    sha256: str  # of the manifest, which holds the hashes of all else

    @property
    def backend(self) -> str:
        return str(self.manifest["backend"])

    @property
    def image_size(self) -> int:
        """Pixels; side of the square that the graphs take."""
        return int(self.manifest["image_size"])

    @property
    def batch_size(self) -> int:
        """The most images of one call."""
        return int(self.manifest["batch_size"])

    @property
    def has_classifier(self) -> bool:
        return "classifier" in self.manifest["networks"]

    @property
    def labels(self) -> Labels:
        labels = self.manifest["networks"]["classifier"]["labels"]
        return Labels(tuple(labels["names"]), tuple(labels["wnids"]))

    def open(self, network: str) -> Runner:
        """Load "purifier" or "classifier" on this machine."""
        return open_runner(
            self.backend,
            self.path / self._file(network),
            precision=self.manifest["precision"],
            image_size=self.image_size,
            batch_size=self.batch_size,
        )

    def _file(self, network: str) -> str:
        entry = self.manifest["networks"][network]
        if not entry["plans"]:
            return str(entry["onnx"])
        target = _gpu_target() if self.backend == "tensorrt-rtx" else "local"
        if target not in entry["plans"]:
            raise BundleError(
                f"{self.path} has plans for {', '.join(entry['plans'])}, and this machine's GPU is {target}.",
                hint=self.manifest["rebuild"],
            )
        return str(entry["plans"][target])


def load_bundle(path: Path) -> Bundle:
    """Read a bundle and check every file against the manifest.

    Raises
    ------
    BundleError
        No bundle, a newer schema, a missing, added or changed file, or a TensorRT plan of another version.
    """
    file = path / MANIFEST
    if not file.is_file():
        raise BundleError(f"{path} is no engine bundle: it has no {MANIFEST}.", hint="purifyctl build-engine --out DIR")
    text = file.read_bytes()
    try:
        manifest = json.loads(text)
        schema = manifest["schema"]
        if schema != SCHEMA:
            raise BundleError(
                f"{path} has manifest schema {schema}; this purifyctl reads {SCHEMA}.",
                hint=str(manifest.get("rebuild", "purifyctl build-engine")),
            )
        bundle = Bundle(path, manifest, hashlib.sha256(text).hexdigest())
        _check_files(bundle)
        _check_version(bundle)
    except (ValueError, KeyError, TypeError) as error:
        raise BundleError(
            f"{file} is damaged: {type(error).__name__}: {error}.", hint="build the engine again"
        ) from None
    return bundle


def _check_files(bundle: Bundle) -> None:
    listed: dict[str, str] = bundle.manifest["files"]
    rebuild = str(bundle.manifest["rebuild"])
    for name, wanted in listed.items():
        relative = PurePosixPath(name)
        if relative.is_absolute() or ".." in relative.parts:
            raise BundleError(f"The manifest of {bundle.path} names a file outside it: {name}.", hint=rebuild)
        file = bundle.path / relative
        if not file.is_file():
            raise BundleError(f"{bundle.path} lacks its file {name}.", hint=rebuild)
        if file_sha256(file) != wanted:
            raise BundleError(f"{file} is not the file that was built: its SHA-256 differs.", hint=rebuild)
    for entry in bundle.manifest["networks"].values():
        for name in (entry["onnx"], *entry["plans"].values()):
            if name not in listed:
                raise BundleError(f"The manifest of {bundle.path} has no hash for {name}.", hint=rebuild)


def _check_version(bundle: Bundle) -> None:
    built, here = bundle.manifest["backend_version"], backend_version(bundle.backend)
    if built == here:
        return
    if any(entry["plans"] for entry in bundle.manifest["networks"].values()):
        raise BundleError(
            f"{bundle.path} was built with {bundle.backend} {built}, and here is {here}: its plans do not carry over.",
            hint=str(bundle.manifest["rebuild"]),
        )
    console.warn(f"{bundle.path} was built and checked with {bundle.backend} {built}; here is {here}.")


def file_sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _gpu_target() -> str:
    import torch

    if not torch.cuda.is_available():
        raise PurifyctlError(
            "This bundle holds TensorRT plans, which need an NVIDIA GPU, and there is none here.",
            hint="purifyctl build-engine --backend openvino",
        )
    major, minor = torch.cuda.get_device_capability()
    return f"SM{major}{minor}"
