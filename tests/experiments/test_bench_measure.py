"""Rounds, what is done when a call fails, memory in a process of its own, checks."""

import os
from functools import partial

import pytest
import torch

import contrast_arch
from contrast_arch.experiments.bench import checks, measure
from contrast_arch.experiments.bench.networks import Candidate
from contrast_arch.ops import ENVIRONMENT
from tests.conftest import TINY

ARGUMENTS = {key: value for key, value in TINY.items() if key != "type"}
tiny = partial(contrast_arch.Contrast, **ARGUMENTS)


def a_run(patch=8):
    return measure.Run(torch.device("cpu"), float("inf"), patch, batch=2, rounds=3)


def test_rounds_are_interleaved_and_the_first_is_not_kept():
    order = []
    calls = {name: partial(order.append, name) for name in "ab"}
    times = measure.interleaved(calls, 2, warm_up=1, before=lambda key: order.append(f"before {key}"))
    assert order == ["before a", "a", "before b", "b"] * 3
    assert {name: len(seconds) for name, seconds in times.items()} == {"a": 2, "b": 2}
    assert all(second >= 0 for seconds in times.values() for second in seconds)


def test_what_fails_is_left_out_and_the_rest_goes_on():
    seen, failures = [], {}

    def fails_the_third_time():
        seen.append(None)
        if len(seen) == 3:
            raise MemoryError("no more")

    calls = {"good": lambda: None, "bad": fails_the_third_time}
    times = measure.interleaved(calls, 4, failed=failures.__setitem__)
    assert list(times) == ["good"] and len(times["good"]) == 4 and len(seen) == 3
    assert str(failures["bad"]) == "no more"
    with pytest.raises(MemoryError):
        seen.clear()
        measure.interleaved(calls, 4)


def test_time_that_is_up_still_leaves_one_round():
    times = measure.interleaved({"a": lambda: None}, 5, warm_up=1, enough=lambda: True)
    assert len(times["a"]) == 1


def test_ratio_is_the_median_within_rounds():
    """A machine that halves its speed in the last round; the ratio of the medians would be 2 / 1.5."""
    assert measure.ratio([1.0, 2.0, 6.0], [1.0, 1.0, 2.0]) == 2.0
    assert measure.ratio([2.0, 2.0, 4.0], [1.0, 2.0, 1.5]) == 2.0


def test_a_step_trains():
    trial = measure.Trial(tiny().train(), 2, 8)
    assert trial.lq.shape == (2, 3, 8, 8) and trial.gt.shape == (2, 3, 32, 32)
    before = [p.detach().clone() for p in trial.net.parameters()]
    for _ in range(3):
        trial.step()
    assert trial.losses[2] < trial.losses[0]
    moved = [float((p.detach() - old).abs().max()) for p, old in zip(trial.net.parameters(), before, strict=True)]
    # Adam's first steps are as long as its learning rate.
    assert 2e-4 < max(moved) < 3 * 2.1e-4
    trial.inference()
    assert len(trial.losses) == 3


def test_an_output_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"gave \(1, 3, 32, 32\), expected \(1, 3, 16, 16\)"):
        measure.Trial(tiny(), 1, 8, scale=2).step()


class Wide(torch.nn.Conv2d):
    """Takes 64 MiB in inference, and again in training; has a batch norm that cannot train on one number."""

    def __init__(self):
        super().__init__(3, 3, 1)
        self.norm = torch.nn.BatchNorm1d(1)

    def forward(self, x):
        self.norm(x.mean().view(1, 1))
        wide = x.new_ones(2**24)
        y = super().forward(x) * (wide.exp() if self.training else wide).mean()
        return y.repeat_interleave(4, 2).repeat_interleave(4, 3)


@pytest.mark.skipif(measure.peak_unsupported_reason() is not None, reason="the system says no peaks")
def test_peak_of_what_a_step_takes():
    """As :func:`measure.alone` measures it in its process."""
    found = measure._alone(Wide, "step", 1, 16, 4, repeats=2, threads=torch.get_num_threads())
    assert len(found["seconds"]) == 2 and 120 < found["peak_mib"] < 160


def test_a_process_that_ends_early_is_an_error():
    with pytest.raises(RuntimeError, match="its process ended early with code 3"):
        measure.alone(partial(os._exit, 3), "step", batch=1, patch=8)


def test_plain_is_left_as_it_was(monkeypatch):
    for value in ("cpu", None):
        if value is None:
            monkeypatch.delenv(ENVIRONMENT, raising=False)
        else:
            monkeypatch.setenv(ENVIRONMENT, value)
        with pytest.raises(KeyError), checks.plain():
            assert os.environ[ENVIRONMENT].startswith("ss2d=torch,window_attention=reference")
            raise KeyError
        assert os.environ.get(ENVIRONMENT) == value


@pytest.mark.parametrize("name", ["Contrast", "HATLight", "MambaLight"])
def test_our_networks_pass_their_check(name):
    run = a_run()
    assert checks.check(run, Candidate("it", partial(getattr(contrast_arch, name), **ARGUMENTS), ours=True))
    assert [c["check"] for c in run.checks] == ["it: output as in plain PyTorch", "it: gradients as in plain PyTorch"]
    assert all(c["error"] < 1e-5 for c in run.checks) and not run.notes


@pytest.mark.parametrize("factor", [1.05, float("nan")])
def test_a_wrong_gradient_of_the_scan_does_not_pass(factor, monkeypatch):
    pytest.importorskip("numba")
    from contrast_arch.ops.ss2d import cpu

    right = cpu._launch

    def wrong(name, *arguments):
        out = right(name, *arguments)
        return out * factor if name == "backward" else out

    # The self-test of the backend, before it is broken.
    assert cpu.unsupported_reason(torch.device("cpu"), False) is None
    monkeypatch.setattr(cpu, "_launch", wrong)
    run = a_run()
    assert not checks.check(run, Candidate("it", tiny, ours=True))
    assert [c["passed"] for c in run.checks] == [True, False]
    assert "it: gradients as in plain PyTorch failed its check" in run.notes[0]


def test_a_network_of_others_must_give_numbers():
    class Other(torch.nn.Conv2d):
        def __init__(self, bias):
            super().__init__(3, 3, 1)
            torch.nn.init.constant_(self.bias, bias)

        def forward(self, x):
            return super().forward(x).repeat_interleave(4, 2).repeat_interleave(4, 3)

    assert checks.check(a_run(), Candidate("it", partial(Other, 0.5)))
    assert not checks.check(a_run(), Candidate("it", partial(Other, float("inf"))))
    run = a_run()
    assert not checks.check(run, Candidate("OmniSR", partial(Other, 0.5)))
    assert run.checks[0]["check"] == "OmniSR: parameters as its paper states"
