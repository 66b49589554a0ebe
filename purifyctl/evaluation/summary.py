"""The rows of all rungs as cells: one per rung and defence, each figure with its n, its interval and its warnings."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from purifyctl import metrics
from purifyctl.config import format_eps
from purifyctl.evaluation import masking
from purifyctl.evaluation.defences import NONE
from purifyctl.evaluation.ladder import Rung
from purifyctl.evaluation.masking import Finding
from purifyctl.evaluation.records import SURROGATE, Table, Tables, of_paths
from purifyctl.metrics import Share

Cell = dict[str, Any]
GATE_RATES = (0.01, 0.05)  # a gate's true-positive rate is reported at these false-positive rates
WORST = "worst of these"  # instead of an attack's name: each image under the attack that harms it most


def _clean(tables: Tables, defence: str, paths: Iterable[str]) -> Table:
    """The rows of these photographs behind a defence when clean, in their order."""
    return of_paths(tables["clean"][defence], paths)


def _right(table: Table) -> NDArray[np.bool_]:
    return np.asarray(table["prediction"] == table["true_index"])


def summarise(tables: Tables, ladder: Sequence[Rung], seed: int, gate_threshold: float | None = None) -> list[Cell]:
    """Make the cells of all rungs' rows, in the ladder's order.

    An attack's cells compare with the clean rung on the same photographs; expensive rungs have fewer photographs. If a
    threat model has several attacks at one budget, further cells take the worst of them for each image.
    """
    cells = []
    for rung in ladder:
        for defence, table in tables[rung.key].items():
            if not defence.startswith(SURROGATE):
                found = _findings(tables, ladder, rung, defence) if rung.attack else ()
                cell = _cell(tables, rung, defence, table) | _gate_figures(tables, rung, defence, gate_threshold)
                cells.append(cell | {"seed": seed, "warnings": _warnings(found)})
    for rungs in _together(ladder):
        for defence in dict.fromkeys(defence for rung in rungs for defence in tables[rung.key]):
            met = [rung for rung in rungs if defence in tables[rung.key]]
            worst = _worst([tables[rung.key][defence] for rung in met])
            found = _findings_of_worst(tables, ladder, met, defence, worst)
            cell = _cell(tables, rungs[0], defence, worst) | {"attack": WORST, "surrogate": ""}
            cells.append(cell | {"seed": seed, "warnings": _warnings(found)})
    return cells


def _warnings(findings: Iterable[Finding]) -> list[dict[str, str]]:
    return [{"check": finding.check, "text": finding.text} for finding in dict.fromkeys(findings)]


def _together(ladder: Sequence[Rung]) -> list[list[Rung]]:
    """Rungs that one attacker may choose from: same threat model, pipeline and budget.

    A budget counts only if it has several rungs, and as many as the pipeline's other budgets. Otherwise figures of two
    budgets could not be compared.
    """
    groups: dict[tuple[str, str], dict[float, list[Rung]]] = defaultdict(lambda: defaultdict(list))
    for rung in ladder:
        if rung.attack:
            groups[rung.threat_model, rung.pipeline][rung.eps].append(rung)
    widest = (max(len(rungs) for rungs in budgets.values()) for budgets in groups.values())
    return [
        rungs
        for budgets, most in zip(groups.values(), widest, strict=True)
        for rungs in budgets.values()
        if len(rungs) == most > 1
    ]


def _worst(tables: Sequence[Table]) -> Table:
    """For each image, the row of an attack that succeeds, or else of the attack that lowers the true class most."""
    rows = {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}
    right = rows["prediction"] == rows["true_index"]
    order = np.argsort(right + rows["true_confidence"], kind="stable")  # confidences lie in [0, 1]
    first: dict[str, int] = {}
    for row in order:
        first.setdefault(rows["path"][row], row)
    longest = max((table["path"] for table in tables), key=len)
    worst = {name: values[[first[path] for path in longest]] for name, values in rows.items()}
    worst["float_prediction"] = np.full(len(longest), np.nan)  # for the floats another attack may be the worst
    return worst


def surrogate_top1(clean: Mapping[str, Table]) -> dict[str, float | None]:
    """Accuracy of each surrogate on the clean photographs, by name: a bad classifier makes bad examples."""
    return {
        name.removeprefix(SURROGATE): metrics.top1(table["prediction"], table["true_index"]).value
        for name, table in clean.items()
        if name.startswith(SURROGATE)
    }


def _cell(tables: Tables, rung: Rung, defence: str, table: Table) -> Cell:
    paths = list(table["path"])
    truth, prediction = table["true_index"], table["prediction"]
    bare, clean = (_clean(tables, name, paths)["prediction"] for name in (NONE, defence))
    cell: Cell = {
        "threat_model": rung.threat_model,
        "attack": rung.name,
        "eps": rung.eps,
        "eps_text": format_eps(rung.eps) if rung.attack else "",
        "surrogate": rung.surrogate,
        "pipeline": rung.pipeline,
        "defence": defence,
        "n": len(paths),
    }
    _add(cell, "clean_top1", metrics.top1(bare, truth))
    _add(cell, "purified_clean_top1", metrics.top1(clean, truth) if defence != NONE else None)
    under_attack = rung.attack is not None
    _add(cell, "robust_top1", metrics.top1(prediction, truth) if under_attack else None)
    floats = table["float_prediction"]
    measured = under_attack and not np.isnan(floats).any()
    _add(cell, "robust_top1_float", metrics.top1(floats, truth) if measured else None)
    _add(cell, "twice_right_top1", metrics.twice_right(prediction, clean, truth) if under_attack else None)
    success = metrics.attack_success_rate(prediction, clean, truth)
    _add(cell, "attack_success_rate", success if under_attack else None)
    _add(cell, "misclassification_rate", metrics.misclassification_rate(prediction, bare))
    cell["recovery"] = metrics.recovery(prediction, bare, truth)
    cell["recovery_interval"] = metrics.recovery_interval(prediction, bare, truth)
    cell["true_confidence"] = metrics.mean(table["true_confidence"])
    cell["top1_confidence"] = metrics.mean(table["top1_confidence"])
    cell["attacked_n"] = int(table["attacked"].astype(bool).sum()) if under_attack else None
    cell["max_delta"] = float(table["max_delta"].max()) if under_attack and paths else None
    cell["median_delta"] = float(np.median(table["max_delta"])) if under_attack and paths else None
    for name in ("psnr", "ssim"):
        cell[name] = None if np.isnan(table[name].astype(float)).any() else metrics.mean(table[name])
    return cell


def _gate_figures(tables: Tables, rung: Rung, defence: str, threshold: float | None) -> Cell:
    """How well a gate separates attacked photographs from clean ones. Empty without a gate.

    The clean ones are all clean photographs. The attacked ones are right when clean and wrong under attack: behind no
    defence if the classifier was attacked alone, otherwise behind this defence.
    """
    table = tables[rung.key][defence]
    scores = table["gate_score"].astype(np.float64)
    if threshold is None or np.isnan(scores).any():
        return {}
    cell: Cell = {}
    if rung.attack is None:
        _add(cell, "gate_false_positives", Share(int((scores >= threshold).sum()), len(scores)))
        return cell
    attacked = NONE if NONE in tables[rung.key] else defence
    clean = tables["clean"][defence]["gate_score"].astype(np.float64)
    right = _right(_clean(tables, attacked, table["path"]))
    turned = scores[right & ~_right(tables[rung.key][attacked])]
    cell["gate_auroc"] = metrics.auroc(clean, turned)
    _add(cell, "gate_tpr", Share(int((turned >= threshold).sum()), len(turned)))
    highest = np.sort(clean)[::-1]
    for rate in GATE_RATES:
        reached = highest[int(rate * len(clean))]  # this share of these photographs lies above it, as in ROC curves
        _add(cell, f"gate_tpr_at_{rate:.0%}", Share(int((turned > reached).sum()), len(turned)))
    return cell


def _add(cell: Cell, name: str, share: Share | None) -> None:
    """Add a share with its interval, hits and n; None if it was not measured."""
    cell[name] = share.value if share else None
    cell[f"{name}_interval"] = list(share.interval) if share and share.interval else None
    cell[f"{name}_hits"], cell[f"{name}_n"] = (share.hits, share.n) if share else (None, None)


def _findings(tables: Tables, ladder: Sequence[Rung], rung: Rung, defence: str) -> Iterator[Finding]:
    """The masking checks that concern one attack's number behind one defence."""
    table = tables[rung.key][defence]
    yield from _bad_examples(tables, rung, defence)
    yield from _too_good(tables, ladder, rung, defence, table)
    if not rung.surrogate and not rung.bpda:
        attacked = rung.pipeline or NONE  # the defence that the attacker differentiates through, if any
        fewer = _comparable(tables, ladder, rung, attacked, _has_fewer_steps)
        many = tables[rung.key][attacked]
        yield from _compare(tables, masking.more_steps_do_worse, rung, many, fewer, attacked)
        if defence == attacked and (found := _nothing_changes(tables, ladder, rung)):
            yield found


def _nothing_changes(tables: Tables, ladder: Sequence[Rung], rung: Rung) -> Finding | None:
    """Compare an attack with the one of the same budget that changes most, whatever pipeline that attacks."""
    others = [other for other in ladder if other.attack and other.eps == rung.eps and other != rung]
    if not others:
        return None
    other = max(others, key=lambda one: int(_changed(tables, one).sum()))
    name = f"{other.name} ({other.threat_model}{f', on {other.pipeline}' if other.pipeline else ''})"
    return masking.nothing_changes(_changed(tables, rung), _changed(tables, other), name)


def _changed(tables: Tables, rung: Rung) -> NDArray[np.bool_]:
    """The images whose prediction `rung` changes, behind the defence that it attacks."""
    defence = rung.pipeline or NONE
    if defence not in tables[rung.key]:
        return np.zeros(0, dtype=bool)
    table = tables[rung.key][defence]
    return np.asarray(table["prediction"] != _clean(tables, defence, table["path"])["prediction"])


def _findings_of_worst(
    tables: Tables, ladder: Sequence[Rung], rungs: Sequence[Rung], defence: str, worst: Table
) -> Iterator[Finding]:
    """Bad examples of one attack count for the worst of them, too. The other checks take the worst itself."""
    for rung in rungs:
        yield from _bad_examples(tables, rung, defence)
    strongest = next((rung for rung in rungs if not rung.bpda), rungs[0])
    yield from _too_good(tables, ladder, strongest, defence, worst)


def _bad_examples(tables: Tables, rung: Rung, defence: str) -> Iterator[Finding]:
    """Reasons why an attack's examples may be bad: they make every defence that faces them look good."""
    table = tables[rung.key][defence]
    paths = table["path"]
    source = SURROGATE + rung.surrogate if rung.surrogate else ""
    checks = [
        masking.randomness(_flags(_clean(tables, defence, paths)["differs"])),
        masking.softmax(_flags(_clean(tables, source or NONE, paths)["probabilities"])),
        masking.own_flags([text for text in table["flags"] if isinstance(text, str)]),
    ]
    if rung.threat_model != "black_box" and not rung.bpda:
        attacked = source or rung.pipeline or NONE
        checks.append(masking.zero_gradients(_flags(_clean(tables, attacked, paths)["zero_gradient"])))
    yield from (finding for finding in checks if finding)


def _too_good(tables: Tables, ladder: Sequence[Rung], rung: Rung, defence: str, table: Table) -> Iterator[Finding]:
    """Signs that a number (`rung`'s, or the worst of several) is better than it can be."""
    clean = _clean(tables, defence, table["path"])
    if leak := masking.label_leak(_right(table), _right(clean)):
        yield leak
    if rung.threat_model == "adaptive" and not rung.bpda:
        weaker = _comparable(tables, ladder, rung, defence, _knows_less)
        yield from _compare(tables, masking.less_knowledge_does_better, rung, table, weaker, defence)


def _compare(
    tables: Tables,
    check: Callable[[NDArray[np.bool_], NDArray[np.bool_], str], Finding | None],
    rung: Rung,
    table: Table,
    others: Sequence[Rung],
    defence: str,
) -> Iterator[Finding]:
    """Compare a table of `rung` with others, on the photographs that both have. Yields the largest difference."""
    found: list[tuple[float, Finding]] = []
    for other in others:
        other_table = tables[other.key][defence]
        theirs = set(other_table["path"])
        paths = [path for path in table["path"] if path in theirs]
        right, other_right = (_right(of_paths(one, paths)) for one in (table, other_table))
        name = other.name if other.threat_model == rung.threat_model else f"{other.name} ({other.threat_model})"
        if finding := check(right, other_right, name):
            found.append((float(right.mean() - other_right.mean()), finding))
    if found:
        yield max(found, key=lambda pair: pair[0])[1]


def _comparable(
    tables: Tables, ladder: Sequence[Rung], rung: Rung, defence: str, relation: Callable[[Rung, Rung], bool]
) -> list[Rung]:
    """Rungs of the same budget that stand in this relation to `rung`, and that `defence` faced too."""
    return [
        other
        for other in ladder
        if other.attack and other.eps == rung.eps and relation(other, rung) and defence in tables[other.key]
    ]


def _has_fewer_steps(other: Rung, rung: Rung) -> bool:
    """Whether `other` is `rung`'s attack on the same model with fewer steps (and no more restarts)."""
    few, many = other.attack, rung.attack
    assert few is not None
    assert many is not None
    same_model = (other.threat_model, other.pipeline, other.bpda) == (rung.threat_model, rung.pipeline, rung.bpda)
    one_step = many.record.one_step_form
    comparable = one_step != "" and few.kind in (many.kind, one_step)
    fewer = few.effective_steps < many.effective_steps and few.restarts <= many.restarts
    return same_model and comparable and fewer


def _knows_less(other: Rung, rung: Rung) -> bool:
    """Whether `other`'s attacker knows less than `rung`'s, who differentiates through the whole pipeline."""
    if other.threat_model == "adaptive":
        return other.bpda and other.pipeline == rung.pipeline
    return not other.pipeline or other.pipeline == rung.pipeline


def _flags(values: NDArray[Any]) -> NDArray[np.bool_]:
    """The flags that were recorded. Missing ones are left out."""
    return np.array([value for value in values if isinstance(value, bool)], dtype=bool)
