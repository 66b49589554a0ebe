"""The list of attacks says everything about them, and adding one takes a record and a function."""

import importlib
import inspect
import json
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

from docs import reference
from purifyctl import attacks
from purifyctl.attacks import AttackFunction, function_of
from purifyctl.config import ATTACKS, Attack, AttackConfig
from purifyctl.errors import ConfigError
from tests import commands

ROOT = Path(__file__).parents[1]
TAKEN = list(inspect.signature(AttackFunction.__call__).parameters.values())[1:]  # what every attack takes


def takes_what_an_attack_takes(function: object) -> bool:
    if not inspect.isfunction(function):
        return False
    parameters = inspect.signature(function).parameters
    others = [parameter for name, parameter in parameters.items() if name not in {taken.name for taken in TAKEN}]
    return (
        [parameters[taken.name].kind for taken in TAKEN if taken.name in parameters] == [taken.kind for taken in TAKEN]
        and list(parameters)[: len(TAKEN)] == [taken.name for taken in TAKEN]
        and all(other.kind is other.KEYWORD_ONLY and other.default is not other.empty for other in others)
    )


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.kind)
def test_every_record_names_a_function_that_is_called_like_all_the_others(attack: Attack) -> None:
    assert takes_what_an_attack_takes(function_of(attack))


def test_every_attack_in_the_package_is_listed() -> None:
    modules = [
        importlib.import_module(found.name) for found in pkgutil.iter_modules(attacks.__path__, "purifyctl.attacks.")
    ]
    found = {
        f"{module.__name__}:{name}"
        for module in modules
        for name, function in vars(module).items()
        if takes_what_an_attack_takes(function) and function.__module__ == module.__name__
    }
    assert found == {attack.function for attack in ATTACKS}


def test_records_do_not_contradict_each_other_or_themselves() -> None:
    kinds = [attack.kind for attack in ATTACKS]
    assert len(set(kinds)) == len({attack.label for attack in ATTACKS}) == len(kinds)
    for attack in ATTACKS:
        assert attack.one_step_form in ("", *kinds)
        assert attack.in_floats or attack.sees_rounding  # what is only made in 8 bits has to survive the rounding
        assert attack.in_floats or attack.family != "gradient sign"
        assert AttackConfig(attack.kind).effective_steps == attack.default_steps


def test_an_attack_that_is_not_listed_is_refused_with_those_that_are() -> None:
    with pytest.raises(ConfigError, match="no attack 'pdg'") as caught:
        AttackConfig("pdg")
    assert all(attack.kind in str(caught.value.hint) for attack in ATTACKS)


def test_the_list_is_light_to_import() -> None:
    code = "import sys, purifyctl.config.attacks; print([name for name in ('torch', 'numpy') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_documentation_has_a_table_of_the_whole_list() -> None:
    assert reference.attacks() in (ROOT / "docs" / "attacks.md").read_text(), "make docs"


RECORD = """    Attack(
        kind="grain",
        label="Grain",
        function="purifyctl.attacks.grain:grain",
        family="gradient sign",
        what="noise that fills the budget",
        paper="nobody",
        default_steps=2,
        trainable=True,
    ),
)
BY_KIND ="""
FUNCTION = """
import torch

from purifyctl.attacks.budget import project


def grain(model, x, y, eps, *, steps, targeted=False, eot=1, generator=None):
    return project(x + eps * torch.empty_like(x).uniform_(-1, 1, generator=generator).sign(), x, eps)
"""
SCRIPT = """
import json
from docs import reference
from purifyctl.config import TrainingAttack, from_dict
from purifyctl.config.evaluate import parse_attack
from purifyctl.evaluation.ladder import build_ladder

ladder = build_ladder(threat_models=("gray_box",), eps=(4 / 255,), attacks=(parse_attack("grain-3"),))
print(json.dumps({
    "reference": [line for line in reference.page().splitlines() if "grain" in line],
    "table": [line for line in reference.attacks().splitlines() if "grain" in line],
    "ladder": [rung.title for rung in ladder],
    "recipe": from_dict(TrainingAttack, {"kind": "grain", "eps": [0.01, 0.02]}).name,
}))
"""


@pytest.mark.slow
def test_a_new_attack_takes_a_record_and_a_function(photos: Path, tmp_path: Path) -> None:
    package = with_links(ROOT / "purifyctl", tmp_path / "purifyctl", "config", "attacks")
    listed = (package / "config" / "attacks.py").read_text()
    (package / "config" / "attacks.py").unlink()
    (package / "config" / "attacks.py").write_text(listed.replace(")\nBY_KIND =", RECORD))
    (package / "attacks" / "grain.py").write_text(FUNCTION)
    path = os.pathsep.join([str(tmp_path), str(ROOT)])

    def python(*words: str) -> str:
        return commands.python(*words, cwd=tmp_path, PYTHONPATH=path, check=True).stdout

    found = json.loads(python("-c", SCRIPT))
    option, key = found["reference"]
    first, last = ATTACKS[0].kind, ATTACKS[-1].kind
    assert option.startswith(f"| `--attack` | `{first}` ")
    assert f"`{last}` `grain` |" in option
    assert key.startswith(f"| `kind` | {first}, ")
    assert f"{last}, grain |" in key
    assert found["table"] == ["| `grain` | noise that fills the budget (nobody) | gradient steps (2) |"]
    assert found["ladder"] == ["clean", "Grain-3 4/255"]
    assert found["recipe"] == "Grain-2"
    out, classifier = str(tmp_path / "out"), ("--classifier", "tests.tiny:classifier", "--image-size", "64")
    manifest = json.loads(
        python("-m", "purifyctl", "attack", str(photos), "--out", out, "--attack", "grain", "--json", *classifier)
    )
    assert manifest["attack"]["name"] == "Grain-2"
    assert manifest["max_delta_255"] == 8


def with_links(package: Path, copy: Path, *opened: str) -> Path:
    """A package that is links to another one's files; in the folders that are `opened`, files can be added."""
    for folder in (package, *(package / name for name in opened)):
        to = copy / folder.relative_to(package)
        to.mkdir()
        for entry in folder.iterdir():
            if entry.name not in (*opened, "__pycache__"):
                (to / entry.name).symlink_to(entry)
    return copy
