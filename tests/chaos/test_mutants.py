"""The seeded bugs themselves; what becomes of them, only a run of them tells."""

import ast

import pytest

from tests.chaos.mutants import MUTANTS, ROOT, Mutant, edited


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_what_a_mutant_replaces_is_there_once_and_leaves_code_that_can_be_read(mutant: Mutant) -> None:
    for edit in mutant.edits:
        ast.parse(edited(edit, ROOT / "reservation"))
