"""Inputs with a mistake: check and run agree, and none ends with a traceback. All are in benchmarks/mutations.py."""

import importlib
import json
from collections import Counter

import pytest

from contrast_arch.check import RunContext, find_problems
from contrast_arch.errors import InputError
from contrast_arch.options.editor import editor_schema
from tests.conftest import ROOT

KINDS = ("removed", "misspelt")


@pytest.fixture
def mutations(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("mutations")


def test_every_key_has_each_mistake(mutations):
    cases = [case for case in mutations.cases() if "command" not in case.kind]
    keys = {kind: {case.what.split(" (")[0].split(" as ")[0] for case in cases if case.kind == kind} for kind in KINDS}
    assert keys["removed"] == keys["misspelt"]
    names = {key.split(": ")[-1] for key in keys["removed"]}
    sections = json.loads(editor_schema())["$defs"]
    known = {key for name, section in sections.items() if "training" in name for key in section["properties"]}
    assert not known - names
    bounded = [(case.what.split(" (")[0], case.kind) for case in cases if "a bound" in case.kind]
    for value, kind in (("0", "past"), ("1", "at"), ("1000000001", "past"), ("1000000000", "at")):
        assert (f"train: total_iter: '{value}'", f"{kind} a bound") in bounded
    assert len(cases) > 500


def test_option_files_are_read_or_refused(root, mutations):
    """No check raises anything but what it is to raise, and every finding says something."""
    outcomes = Counter()
    kinds = ("another type", "text", "past a bound")
    for case in [case for case in mutations.cases() if case.kind in kinds][::4]:
        case.prepare()
        try:
            problems = find_problems("options.yml", RunContext(True))
        except InputError as failure:
            assert str(failure), case.what
            outcomes["unreadable"] += 1
            continue
        assert all(problem.message for problem in problems), case.what
        outcomes["refused" if any(problem.fatal for problem in problems) else "passed"] += 1
    assert outcomes.total() > 60 and len(outcomes) == 3


PLAYED = {
    "removed: train (": "refused, would have failed",
    "past a bound: train: total_iter: '0'": "refused, would have run",
    "image: HR/0.png: cut at 50 %": "ended at the image",
    "image: LR/0x4.png: alpha": "ran",
    "checkpoint: .pth: a pickle that runs code": "refused, would have failed",
    "checkpoint: .pth: a pipe": "refused, would have failed",
    "state: a link to nothing": "refused, would have failed",
    "state: an iteration that is text": "refused, would have failed",
    "command prepare: --output 'text.txt'": "refused",
}


def test_check_and_run_agree(tmp_path, mutations, monkeypatch):
    mutations.compat.require_basicsr()
    monkeypatch.chdir(tmp_path)
    mutations.write_template(tmp_path)
    every = {f"{case.kind}: {case.what}": case for case in mutations.cases()}
    found = {}
    for name in PLAYED:
        whole = next(key for key in every if key.startswith(name))
        found[name] = mutations.judge(mutations.play(every[whole], tmp_path))
    assert found == PLAYED


@pytest.mark.parametrize(
    ("check", "run", "outcome"),
    [
        ((0, ""), (1, "error: a", (False, True)), "passed by the check, and failed"),
        ((0, ""), (0, "", (False, True)), "passed by the check, and failed"),
        ((1, "options.yml:1: error: a"), (0, "", (True, False)), "refused by the check, and ran"),
        ((1, "options.yml:1: error: a"), (0, "warning: a", (True, False)), "ran, with the check's errors as warnings"),
        ((1, "options.yml:1: error: a"), (1, "error: b", (False, True)), "refused in other words than the check's"),
        ((1, "options.yml:1: error: a"), (1, "error: a", (False, False)), "refused, and left something on disk"),
        ((0, ""), (70, "error: a", (False, True)), "exit code 70"),
        ((0, ""), (1, "Traceback (most recent call last):", (False, True)), "traceback"),
        ((0, ""), None, "no end"),
    ],
)
def test_disagreements_are_found(check, run, outcome, mutations):
    stages = {"check": (*check, None)} | ({"run": run} if run else {})
    assert mutations.judge(stages) == outcome


def test_the_committed_figures(mutations):
    results = ROOT / "benchmarks" / "results"
    found = json.loads((results / "mutations.json").read_text())
    assert len(found["cases"]) > 500 and set(found["cases"].values()) <= set(mutations.GOOD)
    assert mutations.tables(found) == (results / "mutations.md").read_text()
