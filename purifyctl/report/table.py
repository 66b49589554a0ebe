"""Tables on the terminal: a run's summary, a dry run, an engine bundle."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from purifyctl import console
from purifyctl.engine.bundle import Bundle
from purifyctl.metrics import PERCENTILES

_ACCURACY = {
    "top1": "top-1",
    "top5": "top-5",
    "unpurified_top1": "top-1, unpurified",
    "misclassification_rate": "prediction changed by purifying",
    "top1_confidence": "mean confidence, predicted class",
    "true_confidence": "mean confidence, true class",
    "unpurified_top1_confidence": "mean confidence, unpurified",
}

_STAGES = {"read": "reading", "decode": "decoding", "infer": "the engine", "write": "encoding and writing"}


def show_summary(summary: Mapping[str, Any], out: Path) -> None:
    """Print what `run` returned: counts, speed, accuracy."""
    engine = summary["engine"]
    title = f"{summary['rows']} of {summary['inputs']} inputs"
    call = summary.get("this_call", {})  # a merged run has none
    if speed := call.get("images_per_s"):
        title += f", {speed} images/s of wall time"
    console.table(title, ("status", "images"), [(name, str(n)) for name, n in summary["statuses"].items()])
    if gate := summary.get("gate"):
        spared = f", purifying about {gate['spared_s']:g} s less" if gate["spared_s"] is not None else ""
        console.note(
            f"Gate: {gate['flagged']} flagged ({gate['flagged_share']:.1%}), {gate['unflagged']} passed on "
            f"unchanged; scoring took {gate['gate_s']:g} s{spared}."
        )
    columns = ("stage, ms per image", *(f"p{p}" for p in PERCENTILES))
    rows = [(stage, *(f"{v:.2f}" for v in values.values())) for stage, values in summary["stage_ms"].items()]
    console.table("", columns, rows)
    if busy := call.get("busy"):
        limit = call["limited_by"]
        shares = ", ".join(f"{stage} {share:.0%}" for stage, share in busy.items())
        console.note(
            f"{f'Limited by {_STAGES[limit]}. ' if limit else ''}Share of the threads' time that was used: {shares}."
        )
    accuracy = summary["accuracy"]
    if accuracy:
        lines = [(text, f"{accuracy[key]:.1%}") for key, text in _ACCURACY.items() if key in accuracy]
        counts = f"{accuracy['classified']} classified, {accuracy.get('labelled', 0)} with a true label"
        console.table(f"{engine['classifier']}: {counts}", ("accuracy", "share"), lines)
    console.note(
        f"Times of decode, gate, purify and classify are a batch's time divided by its images (amortised; batch "
        f"{engine['batch_size']}, {engine['backend']} {engine['precision']}).\nResults: {out}"
        f"    As one page: purifyctl report {shlex.quote(str(out))}"
    )


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


def show_bundle(bundle: Bundle) -> None:
    """Print what an engine bundle is."""
    manifest = bundle.manifest
    size = sum((bundle.path / name).stat().st_size for name in manifest.files) / 2**20
    rows = [
        ("backend", f"{manifest.backend} {manifest.backend_version}, {manifest.precision}"),
        ("images", f"{manifest.image_size}x{manifest.image_size}, 1 to {manifest.batch_size} at once"),
    ]
    for name, network in manifest.networks.items():
        plans = f"; plans for {', '.join(network.plans)}" if network.plans else ""
        rows.append((name, f"{network.name}, {network.parameters / 1e6:.2f} M parameters{plans}"))
        rows.append(("  made from", f"{network.source or 'default weights'}, SHA-256 {network.sha256[:12]}"))
    if manifest.gate_thresholds:
        rates = sorted(float(rate) for rate in manifest.gate_thresholds)
        rows.append(("  --gate-fpr", ", ".join(f"{100 * rate:.3g}%" for rate in rates)))
    rows += [
        ("classes", str(len(manifest.class_names)) if manifest.class_names else "-"),
        ("built", f"{manifest.created} by purifyctl {manifest.purifyctl}, in {manifest.build_s} s"),
        ("files", f"{len(manifest.files)}, {size:.1f} MiB, as their hashes say"),
        ("SHA-256", bundle.sha256),
        ("built again", manifest.varies or "has the same graphs and plans"),
        ("trusted here", "yes" if bundle.trusted else "no: run it with --trust if you know where it comes from"),
        ("  by", manifest.rebuild),
    ]
    console.facts(str(bundle.path), rows)
    console.note(str(manifest.parity))
