"""The table of systems says what each command line has."""

import importlib

import pytest

from almanac.systems import SYSTEMS


@pytest.mark.parametrize("system", SYSTEMS, ids=lambda system: system.name)
def test_the_table_names_every_verb(system):
    commands = importlib.import_module(f"almanac.{system.name}.cli").COMMANDS
    assert sorted(system.verbs) == sorted(commands)
