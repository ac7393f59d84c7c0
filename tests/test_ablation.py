"""Switching a trick off changes no value, and leaves the package as it was."""

import json
import os
import sys
from unittest import mock

import pytest
import torch

from contrast_arch.experiments.bench.measure import Trial
from contrast_arch.layers import tokens
from contrast_arch.ops import ENVIRONMENT
from tests.conftest import ROOT, TINY, relative_error

sys.path.insert(0, str(ROOT / "benchmarks"))
try:
    import ablation
    import tricks
finally:
    sys.path.remove(str(ROOT / "benchmarks"))

MACHINE = ("cpu", "system", "torch", "numba", "python", "commit")
TINY_NETWORK = {key: value for key, value in TINY.items() if key != "type"}


def state_of_package():
    """Attributes of all modules and classes of the package, and the environment variable."""
    found = {"": sys.intern(os.environ.get(ENVIRONMENT, ""))}
    for name, module in list(sys.modules.items()):
        if name.startswith("contrast_arch"):
            for owner in (module, *(v for v in vars(module).values() if isinstance(v, type))):
                found |= {(name, owner.__name__, key): value for key, value in vars(owner).items()}
    return found


def changed(before, after):
    return [key for key in before.keys() | after.keys() if before.get(key) is not after.get(key)]


def results(case):
    """The output for two images, without and with a gradient, and the gradients."""
    torch.manual_seed(0)
    trial = Trial(ablation.build(case.network, **TINY_NETWORK), 2, 8)
    with torch.no_grad():
        outputs = [trial.output(), trial.output()]
    trial.step()
    return [*outputs, *(p.grad for p in trial.net.parameters() if p.grad is not None)]


@pytest.mark.parametrize("name", tricks.TRICKS)
def test_a_trick_that_is_off_changes_no_value(name, monkeypatch):
    """Blocks and bands are made so small that the tiny image has several."""
    pytest.importorskip("numba")
    monkeypatch.setattr(tokens, "CHUNK", 2 * 12 * 8)
    monkeypatch.setattr(tokens, "ROWS", 3)
    case = tricks.TRICKS[name].cases[0]
    off = ablation.variants(case, [name])
    with tricks.without(*off[ablation.ON]):
        expected, before = results(case), state_of_package()
        with tricks.without(name):
            assert changed(before, state_of_package())
            found = results(case)
        assert not [key for key in changed(before, state_of_package()) if "cache" not in str(key)]
    assert len(found) == len(expected) > 10
    for a, b in zip(found, expected, strict=True):
        assert relative_error(a, b) < 1e-4 or float(b.abs().max()) < 1e-7


def test_the_price_is_counted_in_the_sources():
    for trick in tricks.TRICKS.values():
        assert 1 <= tricks.count_lines(trick.price) < 500
    assert tricks.count_lines(("ops/ss2d/cpu.py:_groups",)) == 7
    with pytest.raises(ValueError, match=r"cpu\.py:_gropus: not there"):
        tricks.count_lines(("ops/ss2d/cpu.py:_gropus",))


def test_a_text_that_is_gone_is_an_error():
    with (
        pytest.raises(ValueError, match="'no such text' 0 times, expected 1"),
        tricks.replaced((tricks.Block, "forward", "no such text", "")),
    ):
        pass


@pytest.mark.parametrize(
    "times, peaks, expected",
    [
        ([1.04, 0.99], [1.09], "goes"),
        ([1.05], [], "stays, by 1 of 1"),
        ([1.06], [1.1, 1.0], "stays, by 2 of 3"),
        ([0.9, 1.2], [0.9, 1.0], "stays, by 1 of 4; 2 worse"),
        ([0.9], [], "goes; 1 worse"),
    ],
)
def test_the_rule(times, peaks, expected):
    assert ablation.verdict(times, peaks) == expected


def test_rows_of_the_tables():
    """Two rounds; the machine is at half its speed in the second."""
    seconds = {"on": [1.0, 2.0], "a": [1.2, 2.4], "b": [1.0, 2.0], "the same again": [1.0, 2.02]}
    peaks = {"on": 100.0, "a": 104.0, "b": 112.0, "the same again": 101.0}
    found = {
        "setting": {"threads": [1, 2]},
        "instead": {"a": "slow", "b": "large"},
        "lines": {"a": 7, "b": 9},
        "cases": [{"case": ["Contrast", "step", 1, 64, 2, ""], "seconds": seconds, "peak_mib": peaks}],
    }
    assert ablation.summary(found) == [
        ["a", "slow", "7", "1.20", "1.00", "-", "-", "stays, by 1 of 2"],
        ["b", "large", "9", "1.00", "1.12", "-", "-", "stays, by 1 of 2"],
        ["the same again", "", "", "1.00", "1.00", "-", "-", "noise"],
    ]
    assert ablation.details(found)[1] == [
        "b", "Contrast", "-", "1 of 64x64", "-", "1.00", "1.12 of 100 MiB", "-", "-", "-"
    ]  # fmt: skip


def test_every_trick_takes_turns_with_all_of_them_on(monkeypatch):
    """In each of its cases; and a base is off on both sides."""
    calls = []
    monkeypatch.setattr(ablation, "without", lambda *names: calls.append(names) or tricks.replaced())
    monkeypatch.setattr(ablation, "build", lambda network, groups: ablation.archs.Contrast(**TINY_NETWORK))
    threads = torch.get_num_threads()
    case = tricks.Case("Contrast", "inference", 2, 8, 1, tricks.SCAN)
    try:
        seconds = ablation.measure_times(case, ["softplus by artanh"], 2, 1)
    finally:
        torch.set_num_threads(threads)
    assert {name: len(times) for name, times in seconds.items()} == {
        "on": 2, "softplus by artanh": 2, "the same again": 2
    }  # fmt: skip
    one = [(tricks.SCAN,), (tricks.SCAN, "softplus by artanh"), (tricks.SCAN,)]
    assert calls == 3 * one
    plan = ablation.plan(list(tricks.TRICKS), [1, 2], quick=False)
    assert sorted(set().union(*plan.values())) == sorted(tricks.TRICKS)


def test_peaks_are_those_of_processes(monkeypatch):
    alone = mock.create_autospec(ablation.alone, return_value={"peak_mib": 3.0})
    monkeypatch.setattr(ablation, "alone", alone)
    case = tricks.Case("Contrast", "inference", 2, 8, torch.get_num_threads())
    assert ablation.measure_peaks(case, [tricks.SCAN]) == {"on": 3.0, tricks.SCAN: 3.0, "the same again": 3.0}
    assert alone.call_args.kwargs == {"kind": "inference", "batch": 2, "patch": 8}


def test_a_run_that_was_stopped_goes_on(tmp_path, monkeypatch):
    """Each case is saved when it is measured; --resume measures the others, and refuses a run with other settings."""
    seen = []

    def measure_times(case, names, rounds, groups):
        if len(seen) == 1:
            seen.append("stopped")
            raise KeyboardInterrupt
        seen.append(case)
        return {name: [1.0] * rounds for name in ablation.variants(case, names)}

    monkeypatch.setattr(ablation, "measure_times", measure_times)
    monkeypatch.setattr(
        ablation, "measure_peaks", lambda case, names: dict.fromkeys(ablation.variants(case, names), 20.0)
    )
    monkeypatch.setattr(ablation, "machine", lambda threads: dict.fromkeys(MACHINE, "?"))

    def run(*more):
        command = ["ablation.py", "--tricks", "bands of rows", "windows as heads", "--output", str(tmp_path), *more]
        monkeypatch.setattr(sys, "argv", command)
        ablation.main()

    with pytest.raises(KeyboardInterrupt):
        run()
    before = json.loads((tmp_path / "ablation.json").read_text())
    assert [part["case"][0] for part in before["cases"]] == ["HATLight"]
    with pytest.raises(SystemExit, match="is of another setting"):
        run("--resume", "--groups", "2")
    run("--resume")
    found = json.loads((tmp_path / "ablation.json").read_text())
    assert [part["case"] for part in found["cases"]] == [list(seen[0]), list(seen[2])] and seen[1] == "stopped"
    assert "| bands of rows | all rows at once |" in (tmp_path / "ablation.md").read_text()
