"""Reports of users of BasicSR, HAT, Real-ESRGAN, neosr, KAIR and others, as small cases: what ``check`` says of each.

Each test names the reports as OWNER/REPOSITORY#NUMBER on GitHub.
"""

import pytest
import torch
import yaml
from basicsr.utils.options import parse_options
from basicsr.utils.registry import ARCH_REGISTRY
from PIL import Image

from contrast_arch.check import RunContext, check_file, find_problems
from contrast_arch.errors import InputError
from tests.check.conftest import ABSENT
from tests.conftest import tiny_options

MODELS = ["SRModel", "ContrastModel"]


@pytest.mark.parametrize("is_train", [True, False])
@pytest.mark.parametrize("by_list", [True, False])
def test_training_data_without_images(check, root, is_train, by_list):
    """xinntao/Real-ESRGAN#703 and #380: the trainer ends with a ZeroDivisionError."""
    (root / "empty").mkdir()
    (root / "empty.txt").touch()
    keys = {"meta_info_file": "empty.txt"} if by_list else {"dataroot_gt": "empty", "dataroot_lq": "empty"}
    found = check({f"datasets.train.{key}": value for key, value in keys.items()}, is_train, only=("error",))
    place = "meta_info_file: no image in empty.txt" if by_list else "dataroot_gt: no image in empty"
    assert found == [f"error: datasets: train: {place}"]


@pytest.mark.parametrize("model_type", MODELS)
def test_averaged_weights_that_are_not_tested(check, root, weights, model_type):
    """icandle/MAN#6, Zheng-MJ/SMFANet#12: a test gives less than the validation of the training did."""
    torch.save({"params": weights, "params_ema": weights}, root / "a.pth")
    edits = {"model_type": model_type, "path.pretrain_network_g": "a.pth"}
    text = (
        "warning: path: param_key_g: params: a.pth has averaged weights too, which its training validated: params_ema"
    )
    assert text in check(edits, is_train=False)
    assert text in check(edits | {"path.param_key_g": "params"}, is_train=False)
    found = check(edits | {"path.param_key_g": "params_ema"}, is_train=False) + check(edits)
    assert not any("param_key" in text for text in found)


@pytest.mark.parametrize("model_type", MODELS)
def test_auto_resume_without_a_state(check, root, state, model_type):
    """kynthesis/StarSRGAN#7, XPixelGroup/BasicSR#718: training starts again, and the earlier run is moved aside."""
    edits = {"model_type": model_type}
    # The first start of a job that always has --auto_resume.
    assert check(edits, auto_resume=True) == []
    (root / "experiments" / "tiny" / "training_states").mkdir(parents=True)
    folder = f"{root}/experiments/tiny"
    text = f"warning: --auto_resume: no NUMBER.state in {folder}/training_states: training starts anew, "
    text += f"and BasicSR moves {folder} aside"
    assert check(edits, auto_resume=True) == [text]
    assert check(edits) == []
    state(2)
    assert check(edits, auto_resume=True) == []


@pytest.mark.parametrize("model_type", MODELS)
def test_a_run_that_is_at_its_end(check, state, model_type):
    """jingyuanli001/RFR-Inpainting#44: nothing is trained any more."""
    state(4)
    text = "total_iter: 4: nothing is trained, since the state that is resumed is of iteration 4"
    assert check({"model_type": model_type}, auto_resume=True) == [f"warning: train: {text}"]
    assert check({"model_type": model_type, "train.total_iter": 5}, auto_resume=True) == []


def test_a_name_with_debug(check, root, monkeypatch):
    """blog.csdn.net/m0_74413554/article/details/148117841, xinntao/Real-ESRGAN#82: such a name is the debug mode."""
    text = "warning: name: deblur_debug: it has 'debug' in it, which is BasicSR's debug mode: val_freq and "
    text += "save_checkpoint_freq become 8"
    edits = {"name": "deblur_debug"}
    assert check(edits, debug=True) == check(debug=True) == check({"name": "deblur"}) == []
    assert not any("debug" in text for text in check(edits, is_train=False))
    assert check(edits) == [text]
    monkeypatch.setattr("sys.argv", ["train", "-opt", "options.yml"])
    opt, _ = parse_options(str(root), is_train=True)
    assert (opt["val"]["val_freq"], opt["logger"]["save_checkpoint_freq"], opt["logger"]["print_freq"]) == (8, 8, 1)


@pytest.mark.parametrize("is_train, phases", [(True, ["val"]), (False, ["train", "val"])])
def test_results_of_one_name(check, root, is_train, phases):
    """As XPixelGroup/BasicSR#16, where LMDB keys are names without suffixes: so are those of saved results."""
    for name in ("HR/0", "LR/0x4"):
        Image.open(root / f"{name}.png").save(root / f"{name}.bmp")
    found = check({"val.save_img": True}, is_train, only=("error",))
    expected = (
        ": dataroot_lq: images of one name, whose results would be one file; rename them, or write val: save_img: "
        f"false\n  {root}/LR/0x4.bmp\n  {root}/LR/0x4.png"
    )
    assert found == [f"error: datasets: {phase}{expected}" for phase in phases]
    assert check(is_train=is_train, only=("error",)) == []


def test_names_that_a_project_registers(check, root, monkeypatch):
    """XPixelGroup/HAT#28 and #87, xiaom233/BSRN#11: BasicSR's own trainer knows no names of a project."""
    (root / "my_project.py").write_text(
        "import torch\nfrom basicsr.utils.registry import ARCH_REGISTRY\n"
        "ARCH_REGISTRY._obj_map['OfMyProject'] = type('OfMyProject', (torch.nn.Module,), {})\n"
    )
    monkeypatch.syspath_prepend(str(root))
    monkeypatch.setattr(ARCH_REGISTRY, "_obj_map", dict(ARCH_REGISTRY._obj_map))

    edits = {"network_g": {"type": "OfMyProject"}}
    (found,) = check(edits)
    assert found.startswith("error: network_g: type: 'OfMyProject' is not registered; ")
    assert found.endswith("; for those of a project write 'imports: [MODULE]'")
    assert check(edits, imports=["my_project"]) == []


@pytest.mark.parametrize("metric", ["calculate_psnr", "calculate_ssim"])
def test_figures_that_do_not_compare(check, metric):
    """XPixelGroup/BasicSR#634: 30.56 dB on Set5 where the paper has 32.46, and the same on DIV2K, which is of RGB."""

    def of(color=None, **keys):
        edits = {"val.metrics": {"a": {"type": metric, "crop_border": 4, **keys}}, "datasets.val.color": color}
        return [text for text in check(edits) if "test_y_channel" in text]

    text = "warning: val: metrics: a: test_y_channel: false: most published figures are of Y: test_y_channel: true"
    assert of() == of(test_y_channel=False) == [text]
    assert of(test_y_channel=True) == of(color="y") == []


@pytest.mark.parametrize(
    "written, expected",
    [
        (r"D:\new\train", "dataroot_gt: 'D:\\new\\train': expected a path (on Windows with / or in single quotes)"),
        (r"D:\data", "found unknown escape character"),
        (r"D:\Users", "did not find expected hexdecimal number"),
    ],
)
def test_paths_of_windows(root, written, expected):
    r"""XPixelGroup/BasicSR#46: \n is a line break, \d ends the reader."""
    text = yaml.safe_dump(tiny_options(root))

    def found(quote):
        (root / "options.yml").write_text(text.replace(str(root / "HR"), f"{quote}{written}{quote}", 1))
        try:
            return [problem.message for problem in find_problems("options.yml", RunContext(True))]
        except InputError as failure:
            return [str(failure)]

    assert any(message.endswith(expected) for message in found('"'))
    for quote in ("'", ""):
        assert any(f"dataroot_gt: {written} does not exist" in message for message in found(quote))


RESUME = "path.resume_state"


@pytest.mark.parametrize(
    "edits, start",
    [
        # XPixelGroup/BasicSR#717: a network in place of a state, and the folder of the states.
        ({RESUME: "{folder}/models/net_g_2.pth"}, "training state {folder}/models/net_g_2.pth is none: "),
        ({RESUME: "{folder}/training_states"}, "training state {folder}/training_states cannot be read: it"),
        # neosr-project/neosr#103: states without their networks.
        ({RESUME: "{folder}/training_states/3.state"}, "checkpoint {root}/{folder}/models/net_g_3.pth does not exist"),
        # XPixelGroup/BasicSR#618: the list of another set, DIV2K's.
        (
            {"datasets.train.meta_info_file": "list.txt"},
            "datasets: train: dataroot_lq: LQ and GT do not fit\n  {root}/LR/0801_s001x4.png: cannot be read",
        ),
        # XPixelGroup/BasicSR#309: keys of an earlier version.
        (
            {"datasets.train.use_flip": True, "datasets.train.use_shuffle": False, "datasets.train.use_hflip": ABSENT},
            "datasets: train has no use_hflip; 'use_flip' may be meant for use_hflip",
        ),
        # JingyunLiang/SwinIR#32 (KAIR): patches larger than images.
        (
            {"datasets.train.gt_size": 256},
            "datasets: train: dataroot_lq: LQ and GT do not fit\n  {root}/HR/0.png is 96x80, smaller than gt_size",
        ),
    ],
)
def test_what_was_refused_already(check, root, state, edits, start):
    state(2)
    state(3)
    (root / "experiments" / "tiny" / "models" / "net_g_3.pth").unlink()
    (root / "list.txt").write_text("0801_s001.png (480,480,3)\n")
    names = {"root": root, "folder": "experiments/tiny"}
    check({key: value.format(**names) if isinstance(value, str) else value for key, value in edits.items()})
    with pytest.raises(InputError) as failure:
        check_file("options.yml", RunContext(True))
    assert str(failure.value).startswith(start.format(**names))


def test_sections_at_the_wrong_depth(check, root):
    """neosr-project/neosr#3: a validation set beside datasets; XPixelGroup/BasicSR#382: a metric beside metrics."""
    check()
    text = (root / "options.yml").read_text()
    (root / "options.yml").write_text(text.replace("  val:\n    name: val", "val:\n    name: val"))
    found = [problem.message for problem in find_problems("options.yml", RunContext(True))]
    assert "'val' stands already in line 21; keep one" in found
    metric = {"type": "calculate_niqe", "crop_border": 0}
    assert check({"val.niqe": metric}) == ["warning: val: niqe: no such key; it is ignored"]
