"""The scripts of measurements stay such that they can be called."""

import importlib
import pkgutil

import pytest

import tests
from tests import benchmarks

MODULES = [
    module.name
    for package in (tests, benchmarks)
    for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}.")
    if not module.name.startswith("tests.test_") and module.name != "tests.conftest"
]


@pytest.mark.parametrize("name", MODULES)
def test_every_script_and_helper_of_the_tests_can_be_imported(name: str) -> None:
    importlib.import_module(name)
