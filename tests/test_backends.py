"""The list of backends is the only place that knows them."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest

import purifyctl
from purifyctl.config import BACKENDS, BackendName, EngineConfig, EnginePrecision
from purifyctl.engine.backends import Implementation, PlanBuilder, implementation, plan_builder
from purifyctl.engine.rewrites import fold_norms
from purifyctl.errors import ConfigError

PACKAGE = Path(purifyctl.__file__).parent
OWN = ("config/backends.py", "engine/backends/")  # the list, and what it names


def offered(protocol: type) -> dict[str, inspect.Signature]:
    """A protocol's functions with their parameters, as a module offers them."""
    found = {name: inspect.signature(f) for name, f in inspect.getmembers(protocol, inspect.isfunction)}
    return {
        name: signature.replace(parameters=list(signature.parameters.values())[1:])
        for name, signature in found.items()
        if not name.startswith("_")
    }


@pytest.mark.parametrize("name", BACKENDS)
def test_every_record_names_a_module_that_offers_the_functions(name: str) -> None:
    record, module = BACKENDS[name], implementation(name)
    assert record.name == name
    for function, signature in offered(PlanBuilder if record.plans != "none" else Implementation).items():
        made = inspect.signature(getattr(module, function))
        for parameter in signature.parameters.values():
            own = made.parameters[parameter.name]
            assert (own.kind, str(own.annotation)) == (parameter.kind, str(parameter.annotation)), function
        others = set(made.parameters) - set(signature.parameters)
        assert all(made.parameters[other].default is not inspect.Parameter.empty for other in others), function


@pytest.mark.parametrize("name", BACKENDS)
def test_a_backend_chooses_among_its_own_precisions(name: str) -> None:
    record, module = BACKENDS[name], implementation(name)
    assert set(module.candidates()) <= set(record.precisions)
    assert len(set(module.candidates())) == len(module.candidates()) >= 1
    assert set(record.precisions) <= set(get_args(EnginePrecision))
    assert all(module.rewrites(precision)[0] is fold_norms for precision in record.precisions)
    builder = plan_builder(name)
    assert (builder is None) == (record.plans == "none")
    for precision in get_args(EnginePrecision):
        if precision not in record.precisions:
            with pytest.raises(ConfigError, match=f"{name} does not run {precision} here; it takes"):
                EngineConfig(backend=name, precision=precision)  # type: ignore[arg-type]


def test_recipes_and_options_take_the_backends_of_the_list() -> None:
    assert get_args(BackendName) == tuple(BACKENDS)


def test_targets_are_for_backends_that_build_ahead_of_time() -> None:
    for name, record in BACKENDS.items():
        options: dict[str, Any] = {"backend": name, "precision": record.precisions[0], "targets": ("SM86",)}
        if record.plans == "ahead":
            EngineConfig(**options)
        else:
            with pytest.raises(ConfigError, match="targets are for tensorrt-rtx"):
                EngineConfig(**options)


def compared(tree: ast.AST) -> list[str]:
    """Strings that are compared with something, searched for in something, or named by a case of a `match`."""
    found = []
    for node in ast.walk(tree):
        sides: list[ast.AST] = []
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
        elif isinstance(node, ast.MatchValue):
            sides = [node.value]
        elif isinstance(node, ast.Dict):
            sides = [key for key in node.keys if key is not None]
        for side in sides:
            found += [n.value for n in ast.walk(side) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
    return found


def test_nothing_else_in_the_package_distinguishes_backends_by_name() -> None:
    guilty = {
        file.relative_to(PACKAGE).as_posix(): sorted(set(BACKENDS) & set(compared(ast.parse(file.read_text()))))
        for file in PACKAGE.rglob("*.py")
        if not file.relative_to(PACKAGE).as_posix().startswith(OWN)
    }
    assert {name: names for name, names in guilty.items() if names} == {}


def test_the_list_is_read_without_any_library() -> None:
    code = "import sys, purifyctl.config; print(*({'numpy', 'torch', 'openvino', 'onnxruntime'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
