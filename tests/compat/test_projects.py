"""contrast_arch in projects of others: BasicSR's own script with a drop-in file, and a project beside BasicSR."""

import importlib.util
import json
import re
from pathlib import Path

import pytest
import torch
import yaml

from contrast_arch.check import RunContext, check_file, find_problems
from contrast_arch.check.parts import import_problems, registered
from tests.compat.run import CONTRAST_TRAIN, Project, Trial
from tests.conftest import ROOT, run_python, tiny_options, write_pairs

INSTALLED = Path(importlib.util.find_spec("basicsr").origin).parent
MISSING = "ContrastModel runs under a trainer that is not contrast-train: a resumed run starts its epoch over"


def test_a_drop_in_file_under_basicsrs_own_script(tmp_path):
    """`python basicsr/train.py` with archs/x_arch.py: trained, resumed without a GPU, tested."""
    trial = Trial(Project(), INSTALLED, tmp_path / "project", "`x_arch.py`: `import contrast_arch`")
    log = trial.whole("ContrastModel")
    assert log.count(MISSING) == 2  # once in each run that trains
    assert "Resuming training from epoch: 0, iter: 4." in log
    state = trial.root / "experiments" / "ContrastModel" / "training_states" / "6.state"
    assert torch.load(state, weights_only=True)["best_metric_results"]["val"]["psnr"]["iter"] in (2, 4, 6)


TOY = {
    "toy/__init__.py": "import toy.archs, toy.models\n",
    "toy/models.py": "from basicsr.models.sr_model import SRModel\n"
    "from basicsr.utils.registry import MODEL_REGISTRY\n"
    "@MODEL_REGISTRY.register()\nclass ToyModel(SRModel):\n"
    "    def feed_data(self, data):\n        super().feed_data(data)\n        print('toy fed', self.opt['toys'])\n",
    "toy/suffixed.py": "from basicsr.models.sr_model import SRModel\n"
    "from basicsr.utils.registry import MODEL_REGISTRY\n"
    "@MODEL_REGISTRY.register()\nclass RealESRNetModel(SRModel):\n    pass\n",
    "toy/archs.py": "import torch\nfrom basicsr.utils.registry import ARCH_REGISTRY\n"
    "@ARCH_REGISTRY.register()\nclass ToyNet(torch.nn.Sequential):\n"
    "    def __init__(self, upscale):\n"
    "        super().__init__(torch.nn.Conv2d(3, 3 * upscale**2, 1), torch.nn.PixelShuffle(upscale))\n",
}


def write_toy(root, **texts):
    for name, text in {**TOY, **texts}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def test_a_project_with_models_of_its_own(tmp_path):
    """contrast-train in its folder: the key ``imports``, and the ``basicsr`` there before the installed one."""
    trial = Trial(Project(("ToyModel",), "toy", ("toy.models",)), INSTALLED, tmp_path / "project", CONTRAST_TRAIN)
    # What MambaIR, DAT, RGT and CAT have left of it.
    for path in [*(trial.root / "basicsr" / "models").glob("*_model.py"), trial.root / "basicsr/utils/lmdb_util.py"]:
        if path.stem not in ("base_model", "sr_model"):
            path.unlink()
    write_toy(trial.root)
    options = trial.options("ToyModel", network_g={"type": "ToyNet", "upscale": 4}, imports=["toy.archs"], toys=3)
    options["network_g"] = {"type": "ToyNet", "upscale": 4}
    log = trial.run("train", options)
    assert log.count("toy fed 3") == 4 + 3 * 2  # iterations, and three images in two validations
    assert f"run by BasicSR 1.4.2 ({trial.root / 'basicsr'})" in log
    assert "Network [ToyNet] is created." in log and len(re.findall(r"# psnr: \d+\.\d+", log)) == 2


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with pairs and the toy project, which is on the path."""
    write_pairs(tmp_path)
    write_toy(
        tmp_path,
        **{
            "broken_project.py": "import os\nraise ValueError('no such thing')\n",
            "needy.py": "import absent_package\n",
        },
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    return tmp_path


@pytest.mark.parametrize(
    "imports, message",
    [
        (["nowhere"], "imports: nowhere cannot be imported: it is neither under {root} nor installed"),
        (
            ["toy.nothing"],
            "imports: toy.nothing cannot be imported: ModuleNotFoundError: No module named 'toy.nothing'",
        ),
        (["needy"], "imports: needy cannot be imported: ModuleNotFoundError: No module named 'absent_package'"),
        (["broken_project"], "imports: broken_project cannot be imported: ValueError: no such thing ({root}/broken"),
        ("toy", "imports: 'toy': expected a list of modules, such as [hat.archs, hat.models]"),
        (["toy models"], "imports: ['toy models']: expected a list of modules"),
    ],
)
def test_what_cannot_be_imported(folder, imports, message):
    """The one error, at its line: names that are not registered for want of it are no findings."""
    text = yaml.safe_dump(tiny_options(folder, model_type="ToyModel" if imports != "toy" else "SRModel"))
    (folder / "a.yml").write_text(f"imports: {json.dumps(imports)}\n{text}")
    first, *more = [problem for problem in find_problems("a.yml", RunContext(True)) if problem.fatal]
    assert first.in_file("a.yml").startswith("a.yml:1: error: " + message.format(root=folder))
    assert not more or "toy models" in str(imports)


def test_imports_of_the_command_line_are_enough(folder):
    options = tiny_options(folder, model_type="ToyModel")
    options["network_g"] = {"type": "ToyNet", "upscale": 4}
    (folder / "a.yml").write_text(yaml.safe_dump(options))
    check_file("a.yml", RunContext(True, imports=["toy"]))


def test_a_projects_own_model_comes_before_the_suffixed_one_of_basicsr(folder):
    """BasicSR registers RealESRNetModel as RealESRNetModel_basicsr, which serves where no other has the name."""
    from basicsr.utils.registry import MODEL_REGISTRY

    def module():
        return registered("model_type", "RealESRNetModel", "MODEL_REGISTRY").__module__

    assert module() == "basicsr.models.realesrnet_model"
    assert list(import_problems(["toy.suffixed"])) == []
    assert module() == MODEL_REGISTRY.get("RealESRNetModel").__module__ == "toy.suffixed"


SWINIR = {"type": "SwinIR", "upscale": 4, "img_size": 8, "window_size": 4, "depths": [2], "embed_dim": 12}
SWINIR |= {"num_heads": [2], "mlp_ratio": 2, "upsampler": "pixelshuffledirect"}
TRAIN = """
sys.argv = ["train.py", "-opt", "swinir.yml"]
from basicsr.train import train_pipeline
train_pipeline(".")
"""
WITHOUT = """
import types, torchvision.transforms.functional as f
sys.modules["torchvision.transforms.functional_tensor"] = m = types.ModuleType("functional_tensor")
m.rgb_to_grayscale = f.rgb_to_grayscale
"""


def test_the_hosts_own_networks_train_as_without_us(tmp_path):
    """Four iterations of BasicSR's SwinIR, validations between: the same bits."""
    programs = {}
    for name, code in {"with": "import contrast_arch\n", "without": WITHOUT}.items():
        write_pairs(root := tmp_path / name)
        options = tiny_options(root, manual_seed=3)
        options["network_g"] = SWINIR
        (root / "swinir.yml").write_text(yaml.safe_dump(options))
        programs[name] = {"code": code + TRAIN, "folder": str(root)}
    (tmp_path / "programs.json").write_text(json.dumps(programs))
    result = run_python(tmp_path, str(ROOT / "tests" / "forked.py"), "programs.json")
    found = json.loads(result.stdout)
    assert all(outcome["code"] == 0 for outcome in found.values()), found
    ours, plain = (
        torch.load(tmp_path / name / "experiments/tiny/models/net_g_4.pth", weights_only=True)["params"]
        for name in programs
    )
    assert set(ours) == set(plain) and all(torch.equal(ours[key], plain[key]) for key in ours)
    lines = {
        name: re.findall(r"l_pix: \S+|# psnr: \S+", outcome["out"] + outcome["err"]) for name, outcome in found.items()
    }
    assert len(lines["with"]) == 7 and lines["with"] == lines["without"]
