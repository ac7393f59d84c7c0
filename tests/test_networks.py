"""A new network is a line of the table: a toy goes from its option file to its bench."""

import re

import pytest
import torch
from basicsr.utils.registry import ARCH_REGISTRY

import contrast_arch.archs.contrast_arch as archs
from contrast_arch import registration
from contrast_arch.adapters.factories import build as build_for_others
from contrast_arch.check import RunContext, find_problems, read_options
from contrast_arch.cli import main
from contrast_arch.experiments.bench import networks as bench
from contrast_arch.experiments.bench.checks import check
from contrast_arch.experiments.bench.measure import Run
from contrast_arch.networks import NETWORKS, Network, compared
from contrast_arch.weights import describe_pretrained, export, load_pretrained
from tests.conftest import ROOT
from tests.models.building import build, options, train
from tests.weights.conftest import finish

FILE = "train_Toy_SRx4_from_scratch.yml"


# The example of the page.
PAGE = (ROOT / "CONTRIBUTING.md").read_text()
LINE = eval(re.search(r'"Toy": (Network\(.*?\n {7}\)),', PAGE, re.DOTALL)[1], {"Network": Network})


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The working directory, with the toy in the table, in BasicSR's registry, and its option file in ``train``."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(NETWORKS, "Toy", LINE)
    monkeypatch.setattr(ARCH_REGISTRY, "_obj_map", dict(ARCH_REGISTRY._obj_map))
    registration.register_in(ARCH_REGISTRY)
    assert main(["options", "--network", "Toy", "--output", f"train/{FILE}"]) == 0
    return tmp_path


@pytest.fixture
def network_g(folder):
    return read_options(f"train/{FILE}")["network_g"]


def test_it_is_checked(folder):
    """All that is wrong is that the data are not there; and a mistake is found."""
    context = RunContext(True, force_yml=["num_gpu=0"])
    problems = [problem.message for problem in find_problems(f"train/{FILE}", context)]
    assert problems and all("does not exist" in problem for problem in problems)
    context = RunContext(True, force_yml=["num_gpu=0", "network_g:overlap_ratio=1.0"])
    problems = [problem.message for problem in find_problems(f"train/{FILE}", context)]
    assert any("not supported by Toy, which has no overlapping attention" in problem for problem in problems)


def test_it_is_trained(folder, network_g):
    model = build(options(folder) | {"network_g": network_g})
    assert type(model.get_bare_model(model.net_g)) is archs.Toy
    losses = [log["l_pix"] for log in train(model, 1, 8, batches=lambda iteration: BATCH)]
    assert losses[-1] < losses[0]


BATCH = {"lq": torch.full((1, 3, 8, 8), 0.2), "gt": torch.full((1, 3, 32, 32), 0.7)}


def test_it_is_exported_and_loaded(folder, network_g):
    """By its file's description, and from the names and shapes of its weights alone."""
    _, experiment, _ = finish(folder, network_g)
    path = export(experiment, folder)
    assert describe_pretrained(path)["network_g"] == network_g
    net = load_pretrained(path)
    assert type(net) is archs.Toy and net.norm.bias.eq(2).all()
    torch.save(net.state_dict(), "bare.pth")
    with pytest.warns(UserWarning, match="Toy is taken from its weights"):
        bare = load_pretrained("bare.pth", window_size=4)
    lq = torch.rand(1, 3, 7, 9)
    with torch.no_grad():
        assert type(bare) is archs.Toy and torch.equal(bare(lq), net(lq)) and net(lq).shape == (1, 3, 28, 36)


def test_it_is_benched_by_its_name(folder, monkeypatch):
    monkeypatch.setattr(bench, "option_files", lambda: folder)
    assert compared()[-3:] == ["ContrastV2_light", "ContrastV2_S", "Toy"]
    (candidate,), _ = bench.find(["Toy"], 4)
    assert type(candidate.build()) is archs.Toy
    assert check(run := Run(torch.device("cpu"), 8, 1), "Toy", candidate.build) and len(run.checks) == 2


def test_it_is_in_the_registries_of_others():
    assert type(build_for_others("Toy", 2, {})) is archs.Toy
    assert list(registration.networks())[6:8] == ["Toy", "Contrast_baseline_first"]
