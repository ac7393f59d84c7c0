"""``contrast_arch.bench.run`` from option files to table, JSON and figure; and what it refuses."""

import json
import statistics

import matplotlib.image
import pytest
import torch
import yaml

from contrast_arch import bench
from contrast_arch.bench import command, measure, networks
from contrast_arch.errors import InputError
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


def test_two_networks_from_end_to_end(files, tmp_path, capsys):
    found = bench.run(files, tmp_path / "out", device="cpu", batch=2, patch=16, rounds=3, threads=1)
    assert found == json.loads((tmp_path / "out" / "bench.json").read_text())
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"bench.json", "bench.md", "bench.png"}
    assert matplotlib.image.imread(tmp_path / "out" / "bench.png").std() > 0.1

    expected = {"device": "cpu", "batch": 2, "patch": 16, "scale": 4, "rounds": 3, "threads": 1, "published": False}
    assert expected.items() <= found["setting"].items()
    assert found["machine"]["torch"] == torch.__version__
    assert len(found["checks"]) == 4 and all(check["passed"] for check in found["checks"])
    assert found["bases"] == ["hat"] and found["notes"] == ([reason] if (reason := measure.no_peak()) else [])

    hat, contrast = found["networks"]
    assert [hat["name"], contrast["name"]] == ["hat", "contrast"]
    net = networks.find(files, 4, 16)[0][1].build()
    assert contrast["parameters"] == sum(p.numel() for p in net.parameters())
    assert 0 < contrast["multiply_adds"]["lq_64x64"] < contrast["multiply_adds"]["output_1280x720"]
    for network in (hat, contrast):
        assert [len(network["seconds"][kind]) for kind in ("inference", "step")] == [3, 3]
        assert all(second > 0 for kind in network["seconds"].values() for second in kind)
        assert measure.no_peak() or 0 < network["peak_mib"] < 2000
    pairs = zip(contrast["seconds"]["step"], hat["seconds"]["step"], strict=True)
    over = found["summary"][1]["iteration_over"]
    assert over == {"hat": pytest.approx(statistics.median(a / b for a, b in pairs))}

    text = (tmp_path / "out" / "bench.md").read_text()
    assert text in capsys.readouterr().out
    assert "NOT the published setting" in text and f"| contrast | {contrast['parameters']:,} |" in text


def test_a_network_that_fails_leaves_cells_empty(files, tmp_path, monkeypatch):
    """One whose memory does not suffice, one that stops in the second round, and one that goes on."""

    def alone(build, *args, **more):
        if build.keywords.get("depths") == TINY["depths"] and "HATLight" not in str(build):
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
    files.append(write(tmp_path, "resnet", RESNET))
    (tmp_path / "out").mkdir()
    found = bench.run(files, tmp_path / "out", device="cpu", batch=2, patch=8, rounds=2)
    hat, contrast, resnet = found["networks"]
    assert len(calls) == 1 and found["bases"] == []
    assert hat["seconds"]["step"] == contrast["seconds"]["step"] == [] and contrast["peak_mib"] is None
    assert [len(n["seconds"]["inference"]) for n in (hat, contrast, resnet)] == [2, 2, 2]
    assert len(resnet["seconds"]["step"]) == 2 and resnet["multiply_adds"]["lq_64x64"] > 0
    assert "hat, step: MemoryError: all is full" in found["notes"]
    assert "contrast, memory of an iteration: RuntimeError: its process ended early" in found["notes"]


def test_what_fails_its_check_gets_no_time(files, tmp_path, monkeypatch, no_processes):
    from contrast_arch.bench import checks

    right = checks.check
    monkeypatch.setattr(
        checks,
        "check",
        lambda run, candidate: right(run, candidate) and run.check(candidate.name, candidate.name == "hat", 0.5),
    )
    old = tmp_path / "out" / "bench.png"
    old.parent.mkdir()
    old.write_text("of an earlier run")
    found = bench.run(files, old.parent, device="cpu", batch=1, patch=8, rounds=1)
    hat, contrast = found["networks"]
    assert hat["seconds"] == {"inference": [], "step": []} and hat["peak_mib"] is None
    assert len(contrast["seconds"]["step"]) == 1 and contrast["peak_mib"] == 7.0
    assert found["notes"] == ["hat failed its check (1.0e+00 > 5e-01): not timed"]
    assert old.read_bytes().startswith(b"\x89PNG")


def test_nothing_measured_leaves_no_old_figure(files, tmp_path, monkeypatch):
    from contrast_arch.bench import checks

    monkeypatch.setattr(checks, "check", lambda run, candidate: False)
    old = tmp_path / "out" / "bench.png"
    old.parent.mkdir()
    old.write_text("of an earlier run")
    found = bench.run(files, old.parent, device="cpu", batch=1, patch=8, rounds=1)
    assert not old.exists() and found["notes"][-1] == "nothing was timed, so there is no figure"
    assert found["notes"] == json.loads((old.parent / "bench.json").read_text())["notes"]


def test_the_default_networks():
    candidates, notes = networks.find(None, 4, 64)
    names = [candidate.name for candidate in candidates]
    count = len(networks.COMPARISON)
    assert names[-count:] == list(networks.COMPARISON)
    assert names[:-count] == ([] if notes else [networks.BASE, "HAT-S", "SwinIR-light"])
    counts = {c.name: networks.parameters(c.build()) for c in candidates}
    assert counts["HATLight"] == 1_717_524 and counts["ContrastNoPE_ssm_ratio2"] == 1_718_316
    assert (counts["ContrastV2_light"], counts["ContrastV2_S"]) == (430_710, 7_550_007)
    assert counts.get(networks.BASE, 1_717_524) == 1_717_524
    # 9.62 and 0.93 million.
    assert counts.get("HAT-S", 9_621_183) == 9_621_183
    assert counts.get("SwinIR-light", 929_628) == 929_628


def test_upstream_hat_is_a_note_where_it_is_not_installed(monkeypatch):
    def missing(upscale):
        raise ImportError("No module named 'spandrel'")

    monkeypatch.setattr(networks, "upstream_hat", missing)
    candidates, notes = networks.find([], 2, 64)
    assert [candidate.name for candidate in candidates] == list(networks.COMPARISON)
    assert len(notes) == 1 and "pip install spandrel" in notes[0]
    assert {candidate.build().upscale for candidate in candidates} == {2}
    with pytest.raises(InputError, match="pip install spandrel"):
        networks.find(["HAT"], 4, 64)


MISTAKES = {
    "unknown network": (["Swin"], {}, "network Swin: neither an option file nor one of HAT, HATLight, Contrast"),
    "twice": (["Contrast", "Contrast"], {}, "two networks are called Contrast"),
    "other scale": (["{scale2}"], {}, "scale2.yml is for scale 2, and --scale is 4"),
    "no network_g": (["{nothing}"], {}, "nothing.yml has no network_g"),
    "not YAML": (["{broken}"], {}, "broken.yml is not readable as YAML"),
    "type": (["{type}"], {}, r"type.yml: network_g: type: 'Contrst' is not registered; did you mean Contrast"),
    "no type": (["{untyped}"], {}, r"untyped.yml: network_g: type: None is not registered"),
    "argument": (["{argument}"], {}, r"argument.yml: network_g: .*dimms"),
    "argument of others": (["{others}"], {}, r"others.yml: network_g: MSRResNet cannot be built: .*width"),
    "batch": (["Contrast"], {"batch": 0}, "--batch 0: expected a whole number from 1"),
    "patch": (["Contrast"], {"patch": 8}, "--patch 8 is smaller than the windows of Contrast.* at least 16"),
    "scale": (["Contrast"], {"scale": -1}, "--scale -1"),
    "rounds": (["Contrast"], {"rounds": 0}, "--rounds 0"),
    "threads": (["Contrast"], {"threads": 0}, "--threads 0"),
    "minutes": (["Contrast"], {"minutes": float("nan")}, "--minutes nan: expected more than 0"),
    "device": (["Contrast"], {"device": "tpu9"}, "--device tpu9: expected cpu, cuda or cuda:N"),
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
        "broken": str(tmp_path / "broken.yml"),
    }
    (tmp_path / "broken.yml").write_text("network_g: [")
    monkeypatch.setattr(command, "_measure", lambda *args: pytest.fail("measured"))
    with pytest.raises(InputError, match=message):
        bench.run([name.format(**written) for name in names], tmp_path / "out", **settings)
    assert not (tmp_path / "out").exists()


def test_a_gpu_that_is_not_there(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="--device cuda: PyTorch sees no GPU"):
        bench.run(["Contrast"], tmp_path / "out", device="cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(InputError, match="--device cuda:2: PyTorch sees 2 GPU"):
        bench.run(["Contrast"], tmp_path / "out", device="cuda:2")


def test_a_backend_that_is_unknown(monkeypatch, tmp_path):
    monkeypatch.setenv(ENVIRONMENT, "turbo")
    with pytest.raises(InputError, match=r"^CONTRAST_ARCH_BACKEND=turbo: 'turbo': expected a backend or"):
        bench.run(["Contrast"], tmp_path / "out", device="cpu")


def test_a_file_where_the_folder_should_be(files, tmp_path):
    with pytest.raises(InputError, match=r"--output .*hat.yml: no folder can be made there"):
        bench.run(["Contrast"], tmp_path / "hat.yml", device="cpu")
    assert (tmp_path / "hat.yml").read_text()
