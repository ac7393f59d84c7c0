"""``contrast-arch bench`` from option files to tables and JSON, its measurements and checks, and what it refuses."""

import json
import multiprocessing
import signal
import sys
from functools import partial

import pytest
import torch
import yaml

import contrast_arch
from contrast_arch.cli import main
from contrast_arch.errors import InputError
from contrast_arch.experiments.bench import checks, command, measure, multiply_adds, networks
from contrast_arch.memory import Memory
from contrast_arch.networks import compared
from contrast_arch.ops import BACKENDS, ENVIRONMENT
from contrast_arch.weights import describe_pretrained
from tests.conftest import TINY

RESNET = {"type": "MSRResNet", "num_in_ch": 3, "num_out_ch": 3, "num_feat": 8, "num_block": 1, "upscale": 4}
ARGUMENTS = {key: value for key, value in TINY.items() if key != "type"}
CPU = torch.device("cpu")
tiny = partial(contrast_arch.Contrast, **ARGUMENTS)


def write(folder, name, network_g, **more):
    file = folder / f"{name}.yml"
    file.write_text(yaml.safe_dump({"scale": 4, "network_g": network_g, **more}))
    return str(file)


@pytest.fixture
def stubbed(monkeypatch):
    """Checks pass and nothing is counted, which takes most of the time."""
    monkeypatch.setattr(checks, "check", lambda run, name, build: True)
    monkeypatch.setattr(multiply_adds, "count", lambda net, size: 1)


@pytest.fixture
def bench(tmp_path, monkeypatch):
    """A run over a HAT light and a Contrast, both tiny; in place of processes: class, batch, side -> MiB."""
    files = {"hat": write(tmp_path, "hat", {**TINY, "type": "HATLight"}), "contrast": write(tmp_path, "contrast", TINY)}

    def run(names=("hat", "contrast"), peak=lambda kind, batch, side: 7.0 * batch, **settings):
        def alone(build, kind, batch, patch, scale=4):
            return {"seconds": 1.0, "peak_mib": peak(type(build()).__name__, batch, patch)}

        monkeypatch.setattr(measure, "alone", alone)
        settings = {"device": "cpu", "batch": [1], "patch": 8, "rounds": 1, **settings}
        return command.run([files.get(name, name) for name in names], tmp_path / "out", **settings)

    monkeypatch.setattr(measure, "peak_unsupported_reason", lambda: None)
    return run


def test_two_networks_from_end_to_end(bench, tmp_path, capsys):
    """All parts at two batches, the core of SS2D and images of other sizes among them."""
    asked = []

    def peak(*arguments):
        asked.append(arguments)
        return 7.0 * arguments[1]

    found = bench(peak=peak, batch=[2, 1], rounds=3, sides=[64, 32], with_core=True)
    assert found == json.loads((tmp_path / "out" / "bench.json").read_text())
    expected = {"device": "cpu", "batch": [1, 2], "patch": 8, "scale": 4, "rounds": 3, "tf32": None}
    assert expected.items() <= found["setting"].items() and found["machine"]["torch"] == torch.__version__
    assert len(found["checks"]) == 4 and all(check["passed"] for check in found["checks"])
    assert found["base"] == "hat" and found["notes"] == []
    assert found["sizes"] == [{"size": side, "seconds": 1.0, "peak_mib": 7.0} for side in (32, 64)]
    networks_of = [(kind, batch, 8) for batch in (1, 2) for kind in ("HATLight", "Contrast")]
    assert asked == [("Contrast", 1, 32), ("Contrast", 1, 64), *networks_of]
    served = [name for name in BACKENDS["ss2d"] if name not in ("reference", "cuda")]
    assert [(row["batch"], row["backend"]) for row in found["core"]] == [(n, b) for n in (1, 2) for b in served]
    assert all(row["both_ms"] > 0 and row["forward_ms"] > 0 for row in found["core"])
    assert found["thousands"]["contrast"] == sum(p.numel() for p in tiny().parameters()) / 1000
    assert found["multiply_adds"]["contrast"] == multiply_adds.count(tiny(), (180, 320))
    for batch, seconds in found["seconds"].items():
        times = [own[name] for own in seconds.values() for name in ("hat", "contrast")]
        assert all(len(own) == 3 and min(own) > 0 for own in times)
        assert found["peak_mib"][batch] == {"hat": 7.0 * int(batch), "contrast": 7.0 * int(batch)}
    text = (tmp_path / "out" / "bench.md").read_text()
    assert text in capsys.readouterr().out and text == command.tables(found)
    assert "| contrast | 17K |" in text and "| 64x64 | 1.00 | 244.1 | 7 MiB |" in text and "| 1 | torch |" in text


def test_a_network_that_fails_leaves_cells_empty(bench, stubbed, tmp_path, monkeypatch):
    """One whose memory does not suffice for training, and one for which it does not suffice at all."""

    def peak(kind, batch, side):
        if kind == "Contrast":
            raise RuntimeError("its process ended early")
        return 7.0

    def stops(trial):
        if type(trial.net).__name__ == "MSRResNet" and len(trial.lq) == 4:
            raise MemoryError("all is full")
        inference(trial)

    inference = measure.Trial.inference
    monkeypatch.setattr(measure.Trial, "inference", stops)
    resnet = write(tmp_path, "resnet", RESNET)
    found = bench(["hat", "contrast", resnet], peak=peak, batch=[2, 4], rounds=2)
    assert found["peak_mib"]["2"] == {"hat": 7.0, "contrast": None, "resnet": 7.0}
    counts = {
        batch: [[len(times) for times in own[kind].values()] for kind in ("inference", "step")]
        for batch, own in found["seconds"].items()
    }
    assert counts == {"2": [[2, 2, 2], [2, 0, 2]], "4": [[2, 2, 0], [2, 0, 0]]}
    assert found["notes"] == [
        "contrast, memory of an iteration of 2: RuntimeError: its process ended early",
        "contrast, memory of an iteration of 4: RuntimeError: its process ended early",
        "resnet, inference of 4: MemoryError: all is full",
    ]


def test_a_step_that_takes_most_of_the_memory_is_not_timed_beside_others(bench, stubbed, monkeypatch):
    monkeypatch.setattr(command, "device_memory", lambda device: Memory(100 * 2**20, 100 * 2**20))
    found = bench(peak=lambda kind, batch, side: 56.0 if kind == "Contrast" else 54.0)
    counts = {name: len(times) for name, times in found["seconds"]["1"]["step"].items()}
    assert counts["contrast"] == 0 and counts["hat"] > 0 and found["peak_mib"]["1"]["contrast"] == 56.0
    assert found["notes"] == ["contrast, step of 1: takes more than 55 MiB: not timed beside the others"]


def test_a_batch_that_no_memory_holds_is_noted(bench, stubbed):
    found = bench(["contrast"], batch=[10**12])
    assert found["seconds"] == {str(10**12): {kind: {"contrast": []} for kind in ("inference", "step")}}
    assert [note for note in found["notes"] if note.startswith(f"contrast, inference of {10**12}: ")]


def test_a_system_that_says_no_peaks_is_noted_once(bench, stubbed, monkeypatch):
    monkeypatch.setattr(measure, "peak_unsupported_reason", lambda: "no peaks here")
    found = bench(["contrast"], batch=[1, 2])
    assert found["notes"] == ["no peaks here"] and found["peak_mib"] == {"1": {}, "2": {}}
    assert all(len(own["step"]["contrast"]) == 1 for own in found["seconds"].values())


def test_what_fails_its_check_gets_no_time(bench, stubbed, monkeypatch):
    monkeypatch.setattr(checks, "check", lambda run, name, build: run.check(name, name == "hat"))
    found = bench()
    seconds = found["seconds"]["1"]
    assert seconds["step"]["hat"] == seconds["inference"]["hat"] == [] and "hat" not in found["peak_mib"]["1"]
    assert len(seconds["step"]["contrast"]) == 1 and found["peak_mib"]["1"]["contrast"] == 7.0
    assert found["base"] is None and found["notes"] == ["hat failed its check (1.0e+00 > 5e-01): not timed"]


# Networks


def test_the_default_networks(monkeypatch):
    """Without spandrel those of this package alone, with a note."""
    (candidates, notes), count = networks.find(None, 4), len(compared())
    names = [candidate.name for candidate in candidates]
    assert names[-count:] == compared()
    assert names[:-count] == ([] if notes else [networks.BASE, *networks.PEERS])
    stated = {"HATLight": 1_717_524, "ContrastNoPE_ssm_ratio2": 1_718_316, "ContrastV2_light": 430_710}
    stated |= {"HAT-S": 9_621_183, "SwinIR-light": 929_628, "OmniSR": 805_376, networks.BASE: 1_717_524}
    counts = {c.name: networks.parameters(c.build()) for c in candidates if c.name in stated}
    assert counts == {name: count for name, count in stated.items() if name in names}

    monkeypatch.setitem(sys.modules, "spandrel.architectures.HAT.__arch.HAT", None)
    with pytest.raises(InputError, match=r"^HAT: .*spandrel"):
        networks.find(["HAT"], 4)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr(networks, "compared", lambda: ["Contrast_light"])
    candidates, notes = networks.find([], 2)
    assert [candidate.name for candidate in candidates] == ["Contrast_light"]
    assert len(notes) == 1 and "pip install spandrel" in notes[0]


def test_psnr_is_that_of_the_shipped_weights():
    """A network by the name of its option file, and by that of its weights."""
    names = ["ContrastNoPE_ssm_ratio2_light", "ContrastNoPE_ssm_ratio2_light_SRx4", "Contrast_light"]
    (named, of_weights, other), _ = networks.find(names, 4)
    expected = {name: values["psnr"] for name, values in describe_pretrained(names[1])["metrics"].items()}
    assert named.psnr == of_weights.psnr == expected and expected["Set5"] > 31 and other.psnr == {}
    assert networks.parameters(of_weights.build()) == 849_522 and networks.parameters(other.build()) == 745_572
    (other,), _ = networks.find(["Contrast_light"], 2)
    assert other.psnr == {} and other.build().upscale == 2


MISTAKES = {
    "unknown": (["Swin"], {}, "network Swin: neither an option file, nor weights, nor one of HAT, Contrast"),
    "twice": (["Contrast", "Contrast"], {}, "two networks are called Contrast"),
    "not YAML": (["{broken}"], {}, "broken.yml, line 2: not readable as YAML"),
    "type": (["{type}"], {}, r"type.yml: network_g: type: 'Contrst' is not registered; did you mean Contrast"),
    "no type": (["{untyped}"], {}, r"untyped.yml: network_g: type: None is not registered"),
    "argument": (["{argument}"], {}, r"argument.yml: network_g: .*dimms"),
    "argument of others": (["{others}"], {}, r"others.yml: .*width"),
    "batch": ([], {"batch": [4, 0]}, "--batch 0: expected more than 0"),
    "weights": (["{weights}"], {}, "no.safetensors"),
    "device": ([], {"device": "tpu9"}, "device='tpu9': .*; expected cpu, or a GPU that PyTorch finds"),
    "backend": ([], {"device": "cpu"}, r"^CONTRAST_ARCH_BACKEND=turbo: 'turbo': expected a backend or"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_named_before_anything_is_measured(mistake, tmp_path, monkeypatch):
    names, settings, message = MISTAKES[mistake]
    written = {
        "type": write(tmp_path, "type", TINY | {"type": "Contrst"}),
        "untyped": write(tmp_path, "untyped", {"upscale": 4}),
        "argument": write(tmp_path, "argument", TINY | {"dimms": 3}),
        "others": write(tmp_path, "others", RESNET | {"width": 3}),
        "weights": str(tmp_path / "no.safetensors"),
        "broken": str(tmp_path / "broken.yml"),
    }
    (tmp_path / "broken.yml").write_text("network_g: [")
    if mistake == "backend":
        monkeypatch.setenv(ENVIRONMENT, "turbo")
    with pytest.raises(InputError, match=message):
        command.run([name.format(**written) for name in names], tmp_path / "out", **settings)
    assert not (tmp_path / "out").exists()


def test_command_line(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(command, "run", lambda **settings: calls.append(settings))
    assert main(["bench", "HAT", "Contrast", "--batch", "1", "8", "--core", "--output", str(tmp_path)]) == 0
    assert main(["bench", "--sides", "64"]) == 0
    given = {"names": ["HAT", "Contrast"], "output": tmp_path, "batch": [1, 8], "with_core": True}
    left_out = {"device": None, "patch": None, "scale": 4, "rounds": 5, "sides": None, "quick": False}
    assert calls[0] == given | left_out and (calls[1]["names"], calls[1]["sides"]) == ([], [64])


# Measurements


def test_rounds_are_interleaved_and_the_first_is_not_kept():
    order = []
    times = measure.interleaved({name: partial(order.append, name) for name in "ab"}, 2, warm_up=1)
    assert order == ["a", "b"] * 3
    assert {name: len(seconds) for name, seconds in times.items()} == {"a": 2, "b": 2}
    assert all(second >= 0 for seconds in times.values() for second in seconds)


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
    with pytest.raises(ValueError, match=r"gave \(1, 3, 32, 32\), expected \(1, 3, 16, 16\)"):
        measure.Trial(tiny(), 1, 8, scale=2).step()


class Wide(torch.nn.Conv2d):
    """Takes 64 MiB in inference, and again in training."""

    def __init__(self):
        super().__init__(3, 3, 1)

    def forward(self, x):
        wide = x.new_ones(2**24)
        y = super().forward(x) * (wide.exp() if self.training else wide).mean()
        return y.repeat_interleave(4, 2).repeat_interleave(4, 3)


@pytest.mark.skipif(measure.peak_unsupported_reason() is not None, reason="the system says no peaks")
def test_peak_of_what_a_step_takes():
    """As :func:`measure.alone` measures it in its process."""
    found = measure._alone(Wide, "step", 1, 16, 4, threads=torch.get_num_threads())
    assert found["seconds"] > 0 and 120 < found["peak_mib"] < 160


def test_a_process_that_ends_early_is_an_error(monkeypatch):
    """In a fork, which need not import PyTorch again."""
    fork = multiprocessing.get_context("fork")
    monkeypatch.setattr(multiprocessing, "get_context", lambda kind: fork)
    with pytest.raises(RuntimeError, match="its process ended early: the memory may not suffice"):
        measure.alone(partial(signal.raise_signal, signal.SIGKILL), "step", batch=1, patch=8)


# Checks


def a_run():
    return measure.Run(CPU, 8, rounds=3)


@pytest.mark.parametrize("name", ["Contrast", "HATLight", "MambaLight", "ContrastV2"])
def test_our_networks_pass_their_check(name):
    run = a_run()
    # With windows of 16 the gradient of ContrastV2's constant bias is rounding.
    arguments = (
        ARGUMENTS | {"window_size": 16, "upsampler": "pixelshuffledirect"} if name == "ContrastV2" else ARGUMENTS
    )
    assert checks.check(run, "it", partial(getattr(contrast_arch, name), **arguments))
    assert [c["check"] for c in run.checks] == ["it: output as in plain PyTorch", "it: gradients as in plain PyTorch"]
    assert all(c["error"] < 1e-4 for c in run.checks) and not run.notes


@pytest.mark.parametrize("factor", [1.05, float("nan")])
def test_a_wrong_gradient_of_the_scan_does_not_pass(factor, monkeypatch):
    pytest.importorskip("numba")
    from contrast_arch.ops import unsupported_reason
    from contrast_arch.ops.ss2d import cpu

    right = cpu._launch

    def wrong(name, *arguments):
        out = right(name, *arguments)
        return out * factor if name == "backward" else out

    # The self-test of the backend, before it is broken.
    assert unsupported_reason("ss2d", "cpu", CPU) is None
    monkeypatch.setattr(cpu, "_launch", wrong)
    run = a_run()
    assert not checks.check(run, "it", tiny)
    assert [c["passed"] for c in run.checks] == [True, False]
    assert "it: gradients as in plain PyTorch failed its check" in run.notes[0]


def test_a_network_of_others_must_give_numbers():
    class Other(torch.nn.Conv2d):
        def __init__(self, bias):
            super().__init__(3, 3, 1)
            torch.nn.init.constant_(self.bias, bias)

        def forward(self, x):
            return super().forward(x).repeat_interleave(4, 2).repeat_interleave(4, 3)

    assert checks.check(a_run(), "it", partial(Other, 0.5))
    assert not checks.check(a_run(), "it", partial(Other, float("inf")))
