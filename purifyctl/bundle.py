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
from pathlib import Path
from typing import Any

from purifyctl import console
from purifyctl.backends import Runner, backend_version, open_runner
from purifyctl.config import from_dict
from purifyctl.errors import BackendError, BundleError, ConfigError
from purifyctl.files import file_sha256
from purifyctl.labels import Labels

SCHEMA = 1
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Network:
    """One network of a bundle."""

    onnx: str  # file, relative to the bundle
    plans: dict[str, str]  # GPU target such as "SM86", or "local", to file
    name: str  # kind of purifier, or the classifier's name
    parameters: int
    source: str  # SHA-256 of the checkpoint, or where the weights came from
    rewrites: tuple[str, ...] = ()  # passes of `purifyctl.rewrites` applied before export, in order


@dataclass(frozen=True)
class Manifest:
    """What `manifest.json` holds."""

    schema: int
    created: str  # UTC
    purifyctl: str  # version
    backend: str
    backend_version: str
    gpu: str  # name of the GPU that "local" plans were built on; else empty
    precision: str
    image_size: int  # pixels; side of the square that the graphs take
    batch_size: int  # the most images of one call
    opset: int
    purifier: Network
    classifier: tuple[Network, ...]  # none or one
    class_names: tuple[str, ...]
    class_wnids: tuple[str, ...]
    parity: dict[str, Any]
    rebuild: str  # the command that makes this bundle again
    build_s: float
    files: dict[str, str]  # every other file of the bundle: SHA-256


@dataclass(frozen=True)
class Bundle:
    """A bundle whose files were checked against their hashes."""

    path: Path
    manifest: Manifest
    sha256: str  # of the manifest, which holds the hashes of all else

    @property
    def labels(self) -> Labels:
        return Labels(self.manifest.class_names, self.manifest.class_wnids)

    @property
    def networks(self) -> dict[str, Network]:
        """ "purifier", and "classifier" where there is one."""
        names = ("purifier", "classifier")
        return dict(zip(names, (self.manifest.purifier, *self.manifest.classifier), strict=False))

    def open(self, network: str) -> Runner:
        """Load "purifier" or "classifier" on this machine."""
        return open_runner(
            self.manifest.backend,
            self.path / self._file(self.networks[network]),
            precision=self.manifest.precision,
            image_size=self.manifest.image_size,
            batch_size=self.manifest.batch_size,
        )

    def _file(self, network: Network) -> str:
        if not network.plans:
            return network.onnx
        name, target = _gpu()
        if self.manifest.backend == "tensorrt":
            if name != self.manifest.gpu:
                raise BundleError(
                    f"{self.path} was built on {self.manifest.gpu}, and here is {name}.", hint=self.manifest.rebuild
                )
            target = "local"
        if target not in network.plans:
            raise BundleError(
                f"{self.path} has plans for {', '.join(network.plans)}, and this machine's GPU is {target}.",
                hint=self.manifest.rebuild,
            )
        return network.plans[target]


def load_bundle(path: Path) -> Bundle:
    """Read a bundle and check every file against the manifest.

    Raises
    ------
    BundleError
        No bundle, another schema, a missing, added or changed file, or a TensorRT plan of another version.
    """
    file = path / MANIFEST
    if not file.is_file():
        raise BundleError(f"{path} is no engine bundle: it has no {MANIFEST}.", hint="purifyctl build-engine --out DIR")
    text = file.read_bytes()
    try:
        data = json.loads(text)
        schema = data["schema"]
        if schema == SCHEMA:
            manifest = from_dict(Manifest, data)
    except (ValueError, KeyError, TypeError, ConfigError) as error:
        raise BundleError(f"{file} is damaged: {error}", hint="purifyctl build-engine") from None
    if schema != SCHEMA:
        raise BundleError(
            f"{path} has manifest schema {schema}; this purifyctl reads {SCHEMA}.",
            hint=str(data.get("rebuild", "purifyctl build-engine")),
        )
    bundle = Bundle(path, manifest, hashlib.sha256(text).hexdigest())
    _check_files(bundle)
    _check_version(bundle)
    return bundle


def _check_files(bundle: Bundle) -> None:
    listed, rebuild = bundle.manifest.files, bundle.manifest.rebuild
    present = {f.relative_to(bundle.path).as_posix() for f in bundle.path.rglob("*") if not f.is_dir()} - {MANIFEST}
    if missing := sorted(set(listed) - present):
        raise BundleError(f"{bundle.path} lacks its file {missing[0]}.", hint=rebuild)
    if added := sorted(present - set(listed)):
        raise BundleError(f"{bundle.path} holds a file that its manifest does not know: {added[0]}.", hint=rebuild)
    for name, wanted in listed.items():
        if file_sha256(bundle.path / name) != wanted:
            raise BundleError(
                f"{bundle.path / name} is not the file that was built: its SHA-256 differs.", hint=rebuild
            )
    for network in bundle.networks.values():
        for name in (network.onnx, *network.plans.values()):
            if name not in listed:
                raise BundleError(f"The manifest of {bundle.path} has no hash for {name}.", hint=rebuild)


def _check_version(bundle: Bundle) -> None:
    manifest = bundle.manifest
    here = backend_version(manifest.backend)
    if manifest.backend_version == here:
        return
    if any(network.plans for network in bundle.networks.values()):
        raise BundleError(
            f"{bundle.path} was built with {manifest.backend} {manifest.backend_version}, and here is {here}: "
            "its plans do not carry over.",
            hint=manifest.rebuild,
        )
    console.warn(
        f"{bundle.path} was built and checked with {manifest.backend} {manifest.backend_version}; here is {here}."
    )


def _gpu() -> tuple[str, str]:
    """Name and compute capability ("SM86") of the current GPU."""
    import torch

    if not torch.cuda.is_available():
        raise BackendError(
            "This bundle holds TensorRT plans, which need an NVIDIA GPU, and there is none here.",
            hint="purifyctl build-engine --backend openvino",
        )
    major, minor = torch.cuda.get_device_capability()
    return torch.cuda.get_device_name(), f"SM{major}{minor}"
