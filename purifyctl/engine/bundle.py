"""An engine bundle on disk: a folder with a manifest, which names every file in it and has its hash.

    manifest.json            what it is, what it was made from, how well it agrees with torch
    purifier.onnx            the graphs; CPU backends run these (torch: purifier.pt2)
    classifier.onnx
    gate.onnx                which images look attacked
    fused.onnx               purifier and classifier in one graph, if the recipe asks for it
    plans/SM86/purifier.plan TensorRT's own files, one per GPU generation

A bundle is native code: `Bundle.open` only runs bundles that were built here, or that the user has said to trust.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from purifyctl import console
from purifyctl.config import BACKENDS, DEFAULT_BACKEND, from_dict
from purifyctl.engine import trust
from purifyctl.engine.backends import LOCAL, Runner, implementation, open_runner
from purifyctl.engine.manifest import MANIFEST, SCHEMA, Manifest, Network
from purifyctl.engine.tiles import Tiling, wide_tiling
from purifyctl.errors import BackendError, BundleError, ConfigError
from purifyctl.files import file_sha256, open_regular
from purifyctl.labels import Labels
from purifyctl.machine import gpu_capability
from purifyctl.strict_json import MAX_BYTES, parse_json

BUILD = "purifyctl build-engine"
LARGEST = 1 << 16  # image size and batch size: a batch of one such image already has 12 GB


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk. Its files have been checked against their hashes."""

    path: Path
    manifest: Manifest
    sha256: str  # of the manifest, which holds the hashes of all other files

    @property
    def labels(self) -> Labels:
        return Labels(self.manifest.class_names, self.manifest.class_wnids)

    @property
    def trusted(self) -> bool:
        """Whether it was built here, or the user has said to trust it."""
        return trust.is_trusted(self.sha256)

    @property
    def rebuild(self) -> str:
        """The command that builds it again, as a next step. No command comes from a bundle that is not trusted."""
        return self.manifest.rebuild if self.trusted else BUILD

    @property
    def device(self) -> Literal["cpu", "cuda"]:
        """Where it computes."""
        return BACKENDS[self.manifest.backend].device

    def check_device(self, asked: str) -> None:
        """Refuse a device that this engine is not for. `asked`: as `--device`.

        Raises
        ------
        ConfigError
            The engine is for the other kind of device.
        """
        kind, _, _ = asked.partition(":")
        if kind not in ("auto", self.device):
            backends = [name for name, backend in BACKENDS.items() if backend.device == kind]
            raise ConfigError(
                f"{self.path} is an engine of {self.manifest.backend}, for {self.device}, and --device is {asked}.",
                hint=f"leave out --device, or build another engine: {BUILD} --backend {'|'.join(backends)} --out DIR",
            )

    @property
    def tiling(self) -> Tiling:
        """How whole pictures are cut for its purifier.

        Raises
        ------
        ConfigError
            The purifier makes one drawing of the whole picture.
        """
        purifier = self.manifest.networks["purifier"].name
        if purifier == "redraw":
            raise ConfigError(
                f"The purifier of {self.path} makes one drawing of a whole picture, so a picture cannot be cut.",
                hint="leave out --size original, or take an engine with another purifier",
            )
        return self.manifest.tiling or wide_tiling(self.manifest.image_size)

    def chain(self, *, classify: bool = True, apart: bool = False) -> tuple[str, ...]:
        """The names of the networks that an image goes through, in order: what `purifyctl.engine.chain` opens.

        Parameters
        ----------
        classify
            Also classify, if there is a classifier.
        apart
            Take two graphs even if there is a fused one: the caller also classifies without purifying.
        """
        if not classify or "classifier" not in self.manifest.networks:
            return ("purifier",)
        return ("fused",) if "fused" in self.manifest.networks and not apart else ("purifier", "classifier")

    def check_runs_here(self) -> None:
        """Refuse a bundle that this user neither built here nor trusts, and plans of another version of their library.

        Raises
        ------
        BundleError
            It is unknown here, or its plans do not fit.
        MissingDependencyError
            Its library is not installed.
        """
        if not self.trusted:
            raise BundleError(
                f"{self.path} was not built here, and an engine is native code.",
                hint=f"if you trust where it comes from, add --trust, once (its SHA-256 is {self.sha256}); "
                f"or build your own: {BUILD}",
            )
        _check_version(self)

    def open(self, network: str, batch_size: int | None = None) -> Runner:
        """Load one of the manifest's networks on this machine, for batches of up to `batch_size`.

        `batch_size` None: the bundle's own batch size.

        Raises
        ------
        BundleError
            The bundle is not trusted, or has no plan for this GPU or this version of its library.
        """
        self.check_runs_here()
        name = self._file(self.manifest.networks[network])
        _check_hash(self, name)  # again: time has passed
        return open_runner(
            self.manifest.backend,
            self.path / name,
            precision=self.manifest.precision,
            image_size=self.manifest.image_size,
            batch_size=batch_size or self.manifest.batch_size,
        )

    def _file(self, network: Network) -> str:
        if not network.plans:
            return network.onnx
        name, target = _gpu()
        if LOCAL in network.plans:
            if name != self.manifest.gpu:
                raise BundleError(
                    f"{self.path} was built on {self.manifest.gpu}, and here is {name}.", hint=self.manifest.rebuild
                )
            target = LOCAL
        if target not in network.plans:
            raise BundleError(
                f"{self.path} has plans for {', '.join(network.plans)}, and this machine's GPU is {target}.",
                hint=self.manifest.rebuild,
            )
        return network.plans[target]


def load_bundle(path: Path, *, trusted: bool = False) -> Bundle:
    """Read a bundle and check every file against the manifest.

    Parameters
    ----------
    trusted
        The user trusts it, from now on.

    Raises
    ------
    BundleError
        No bundle, another schema, or a missing, added or changed file.
    """
    file = path / MANIFEST
    if not file.is_file():
        raise BundleError(f"{path} is no engine bundle: it has no {MANIFEST}.", hint="purifyctl build-engine --out DIR")
    try:
        with open_regular(file) as stream:
            text = stream.read(MAX_BYTES + 1)
        data = parse_json(text)
        schema = data["schema"]
        if type(schema) is not int:
            raise ConfigError("schema must be a whole number.")
        if schema == SCHEMA:
            manifest = from_dict(Manifest, data)
            _check_manifest(manifest)
    except (OSError, ValueError, KeyError, TypeError, ConfigError) as error:
        raise BundleError(f"{file} is damaged: {error}", hint=BUILD) from None
    sha256 = hashlib.sha256(text).hexdigest()
    if schema != SCHEMA:
        rebuild = data.get("rebuild") if trust.is_trusted(sha256) else None  # from an unknown bundle it is not repeated
        raise BundleError(
            f"{path} has manifest schema {schema}; this purifyctl reads {SCHEMA}.",
            hint=rebuild if isinstance(rebuild, str) else BUILD,
        )
    bundle = Bundle(path, manifest, sha256)
    _check_files(bundle)
    if trusted:
        trust.remember(bundle.sha256, path)
    return bundle


def _check_manifest(manifest: Manifest) -> None:
    if "purifier" not in manifest.networks:
        raise ConfigError("it names no purifier.")
    if not (1 <= manifest.image_size <= LARGEST and 1 <= manifest.batch_size <= LARGEST):
        raise ConfigError(f"image_size and batch_size must be at least 1, and at most {LARGEST:,}.")
    if manifest.tiling is not None and manifest.tiling.side != manifest.image_size:
        raise ConfigError("its tiles are not as large as its images.")


def _check_files(bundle: Bundle) -> None:
    listed, rebuild = bundle.manifest.files, bundle.rebuild
    found = [f for f in bundle.path.rglob("*") if f.is_symlink() or not f.is_dir()]
    if links := sorted(f for f in found if f.is_symlink()):  # the file that it points to could change after this check
        raise BundleError(f"{links[0]} is a link; a bundle holds its files itself.", hint=rebuild)
    present = {f.relative_to(bundle.path).as_posix() for f in found} - {MANIFEST}
    if missing := sorted(set(listed) - present):
        raise BundleError(f"{bundle.path} lacks its file {missing[0]}.", hint=rebuild)
    if added := sorted(present - set(listed)):
        raise BundleError(f"{bundle.path} holds a file that its manifest does not know: {added[0]}.", hint=rebuild)
    for name in listed:
        _check_hash(bundle, name)
    for network in bundle.manifest.networks.values():
        for name in (network.onnx, *network.plans.values()):
            if name not in listed:
                raise BundleError(f"The manifest of {bundle.path} has no hash for {name}.", hint=rebuild)


def _check_hash(bundle: Bundle, name: str) -> None:
    try:
        found = file_sha256(bundle.path / name)
    except OSError as error:
        raise BundleError(
            f"{bundle.path / name} cannot be read: {error.strerror or error}.", hint=bundle.rebuild
        ) from None
    if found != bundle.manifest.files[name]:
        raise BundleError(
            f"{bundle.path / name} is not the file that was built: its SHA-256 differs.", hint=bundle.rebuild
        )


def _check_version(bundle: Bundle) -> None:
    manifest = bundle.manifest
    here = implementation(manifest.backend).version()
    if manifest.backend_version == here:
        return
    plans = any(network.plans for network in bundle.manifest.networks.values())
    if plans or BACKENDS[manifest.backend].graph == "torch":
        raise BundleError(
            f"{bundle.path} was built with {manifest.backend} {manifest.backend_version}, and here is {here}: "
            f"its {'plans' if plans else 'programs'} do not carry over.",
            hint=bundle.rebuild,
        )
    console.warn_once(
        f"{bundle.path} was built and checked with {manifest.backend} {manifest.backend_version}; here is {here}."
    )


def _gpu() -> tuple[str, str]:
    """Name and compute capability ("SM86") of the current GPU."""
    if not (target := gpu_capability()):
        raise BackendError(
            "This bundle holds TensorRT plans, which need an NVIDIA GPU, and there is none here.",
            hint=f"purifyctl build-engine --backend {DEFAULT_BACKEND}",
        )
    import torch

    return torch.cuda.get_device_name(), target
