import doctest
import importlib
import pkgutil

import pytest
import smarttuner.consumers
import smarttuner.core

NAMES = [
    module.name
    for room in (smarttuner.core, smarttuner.consumers)
    for module in pkgutil.walk_packages(room.__path__, room.__name__ + ".")
]
POLICIES = [name for name in NAMES if name.startswith("smarttuner.consumers.policies.")]


@pytest.mark.parametrize("name", NAMES)
def test_the_examples_in_docstrings_hold(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0


@pytest.mark.parametrize(
    "name", sorted(set(POLICIES) - {"smarttuner.consumers.policies.options", "smarttuner.consumers.policies.table"})
)
def test_every_policy_has_an_example(name):
    assert doctest.testmod(importlib.import_module(name)).attempted >= 3
