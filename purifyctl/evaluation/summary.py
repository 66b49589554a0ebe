"""The rows of all rungs as cells: one per rung and defence, each figure with its n, its interval and its warnings."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from purifyctl import metrics
from purifyctl.config import AttackConfig, format_eps
from purifyctl.evaluation import masking
from purifyctl.evaluation.defences import NONE
from purifyctl.evaluation.ladder import STEP_KINDS, Rung
from purifyctl.evaluation.masking import Finding
from purifyctl.evaluation.records import SURROGATE, Table, read_tables
from purifyctl.metrics import Share

Cell = dict[str, Any]
WORST = "worst of these"  # in the place of an attack's name: each image under the attack that does most to it


@dataclass(frozen=True)
class _Results:
    """Every rung's tables, by rung key and defence."""

    tables: dict[str, dict[str, Table]]

    def table(self, rung: Rung, defence: str) -> Table:
        return self.tables[rung.key][defence]

    def clean(self, defence: str, paths: Sequence[str]) -> Table:
        """What a defence says of these photographs when clean, in their order."""
        return _take(self.tables["clean"][defence], paths)

    def right(self, rung: Rung, defence: str, paths: Sequence[str]) -> NDArray[np.bool_]:
        """Which of these photographs a rung leaves right."""
        table = _take(self.table(rung, defence), paths)
        return np.asarray(table["prediction"] == table["true_index"])


def summarise(records: Path, ladder: Sequence[Rung], seed: int) -> list[Cell]:
    """Read the rows under `records` and make the cells, in the ladder's order.

    An attack's cells compare with the clean rung on the same photographs, of which costly rungs have fewer. Where a
    threat model has several attacks at one budget, further cells take the worst of them for each image.
    """
    results = _Results({rung.key: read_tables(records, rung.key) for rung in ladder})
    cells = []
    for rung in ladder:
        for defence in results.tables[rung.key]:
            if defence.startswith(SURROGATE):
                continue
            cell = _cell(results, rung, defence, results.table(rung, defence)) | {"seed": seed}
            findings = list(_findings(results, ladder, rung, defence)) if rung.attack else []
            cell["warnings"] = [{"check": finding.check, "text": finding.text} for finding in findings]
            cells.append(cell)
    for rungs in _together(ladder):
        for defence in results.tables[rungs[0].key]:
            worst = _worst([results.table(rung, defence) for rung in rungs])
            cell = _cell(results, rungs[0], defence, worst)
            cells.append(cell | {"attack": WORST, "surrogate": "", "seed": seed, "warnings": []})
    return cells


def _together(ladder: Sequence[Rung]) -> list[list[Rung]]:
    """Rungs that one attacker may choose from, where there is a choice: same threat model, pipeline and budget."""
    groups: dict[tuple[str, str, float], list[Rung]] = defaultdict(list)
    for rung in ladder:
        if rung.attack:
            groups[rung.threat_model, rung.pipeline, rung.eps].append(rung)
    return [rungs for rungs in groups.values() if len(rungs) > 1]


def _worst(tables: Sequence[Table]) -> Table:
    """Per image that all tables have, the row of the attack that succeeds, or else lowers the true class the most."""
    shared = set.intersection(*(set(table["path"]) for table in tables))
    paths = [path for path in tables[0]["path"] if path in shared]
    taken = [_take(table, paths) for table in tables]
    right = np.array([table["prediction"] == table["true_index"] for table in taken])
    order = right + np.array([table["true_confidence"] for table in taken])  # confidences lie in [0, 1]
    chosen = order.argmin(0)
    worst = {name: np.array([table[name] for table in taken])[chosen, np.arange(len(paths))] for name in taken[0]}
    worst["float_prediction"] = np.full(len(paths), np.nan)  # of the floats, another attack may be the worst
    return worst


def surrogate_top1(records: Path) -> dict[str, float | None]:
    """Accuracy of each surrogate on the clean photographs, by name: a bad classifier makes bad examples."""
    tables = read_tables(records, "clean")
    return {
        name.removeprefix(SURROGATE): metrics.top1(table["prediction"], table["true_index"]).value
        for name, table in tables.items()
        if name.startswith(SURROGATE)
    }


def _cell(results: _Results, rung: Rung, defence: str, table: Table) -> Cell:
    paths = list(table["path"])
    truth, prediction = table["true_index"], table["prediction"]
    bare, clean = (results.clean(name, paths)["prediction"] for name in (NONE, defence))
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
    success = metrics.attack_success_rate(prediction, clean, truth)
    _add(cell, "attack_success_rate", success if under_attack else None)
    _add(cell, "misclassification_rate", metrics.misclassification_rate(prediction, bare))
    cell["recovery"] = metrics.recovery(prediction, bare, truth)
    cell["true_confidence"] = metrics.mean(table["true_confidence"])
    cell["top1_confidence"] = metrics.mean(table["top1_confidence"])
    cell["attacked_n"] = int(table["attacked"].astype(bool).sum()) if under_attack else None
    cell["max_delta"] = float(table["max_delta"].max()) if under_attack and paths else None
    cell["median_delta"] = float(np.median(table["max_delta"])) if under_attack and paths else None
    for name in ("psnr", "ssim"):
        cell[name] = None if np.isnan(table[name].astype(float)).any() else metrics.mean(table[name])
    return cell


def _add(cell: Cell, name: str, share: Share | None) -> None:
    """A share, its interval and what it is a share of; None where it was not measured."""
    cell[name] = share.value if share else None
    cell[f"{name}_interval"] = list(share.interval) if share and share.interval else None
    cell[f"{name}_hits"], cell[f"{name}_n"] = (share.hits, share.n) if share else (None, None)


def _findings(results: _Results, ladder: Sequence[Rung], rung: Rung, defence: str) -> Iterator[Finding]:
    """The masking checks that concern one attack's number behind one defence."""
    paths = list(results.table(rung, defence)["path"])
    clean, right = results.clean(defence, paths), results.right(rung, defence, paths)
    attacked = rung.pipeline or NONE  # the defence that the attacker differentiates through, if any
    source = SURROGATE + rung.surrogate if rung.surrogate else ""
    checks: list[Finding | None] = [
        masking.randomness(_flags(clean["differs"])),
        masking.softmax(_flags(results.clean(source or NONE, paths)["probabilities"])),
        masking.label_leak(right, np.asarray(clean["prediction"] == clean["true_index"])),
        masking.own_flags([text for text in results.table(rung, defence)["flags"] if isinstance(text, str)]),
    ]
    # bad examples make every defence that faces them look good
    if rung.threat_model != "black_box" and not rung.bpda:
        checks.append(masking.zero_gradients(_flags(results.clean(source or attacked, paths)["zero_gradient"])))
    if not rung.surrogate and not rung.bpda:
        fewer = _comparable(results, ladder, rung, attacked, _has_fewer_steps)
        checks.append(_compare(results, masking.more_steps_do_worse, rung, fewer, attacked))
    if rung.threat_model == "adaptive" and not rung.bpda:
        weaker = _comparable(results, ladder, rung, defence, _knows_less)
        checks.append(_compare(results, masking.less_knowledge_does_better, rung, weaker, defence))
    return (finding for finding in checks if finding)


def _compare(
    results: _Results,
    check: Callable[[NDArray[np.bool_], NDArray[np.bool_], str], Finding | None],
    rung: Rung,
    others: Sequence[Rung],
    defence: str,
) -> Finding | None:
    """Hold a rung against others, on the photographs that both have. Of what is found, the largest difference."""
    found: list[tuple[float, Finding]] = []
    for other in others:
        theirs = set(results.table(other, defence)["path"])
        paths = [path for path in results.table(rung, defence)["path"] if path in theirs]
        right, other_right = (results.right(one, defence, paths) for one in (rung, other))
        name = other.name if other.threat_model == rung.threat_model else f"{other.name} ({other.threat_model})"
        if finding := check(right, other_right, name):
            found.append((float(right.mean() - other_right.mean()), finding))
    return max(found, key=lambda pair: pair[0])[1] if found else None


def _comparable(
    results: _Results, ladder: Sequence[Rung], rung: Rung, defence: str, relation: Callable[[Rung, Rung], bool]
) -> list[Rung]:
    """Rungs of the same budget that stand in this relation to `rung`, and that `defence` faced too."""
    return [
        other
        for other in ladder
        if other.attack and other.eps == rung.eps and relation(other, rung) and defence in results.tables[other.key]
    ]


def _has_fewer_steps(other: Rung, rung: Rung) -> bool:
    """Whether `other` is `rung`'s attack on the same model with fewer steps (and no more restarts)."""
    few, many = other.attack, rung.attack
    assert few is not None
    assert many is not None
    same_model = (other.threat_model, other.pipeline, other.bpda) == (rung.threat_model, rung.pipeline, rung.bpda)
    same_family = few.kind == many.kind or few.kind == "fgsm"
    steppers = few.kind in STEP_KINDS and many.kind in STEP_KINDS
    return same_model and same_family and steppers and _steps(few) < _steps(many) and few.restarts <= many.restarts


def _steps(attack: AttackConfig) -> int:
    return attack.effective_steps


def _knows_less(other: Rung, rung: Rung) -> bool:
    """Whether `other`'s attacker knows less than `rung`'s, who differentiates through the whole pipeline."""
    if other.threat_model == "adaptive":
        return other.bpda and other.pipeline == rung.pipeline
    return not other.pipeline or other.pipeline == rung.pipeline


def _take(table: Table, paths: Sequence[str]) -> Table:
    place = {path: i for i, path in enumerate(table["path"])}
    chosen = [place[path] for path in paths]
    return {name: values[chosen] for name, values in table.items()}


def _flags(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Flags that were noted; none where they were not."""
    return np.array([value for value in values if isinstance(value, bool)], dtype=bool)
