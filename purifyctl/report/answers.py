"""What `run` says at its end: did it help, which predictions changed, what failed, how long it took."""

import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from purifyctl import console
from purifyctl.metrics import PERCENTILES, percent

_STAGES = {"read": "reading", "decode": "decoding", "infer": "the engine", "write": "encoding and writing"}


def show_summary(summary: Mapping[str, Any], out: Path) -> None:
    """Print what `run` returned. Failed inputs are named even under `--quiet`."""
    console.answer(verdict(summary))
    if only := summary.get("only_image"):
        _show_only(only)
    elif changed := summary.get("changed"):
        _show_changed(changed, out)
    if failed := summary["failed"]["n"]:
        console.warn(*_failures(summary, failed, out))
    if about := _about_pictures(summary.get("pictures", {})):
        console.note(about)
    _show_times(summary)
    console.answer(_cost(summary), f"Results: {out}    As one page: purifyctl report {shlex.quote(str(out))}")


def verdict(summary: Mapping[str, Any]) -> str:
    """One line: how many predictions purifying changed, and accuracy where there is truth."""
    accuracy, changed = summary["accuracy"], summary.get("changed")
    purified = summary["handled"].get("purified", 0)
    if changed and summary.get("only_image"):
        text = f"The prediction {'changed' if changed['n'] else 'did not change'}."
    elif changed:
        text = f"{changed['n']:,} of {changed['of']:,} {_plural(changed['of'], 'prediction')} changed."
        if n := changed["labelled"]:
            before, after = (percent(changed[f"right_{when}"] / n) for when in ("before", "after"))
            text += f" Top-1 accuracy: {before} before, {after} after ({n:,} with a true label{_from(summary)})."
    elif accuracy:
        text = f"{purified:,} {_plural(purified, 'image')} purified, {accuracy['classified']:,} classified."
        if "top1" in accuracy:
            n = f"{accuracy['labelled']:,} with a true label{_from(summary)}"
            text += f" Top-1 accuracy: {percent(accuracy['top1'])} ({n})."
        text += " To see what changed: run --compare, into another --out."
    else:
        text = f"{purified:,} {_plural(purified, 'image')} purified, none classified."
    if gate := summary.get("gate"):
        text += f" The gate flagged {gate['flagged']:,} of {gate['flagged'] + gate['unflagged']:,}."
    return text if summary["finished"] else f"Not finished: {summary['rows']:,} of {summary['inputs']:,} inputs. {text}"


def _from(summary: Mapping[str, Any]) -> str:
    """Where true labels come from, if that is recorded."""
    truth = summary.get("truth")
    return f", from {truth['from']}" if truth and truth["from"] != "none" else ""


def _plural(n: int, word: str) -> str:
    return word if n == 1 else f"{word}s"


def _show_only(only: Mapping[str, Any]) -> None:
    """The best classes of a single picture, before and after it was purified."""
    before, after = ([_said(*entry) for entry in only[when]] for when in ("before", "after"))
    title = only["path"] + (f", truly {only['true']}" if only["true"] else "")
    if not before:
        console.table(title, ("after",), [(said,) for said in after], right=False)
        return
    console.table(title, ("before", "after"), list(zip(before, after, strict=True)), right=False)


def _said(label: str, probability: float) -> str:
    return f"{label} {100 * probability:.0f}%"


def _show_changed(changed: Mapping[str, Any], out: Path) -> None:
    first = changed["first"]
    if not first:
        return
    labelled = any(one["true"] is not None for one in first)
    rows = [
        (
            one["path"],
            _said(one["before"], one["before_probability"]),
            _said(one["after"], one["after_probability"]),
            *(["" if one["true"] is None else one["true"]] if labelled else []),
        )
        for one in first
    ]
    columns = ("file", "before", "after", *(["truth"] if labelled else []))
    more = changed["n"] - len(first)
    title = f"The {len(first)} clearest changes" if more else "Changed"
    console.table(title, columns, rows, right=False)
    if more:
        console.answer(f"and {more:,} more: purifyctl report {shlex.quote(str(out))}, or {out / 'rows'}")


def _failures(summary: Mapping[str, Any], n: int, out: Path) -> Iterator[str]:
    yield f"{n:,} of {summary['rows']:,} inputs failed:"
    first = summary["failed"]["first"]
    for row in first:
        yield f"  {row['path']}: {row['status']}. {row['error'] or ''}".rstrip()
    if n > len(first):
        yield f"  and {n - len(first):,} more: the rows in {out / 'rows'} give each reason"


def _cost(summary: Mapping[str, Any]) -> str:
    """How long the call took, and what it was made with."""
    engine, call = summary["engine"], summary.get("this_call", {})  # a merged run has none
    size = f"{engine['image_size']}x{engine['image_size']} pixels"
    if summary["options"].get("size") == "original":
        size = f"pictures at their own size, in tiles of {size}"
    made_with = f"{engine['backend']}, {engine['precision']}, {size}"
    if not call:
        return f"{summary['rows']:,} of {summary['inputs']:,} inputs; {made_with}."
    text = f"{call['rows']:,} {_plural(call['rows'], 'input')} in {console.duration(call['elapsed_s'])}"
    if call["rows"] < summary["rows"]:
        before = summary["rows"] - call["rows"]
        text += f" ({before:,} {'was' if before == 1 else 'were'} done before)"
    if call["images_per_s"] and call["rows"] > 1 and summary["failed"]["n"] < summary["rows"]:
        text += f": {call['images_per_s']:g} images/s, after {console.duration(call['startup_s'])} to start"
    return f"{text}; {made_with}."


def _about_pictures(pictures: Mapping[str, Any]) -> str:
    """What was done to pictures besides decoding them. Empty: nothing."""
    said = {
        "damaged": "{:,} damaged, used as far as they are there",
        "converted": "{:,} with another colour profile, converted to sRGB",
        "first_frames": "{:,} with several frames or pages; the first was taken",
    }
    parts = [text.format(n) for key, text in said.items() if (n := pictures.get(key))]
    return f"Pictures: {'; '.join(parts)}." if parts else ""


def _show_times(summary: Mapping[str, Any]) -> None:
    """Where the time went; a few want to know, so it needs `--verbose`."""
    if not console.is_verbose():
        return
    columns = ("stage, ms per image", "mean", *(f"p{p}" for p in PERCENTILES))
    rows = [
        (stage, *(f"{ms[name]:.2f}" if name in ms else "-" for name in ("mean", *(f"p{p}" for p in PERCENTILES))))
        for stage, ms in summary["stage_ms"].items()
    ]
    console.table("", columns, rows)
    console.note("The images of a batch share its time, so decode, gate, purify and classify have only a mean.")
    call = summary.get("this_call", {})
    if busy := call.get("busy"):
        limit = call["limited_by"]
        shares = ", ".join(f"{stage} {share:.0%}" for stage, share in busy.items())
        console.note(
            f"{f'Limited by {_STAGES[limit]}. ' if limit else ''}Share of the threads' time that was used: {shares}."
        )
    if gate := summary.get("gate"):
        spared = f", purifying about {gate['spared_s']:g} s less" if gate["spared_s"] is not None else ""
        console.note(f"Scoring by the gate took {gate['gate_s']:g} s{spared}.")
