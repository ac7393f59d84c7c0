from tests.conftest import run_python

LIST = (
    "from basicsr.utils.registry import ARCH_REGISTRY; from contrast_arch.registration import NETWORKS; "
    "assert all(ARCH_REGISTRY.get(n) is c for n, c in NETWORKS.items()); print(len(NETWORKS))"
)


def test_every_name_is_registered(tmp_path):
    result = run_python(tmp_path, "-c", f"import contrast_arch; {LIST}")
    assert result.stdout.strip() == "10", result.stderr


def test_the_model_is_registered_and_srmodel_stays_basicsrs_own(tmp_path):
    code = (
        "import contrast_arch; from basicsr.utils.registry import MODEL_REGISTRY as models; "
        "print(models.get('ContrastModel').__module__, models.get('SRModel').__module__)"
    )
    result = run_python(tmp_path, "-c", code)
    assert result.stdout.split() == ["contrast_arch.models.contrast_model", "basicsr.models.sr_model"], result.stderr


def test_basicsr_may_be_tried_first(tmp_path):
    """Where torchvision lacks what BasicSR imports its first import fails; after ours it works all the same."""
    code = f"""
try:
    import basicsr
except ImportError:
    pass
import contrast_arch, basicsr
{LIST}
"""
    result = run_python(tmp_path, "-c", code)
    assert result.stdout.strip() == "10", result.stderr


def test_builds_through_basicsr(tmp_path):
    code = (
        "import contrast_arch; from basicsr.archs import build_network; "
        "net = build_network({'type': 'Contrast_no_pe_no_cab', 'dims': 12, 'depths': [1], 'num_heads': [2]}); "
        "print(type(net).__name__, net.layers[0].residual_group.blocks[0].mamba.conv2d.bias.shape[0])"
    )
    result = run_python(tmp_path, "-c", code)
    assert result.stdout.split() == ["Contrast_no_pe_no_cab", "12"], result.stderr


def test_a_name_in_use_is_left_to_its_owner(tmp_path):
    # Importing the package registers already, so the owner has to come before it: through BasicSR alone.
    code = """
import sys, types, torchvision.transforms.functional as f
sys.modules["torchvision.transforms.functional_tensor"] = m = types.ModuleType("functional_tensor")
m.rgb_to_grayscale = f.rgb_to_grayscale
from basicsr.utils.registry import ARCH_REGISTRY
@ARCH_REGISTRY.register()
class Contrast: pass
import warnings
with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter("always")
    import contrast_arch
print(ARCH_REGISTRY.get("Contrast") is Contrast, "HATLight" in ARCH_REGISTRY)
print([str(w.message) for w in seen if "already registered" in str(w.message)])
"""
    result = run_python(tmp_path, "-c", code)
    assert result.stdout.splitlines() == [
        "True True",
        "[\"the network name 'Contrast' is already registered by another package\"]",
    ], result.stderr


WITHOUT_BASICSR = """
import sys
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("basicsr", "cv2"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Hide())
import importlib.util
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, *a: None if name.split(".")[0] == "basicsr" else find_spec(name, *a)
"""


def test_networks_work_without_basicsr(tmp_path):
    code = WITHOUT_BASICSR + (
        "import torch, contrast_arch; net = contrast_arch.Contrast(dims=12, depths=[1], num_heads=[2], window_size=4); "
        "print(tuple(net(torch.rand(1, 3, 5, 6)).shape), 'basicsr' in sys.modules)"
    )
    result = run_python(tmp_path, "-c", code)
    assert result.stdout.strip() == "(1, 3, 20, 24) False", result.stderr


def test_training_without_basicsr_says_how_to_install_it(tmp_path):
    code = WITHOUT_BASICSR + "from contrast_arch.train import main; sys.exit(main())"
    result = run_python(tmp_path, "-c", code, "-opt", "nothing.yml")
    assert result.returncode == 1
    assert result.stderr.startswith("error: BasicSR is not installed: pip install torch")
    assert len(result.stderr.splitlines()) == 1


def test_a_broken_basicsr_does_not_stop_the_networks(tmp_path):
    (tmp_path / "basicsr").mkdir()
    (tmp_path / "basicsr" / "__init__.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    code = "import sys; sys.path.insert(0, '.'); import contrast_arch; print(contrast_arch.Contrast.__name__)"
    result = run_python(tmp_path, "-c", code)
    assert result.stdout.strip() == "Contrast"
    assert "does not import, so no network was registered: operator torchvision::nms" in result.stderr
