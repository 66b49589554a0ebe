"""Tables on the terminal: a dry run, an engine bundle."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from purifyctl import console
from purifyctl.config import ClassifierConfig
from purifyctl.engine.bundle import Bundle
from purifyctl.labels import Labels


def show_dry_run(would: Mapping[str, Any], out: Path) -> None:
    """Print what `run --dry-run` found."""
    left = would["shards"] - would["finished_shards"]
    passed_on = would.get("first_unflagged", {})  # with a gate

    def goes_to(path: str, made: str | None) -> str:
        purified = str(out / made) if made else "a row"
        unflagged = passed_on.get(path, made)
        if unflagged == made:
            return purified
        return f"{purified} if flagged, else {out / unflagged if unflagged else 'a row'}"

    rows = [
        ("inputs", f"{would['inputs']:,}"),
        ("parts", f"{would['shards']:,}, left to do: {left:,}"),
        *(("such as", f"{path} -> {goes_to(path, made)}") for path, made in would["first"].items()),
    ]
    console.facts("Nothing was done. It would be:", rows)


def _describe_input(chosen: ClassifierConfig) -> str:
    size = "x".join(map(str, chosen.input_size)) + " pixels" if chosen.input_size else "any size"
    mean, std = (", ".join(f"{value:g}" for value in values) for values in (chosen.mean, chosen.std))
    return f"{size}, crop {chosen.crop or 1:g}, mean {mean}, std {std}"


def _describe_classes(labels: Labels) -> str:
    if not labels.names:
        return "-"
    shown = "nobody has named them" if labels.are_numbers else ", ".join(labels.names[:3])
    return f"{len(labels.names)} ({shown}{', ...' if len(labels.names) > 3 and not labels.are_numbers else ''})"


def show_bundle(bundle: Bundle) -> None:
    """Print what an engine bundle is."""
    manifest = bundle.manifest
    size = sum((bundle.path / name).stat().st_size for name in manifest.files) / 2**20
    rows = [
        ("backend", f"{manifest.backend} {manifest.backend_version}, {manifest.precision}"),
        ("images", f"{manifest.image_size}x{manifest.image_size}, 1 to {manifest.batch_size} at once"),
    ]
    if manifest.fitted_to:
        rows.append(("fitted to", ", ".join(manifest.fitted_to)))
    for name, network in manifest.networks.items():
        plans = f"; plans for {', '.join(network.plans)}" if network.plans else ""
        rows.append((name, f"{network.name}, {network.parameters / 1e6:.2f} M parameters{plans}"))
        rows.append(("  made from", f"{network.source or 'default weights'}, SHA-256 {network.sha256[:12]}"))
        if name == "classifier" and (chosen := manifest.classifier):
            rows.append(("  takes", _describe_input(chosen)))
    if manifest.gate_thresholds:
        rates = sorted(float(rate) for rate in manifest.gate_thresholds)
        rows.append(("  --gate-fpr", ", ".join(f"{100 * rate:.3g}%" for rate in rates)))
    rows += [
        ("classes", _describe_classes(bundle.labels)),
        ("built", f"{manifest.created} by purifyctl {manifest.purifyctl}, in {manifest.build_s} s"),
        ("files", f"{len(manifest.files)}, {size:.1f} MiB, as their hashes say"),
        ("SHA-256", bundle.sha256),
        ("built again", manifest.varies or "has the same graphs and plans"),
        ("trusted here", "yes" if bundle.trusted else "no: run it with --trust if you know where it comes from"),
        ("  by", manifest.rebuild),
    ]
    console.facts(str(bundle.path), rows)
    console.note(*manifest.parity.lines())
