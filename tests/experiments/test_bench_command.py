"""``contrast_arch.experiments.bench.run`` from option files to table, JSON and figure; and what it refuses."""

import json
import statistics

import pytest
import torch
import yaml

from contrast_arch import ops
from contrast_arch.cli import main
from contrast_arch.errors import InputError
from contrast_arch.experiments import bench
from contrast_arch.experiments.bench import command, measure, networks, results
from contrast_arch.memory import Memory
from contrast_arch.networks import compared
from contrast_arch.ops import ENVIRONMENT
from tests.conftest import TINY

RESNET = {"type": "MSRResNet", "num_in_ch": 3, "num_out_ch": 3, "num_feat": 8, "num_block": 1, "upscale": 4}


def write(folder, name, network_g, **more):
    file = folder / f"{name}.yml"
    file.write_text(yaml.safe_dump({"scale": 4, "network_g": network_g, **more}))
    return str(file)


@pytest.fixture
def files(tmp_path):
    return [write(tmp_path, "hat", {**TINY, "type": "HATLight"}), write(tmp_path, "contrast", TINY)]


@pytest.fixture
def no_processes(monkeypatch):
    """In place of a process for each network, which takes seconds to start."""
    monkeypatch.setattr(measure, "alone", lambda *args, **more: {"seconds": [1.0], "peak_mib": 7.0})


def test_two_networks_from_end_to_end(files, tmp_path, capsys, monkeypatch):
    """All parts at two batches; the processes of the peaks are replaced."""
    asked = []

    def alone(build, kind, batch, patch, scale=4, repeats=1):
        asked.append((type(build()).__name__, kind, batch, patch, repeats))
        return {"seconds": [3.0, 1.0, 2.0], "peak_mib": 7.0 * batch}

    monkeypatch.setattr(measure, "alone", alone)
    monkeypatch.setattr(measure, "peak_unsupported_reason", lambda: None)
    settings = {
        "device": "cpu",
        "batch": [2, 1],
        "patch": 8,
        "rounds": 3,
        "threads": 1,
        "sides": [64, 256],
        "core": True,
    }
    found = bench.run(files, tmp_path / "out", **settings)
    assert found == json.loads((tmp_path / "out" / "bench.json").read_text())
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"bench.json", "bench.md"}

    expected = {"device": "cpu", "batch": [1, 2], "patch": 8, "scale": 4, "rounds": 3, "threads": 1}
    assert expected.items() <= found["setting"].items() and found["machine"]["torch"] == torch.__version__
    assert len(found["checks"]) == 4 and all(check["passed"] for check in found["checks"])
    assert found["base"] == "hat" and found["notes"] == []
    networks_asked = [(kind, "step", batch, 8, 1) for batch in (1, 2) for kind in ("HATLight", "Contrast")]
    assert asked == [("Contrast", "inference", 1, 64, 8), ("Contrast", "inference", 1, 256, 4), *networks_asked]

    net = networks.find(files, 4, 16)[0][1].build()
    assert found["thousands"]["contrast"] == sum(p.numel() for p in net.parameters()) / 1000
    counts = found["multiply_adds"]["contrast"]
    assert 0 < counts["lq_64x64"] < counts["output_1280x720"]
    for batch, seconds in found["seconds"].items():
        times = [own[name] for own in seconds.values() for name in ("hat", "contrast")]
        assert all(len(own) == 3 and min(own) > 0 for own in times)
        assert found["peak_mib"][batch] == {"hat": 7.0 * int(batch), "contrast": 7.0 * int(batch)}
    steps = found["seconds"]["2"]["step"]
    pairs = zip(steps["contrast"], steps["hat"], strict=True)
    over = statistics.median(a / b for a, b in pairs)
    assert results.summary(found, "2")[1]["step_over"] == pytest.approx(over)
    assert found["sizes"][1] == {"size": 256, "seconds": 2.0, "peak_mib": 7.0}
    backends = (
        {"torch"} if ops.BACKENDS["ss2d"]["cpu"].unsupported_reason(torch.device("cpu"), False) else {"torch", "cpu"}
    )
    assert {(row["batch"], row["backend"]) for row in found["core"]} == {(n, b) for n in (1, 2) for b in backends}
    assert all(min(row["both_ms"], row["forward_ms"]) > 0 for row in found["core"])

    text = (tmp_path / "out" / "bench.md").read_text()
    assert text in capsys.readouterr().out
    assert (
        f"| contrast | {found['thousands']['contrast']:.0f}K |" in text and "| 256x256 | 2.00 | 30.5 | 1.00 |" in text
    )


def test_what_does_not_fit_into_memory_is_left_out(files, tmp_path, monkeypatch):
    """Batch 8 is expected to take 8 times of batch 1; what takes more than half is not timed."""
    peaks = {"HATLight": {1: 100.0, 4: 600.0}, "Contrast": {1: 10.0, 4: 40.0}}
    one = lambda build, kind, batch, *_: {"seconds": [1.0], "peak_mib": peaks[type(build()).__name__][batch]}  # noqa: E731
    monkeypatch.setattr(measure, "alone", one)
    monkeypatch.setattr(measure, "peak_unsupported_reason", lambda: None)
    monkeypatch.setattr(command, "device_memory", lambda device: Memory(1000 * 2**20, 0))
    peaks["Contrast"][12] = 120.0
    found = bench.run(files, tmp_path / "out", device="cpu", batch=[1, 4, 12], patch=8, rounds=1)
    assert found["peak_mib"]["4"] == {"hat": 600.0, "contrast": 40.0}
    assert found["peak_mib"]["12"] == {"hat": None, "contrast": 120.0}
    timed = {batch: [name for name, times in own["step"].items() if times] for batch, own in found["seconds"].items()}
    assert timed == {"1": ["hat", "contrast"], "4": ["contrast"], "12": ["contrast"]}
    assert found["notes"] == [
        "hat: not timed at batch 4, which takes about 1 GiB",
        "hat: not measured at batch 12, which takes about 2 GiB",
    ]


def test_a_peak_below_that_of_the_warm_up_is_not_shown(files, tmp_path, monkeypatch):
    monkeypatch.setattr(measure, "alone", lambda *args: {"seconds": [1.0], "peak_mib": -0.5})
    monkeypatch.setattr(measure, "peak_unsupported_reason", lambda: None)
    found = bench.run(files[1:], tmp_path / "out", device="cpu", batch=[1], patch=8, rounds=1)
    assert found["peak_mib"] == {"1": {}} and len(found["seconds"]["1"]["step"]["contrast"]) == 1
    assert found["notes"] == ["contrast: the peak at batch 1 does not show above the warm-up's"]


def test_a_network_that_fails_leaves_cells_empty(files, tmp_path, monkeypatch):
    """One whose memory does not suffice, one that stops in the second round, and one that goes on."""

    def alone(build, *args, **more):
        if (build.keywords.get("depths") == TINY["depths"] and "HATLight" not in str(build)) or 64 in args:
            raise RuntimeError("its process ended early")
        return {"seconds": [1.0], "peak_mib": 7.0}

    step, calls = measure.Trial.step, []

    def stops(trial):
        if type(trial.net).__name__ == "HATLight" and len(trial.losses) == 1 and len(trial.lq) == 2:
            calls.append(trial)
            raise MemoryError("all is full")
        step(trial)

    monkeypatch.setattr(measure, "alone", alone)
    monkeypatch.setattr(measure.Trial, "step", stops)
    monkeypatch.setattr(measure, "peak_unsupported_reason", lambda: None)
    files.append(write(tmp_path, "resnet", RESNET))
    (tmp_path / "out").mkdir()
    found = bench.run(files, tmp_path / "out", device="cpu", batch=[2], patch=8, rounds=2, sides=[64, 32])
    seconds = found["seconds"]["2"]
    assert len(calls) == 1 and found["peak_mib"]["2"]["contrast"] is None
    assert {name: len(times) for name, times in seconds["step"].items()} == {"hat": 0, "contrast": 0, "resnet": 2}
    assert {name: len(times) for name, times in seconds["inference"].items()} == dict.fromkeys(seconds["step"], 2)
    assert found["multiply_adds"]["resnet"]["lq_64x64"] > 0
    assert [row["size"] for row in found["sizes"]] == [32]
    assert "Contrast on 64x64: RuntimeError: its process ended early" in found["notes"]
    assert "hat, step, batch 2: MemoryError: all is full" in found["notes"]
    assert "contrast, memory of an iteration of 2: RuntimeError: its process ended early" in found["notes"]


def test_a_system_without_peaks_is_noted_once(files, tmp_path, monkeypatch):
    monkeypatch.setattr(measure, "peak_unsupported_reason", lambda: "no peaks here")
    found = bench.run(files[1:], tmp_path / "out", device="cpu", batch=[1, 2], patch=8, rounds=1, sides=[32])
    assert found["notes"] == ["no peaks here"] and found["sizes"] == [] and found["peak_mib"] == {"1": {}, "2": {}}
    assert all(len(own["step"]["contrast"]) == 1 for own in found["seconds"].values())
    assert "| contrast |" in (tmp_path / "out" / "bench.md").read_text()


def test_what_fails_its_check_gets_no_time(files, tmp_path, monkeypatch, no_processes):
    from contrast_arch.experiments.bench import checks

    right = checks.check
    monkeypatch.setattr(
        checks,
        "check",
        lambda run, candidate: right(run, candidate) and run.check(candidate.name, candidate.name == "hat", 0.5),
    )
    found = bench.run(files, tmp_path / "out", device="cpu", batch=[1], patch=8, rounds=1)
    seconds = found["seconds"]["1"]
    assert seconds["step"]["hat"] == seconds["inference"]["hat"] == [] and "hat" not in found["peak_mib"]["1"]
    assert len(seconds["step"]["contrast"]) == 1 and found["peak_mib"]["1"]["contrast"] == 7.0
    assert found["base"] is None and found["notes"] == ["hat failed its check (1.0e+00 > 5e-01): not timed"]


def test_the_default_networks():
    candidates, notes = networks.find(None, 4, 64)
    names = [candidate.name for candidate in candidates]
    count = len(compared())
    assert names[-count:] == compared()
    assert names[:-count] == ([] if notes else [networks.BASE, *networks.PEERS])
    counts = {c.name: networks.parameters(c.build()) for c in candidates}
    assert counts["HATLight"] == 1_717_524 and counts["ContrastNoPE_ssm_ratio2"] == 1_718_316
    assert (counts["ContrastV2_light"], counts["ContrastV2_S"]) == (430_710, 7_550_007)
    assert counts.get(networks.BASE, 1_717_524) == 1_717_524
    stated = {
        "HAT-S": 9_621_183,
        "SwinIR-light": 929_628,
        "DAT-light": 572_766,
        "OmniSR": 805_376,
        "ATD-light": 768_792,
    }
    assert {name: counts.get(name, count) for name, count in stated.items()} == stated


def test_psnr_is_that_of_the_shipped_weights():
    """A network by the name of its option file, and by that of its weights."""
    (named, of_weights, full), _ = networks.find(["Contrast_light", "HATLight_light_SRx4", "Contrast"], 4, 64)
    assert named.psnr == {"Set5": pytest.approx(28.7403, abs=1e-4), "Set14": pytest.approx(26.3430, abs=1e-4)}
    assert of_weights.psnr["Set5"] == pytest.approx(28.6928, abs=1e-4) and full.psnr == {}
    assert networks.parameters(of_weights.build()) == 771_099 and networks.parameters(named.build()) == 745_572
    (other,), _ = networks.find(["Contrast_light"], 2, 64)
    assert other.psnr == {} and other.build().upscale == 2


def test_upstream_hat_is_a_note_where_it_is_not_installed(monkeypatch):
    def missing(upscale):
        raise ImportError("No module named 'spandrel'")

    monkeypatch.setattr(networks, "upstream_hat", missing)
    candidates, notes = networks.find([], 2, 64)
    assert [candidate.name for candidate in candidates] == compared()
    assert len(notes) == 1 and "pip install spandrel" in notes[0]
    assert candidates[-2].build().upscale == 2
    with pytest.raises(InputError, match="pip install spandrel"):
        networks.find(["HAT"], 4, 64)


MISTAKES = {
    "unknown network": (
        ["Swin"],
        {},
        "network Swin: neither an option file, nor weights, nor one of HAT, Contrast",
    ),
    "twice": (["Contrast", "Contrast"], {}, "two networks are called Contrast"),
    "other scale": (["{scale2}"], {}, "scale2.yml is for scale 2, and --scale is 4"),
    "no network_g": (["{nothing}"], {}, "nothing.yml has no network_g"),
    "not YAML": (["{broken}"], {}, "broken.yml is not readable as YAML"),
    "type": (["{type}"], {}, r"type.yml: network_g: type: 'Contrst' is not registered; did you mean Contrast"),
    "no type": (["{untyped}"], {}, r"untyped.yml: network_g: type: None is not registered"),
    "argument": (["{argument}"], {}, r"argument.yml: network_g: .*dimms"),
    "argument of others": (["{others}"], {}, r"others.yml: network_g: MSRResNet cannot be built: .*width"),
    "batch": (["Contrast"], {"batch": [4, 0]}, "--batch 0: expected a whole number from 1"),
    "sides": (["Contrast"], {"sides": [0]}, "--sides 0: expected a whole number from 1"),
    "weights": (["{weights}"], {}, "no.safetensors"),
    "patch": (["Contrast"], {"patch": 8}, "--patch 8 is smaller than the windows of Contrast.* at least 16"),
    "scale": (["Contrast"], {"scale": -1}, "--scale -1"),
    "rounds": (["Contrast"], {"rounds": 0}, "--rounds 0"),
    "threads": (["Contrast"], {"threads": 0}, "--threads 0"),
    "many threads": (
        ["Contrast"],
        {"threads": 10**12},
        "--threads 1000000000000: expected a whole number from 1 to 1024",
    ),
    "minutes": (["Contrast"], {"minutes": float("nan")}, "--minutes nan: expected more than 0"),
    "device": (["Contrast"], {"device": "tpu9"}, "device='tpu9': .*; expected cpu, or a GPU that PyTorch finds"),
    "other device": (["Contrast"], {"device": "meta"}, "--device meta: expected cpu, cuda or cuda:N"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_named_before_anything_is_measured(mistake, tmp_path, monkeypatch):
    names, settings, message = MISTAKES[mistake]
    written = {
        "scale2": write(tmp_path, "scale2", TINY | {"upscale": 2}, scale=2),
        "nothing": write(tmp_path, "nothing", None),
        "type": write(tmp_path, "type", TINY | {"type": "Contrst"}),
        "untyped": write(tmp_path, "untyped", {"upscale": 4}),
        "argument": write(tmp_path, "argument", TINY | {"dimms": 3}),
        "others": write(tmp_path, "others", RESNET | {"width": 3}),
        "weights": str(tmp_path / "no.safetensors"),
        "broken": str(tmp_path / "broken.yml"),
    }
    (tmp_path / "broken.yml").write_text("network_g: [")
    monkeypatch.setattr(command, "_measure", lambda *args: pytest.fail("measured"))
    with pytest.raises(InputError, match=message):
        bench.run([name.format(**written) for name in names], tmp_path / "out", **settings)
    assert not (tmp_path / "out").exists()


def test_a_gpu_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match=r"device='cuda:99': .*; expected cpu, or a GPU that PyTorch finds"):
        bench.run(["Contrast"], tmp_path / "out", device="cuda:99")


def test_command_line(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(bench, "run", lambda *args, **settings: calls.append((*args, settings)))
    given = ["bench", "HAT", "Contrast", "--batch", "1", "8", "--sides", "64", "--core", "--minutes", "2.5", "--output"]
    assert main([*given, str(tmp_path)]) == main(["bench"]) == 0
    assert calls[0][:2] == (["HAT", "Contrast"], tmp_path)
    assert calls[0][2] == {"batch": [1, 8], "sides": [64], "core": True, "minutes": 2.5, "quick": False}
    assert calls[1][0] == [] and calls[1][2] == {"core": False, "quick": False}


def test_a_backend_that_is_unknown(monkeypatch, tmp_path):
    monkeypatch.setenv(ENVIRONMENT, "turbo")
    with pytest.raises(InputError, match=r"^CONTRAST_ARCH_BACKEND=turbo: 'turbo': expected a backend or"):
        bench.run(["Contrast"], tmp_path / "out", device="cpu")


def test_a_file_where_the_folder_should_be(files, tmp_path):
    with pytest.raises(InputError, match=r"--output .*hat.yml: no folder can be made there"):
        bench.run(["Contrast"], tmp_path / "hat.yml", device="cpu")
    assert (tmp_path / "hat.yml").read_text()
