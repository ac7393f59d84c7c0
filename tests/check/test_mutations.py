"""Option files with mistakes: each is refused with a message, or trains. The long form is benchmarks/mutations.py."""

import importlib
import json

import pytest
import yaml
from basicsr.models.sr_model import SRModel

from contrast_arch.check import RunContext, find_problems
from contrast_arch.errors import InputError
from contrast_arch.models.contrast_model import ContrastModel
from tests.conftest import ROOT, tiny_options

FILES = 60  # the long form runs 200


@pytest.fixture
def mutations(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("mutations")


def test_every_file_is_read_or_refused(root, mutations):
    """No check raises anything but what it is to raise, and every finding says something."""
    bases = [*mutations.base_files(root), yaml.safe_dump(tiny_options(root), sort_keys=False)]
    assert mutations.mutations(bases, 20, 3) == mutations.mutations(bases, 20, 3) != mutations.mutations(bases, 20, 4)
    outcomes = {"unreadable": 0, "refused": 0, "passed": 0}
    for mutation in mutations.mutations(bases, FILES, seed=11):
        (root / "options.yml").write_bytes(mutation.content)
        try:
            problems = find_problems("options.yml", RunContext(True))
        except InputError as failure:
            assert str(failure), mutation
            outcomes["unreadable"] += 1
            continue
        assert all(problem.message for problem in problems), mutation
        outcomes["refused" if any(problem.fatal for problem in problems) else "passed"] += 1
    assert sum(outcomes.values()) == FILES and all(count > 3 for count in outcomes.values())


@pytest.mark.parametrize("text, outcome", [("", ("trained", 2)), ("extra: [1, 2", ("refused", 0))])
def test_outcomes(root, mutations, monkeypatch, text, outcome):
    """Training is ended after two iterations."""
    for model in (SRModel, ContrastModel):  # put back afterwards
        monkeypatch.setattr(model, "optimize_parameters", model.optimize_parameters)
    monkeypatch.setattr("sys.argv", ["contrast-train", "-opt", "options.yml"])
    (root / "options.yml").write_text(mutations.base_files(root)[1] + text)
    assert mutations._run() == outcome


def test_the_committed_figures(mutations):
    results = ROOT / "benchmarks" / "results"
    found = json.loads((results / "mutations.json").read_text())
    assert found["count"] == 200
    assert {name for row in found["outcomes"].values() for name in row} == {"refused", "trained"}
    assert mutations.tables(found) == (results / "mutations.md").read_text()
