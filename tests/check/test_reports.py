"""Reports of users of BasicSR, HAT, Real-ESRGAN, neosr, KAIR and others, as small cases: what ``check`` says of each.

Each test names the reports as OWNER/REPOSITORY#NUMBER on GitHub.
"""

import logging

import pytest
import torch
import yaml
from basicsr.train import create_train_val_dataloader, load_resume_state
from basicsr.utils.options import parse_options
from basicsr.utils.registry import ARCH_REGISTRY
from PIL import Image

from contrast_arch.check import RunContext, check_file, find_problems
from contrast_arch.errors import InputError
from tests.check import test_checkpoint
from tests.conftest import tiny_options, write_pairs

# Fixtures: weights of tiny options, and what saves a training state with them.
weights, state = test_checkpoint.weights, test_checkpoint.state


def of_data(phase, **keys):
    return lambda options: options["datasets"][phase].update(keys)


def texts(problems, severity):
    return [text for found, text in problems if found == severity]


@pytest.mark.parametrize("is_train", [True, False])
@pytest.mark.parametrize("by_list", [True, False])
def test_training_data_without_images(check, root, is_train, by_list):
    """xinntao/Real-ESRGAN#703 and #380: the trainer ends with a ZeroDivisionError."""
    (root / "empty").mkdir()
    (root / "empty.txt").touch()
    keys = {"meta_info_file": "empty.txt"} if by_list else {"dataroot_gt": "empty", "dataroot_lq": "empty"}
    found = texts(check(of_data("train", **keys), is_train=is_train), "error")
    place = "meta_info_file: no image in empty.txt" if by_list else "dataroot_gt: no image in empty"
    assert found == [f"datasets: train: {place}"]


def test_several_gpus_in_one_process_of_basicsr(check, root, gpus, monkeypatch):
    """XPixelGroup/BasicSR#593 and #518, XPixelGroup/HAT#114: training ends half-way, whatever the dataset's length."""
    gpus(2)

    def ends(**context):
        found = check(of_data("train", dataset_enlarge_ratio=2000), train={"total_iter": 10_000}, **context)
        return [text for _, text in found if "training ends" in text]

    found = ends(num_gpu=2, trainer="basicsr")
    monkeypatch.setattr("sys.argv", ["train", "-opt", "options.yml"])
    opt, _ = parse_options(str(root), is_train=True)
    loader, _, _, epochs, _ = create_train_val_dataloader(opt, logging.getLogger())
    end = (epochs + 1) * len(loader)
    assert found == [
        f"num_gpu: 2 without --launcher: BasicSR counts epochs in batches of one GPU: training ends after iteration "
        f"{end} of 10000; start a process per GPU: 'torchrun --nproc_per_node=2 -m contrast_arch.train -opt FILE "
        "--launcher pytorch'; or write num_gpu: 1"
    ]
    assert ends(num_gpu=1, trainer="basicsr") == ends(num_gpu=2, processes=2, trainer="basicsr") == []
    assert ends(num_gpu=2) == []


@pytest.mark.parametrize(
    "network_g, key, value",
    [
        # Written with another scale, and left at the default of the class.
        ({"type": "MSRResNet", "num_feat": 4, "num_block": 1, "upscale": 2}, "upscale", "2"),
        ({"type": "SwinIR", "embed_dim": 12, "upsampler": "pixelshuffledirect"}, "upscale", "2 (default)"),
        ({"type": "RRDBNet", "num_in_ch": 3, "num_out_ch": 3, "scale": 2}, "scale", "2"),
    ],
)
def test_basicsrs_networks_of_another_scale(check, network_g, key, value):
    """Aitical/SCNet#5, XPixelGroup/BasicSR#365, xinntao/Real-ESRGAN#540: the loss fails in the first iteration."""
    found = texts(check(lambda options: options.update(network_g=network_g)), "error")
    assert found == [f"network_g: {key}: {value} differs from scale: 4; give both the same number"]
    assert check(lambda options: options.update(network_g=network_g | {key: 4})) == []


def test_other_networks_may_mean_something_else_by_scale(check, monkeypatch):
    class Other(torch.nn.Module):
        def __init__(self, scale=0.1, upscale=2):
            super().__init__()

    monkeypatch.setitem(ARCH_REGISTRY._obj_map, "Other", Other)
    text = "network_g: upscale: 2 (default) differs from scale: 4; give both the same number"
    assert check(lambda options: options.update(network_g={"type": "Other"})) == [("warning", text)]
    # SwinIR for denoising has no upsampler, and ignores upscale.
    found = check(lambda options: options.update(network_g={"type": "SwinIR"}, scale=1))
    assert ("warning", text.replace("4", "1")) in found


@pytest.mark.parametrize("model_type", ["SRModel", "ContrastModel"])
def test_averaged_weights_that_are_not_tested(check, root, weights, model_type):
    """icandle/MAN#6, Zheng-MJ/SMFANet#12: a test gives less than the validation of the training did."""
    torch.save({"params": weights, "params_ema": weights}, root / "a.pth")
    text = (
        "path: param_key_g: params: checkpoint a.pth has averaged weights too, which its training validated; write "
        "'param_key_g: params_ema' to test them"
    )

    def found(is_train=False, **path):
        path["pretrain_network_g"] = "a.pth"
        return [text for _, text in check(is_train=is_train, model_type=model_type, path=path) if "param_key" in text]

    assert found() == found(param_key_g="params") == [text]
    assert found(param_key_g="params_ema") == found(is_train=True) == []


@pytest.mark.parametrize("model_type", ["SRModel", "ContrastModel"])
def test_auto_resume_without_a_state(check, root, state, model_type):
    """kynthesis/StarSRGAN#7, XPixelGroup/BasicSR#718: training starts again, and the earlier run is moved aside."""
    # The first start of a job that always has --auto_resume.
    assert check(auto_resume=True, model_type=model_type) == []
    (root / "experiments" / "tiny" / "training_states").mkdir(parents=True)
    text = (
        f"--auto_resume: no NUMBER.state in {root}/experiments/tiny/training_states: training starts at iteration 0, "
        f"and BasicSR moves {root}/experiments/tiny aside"
    )
    assert check(auto_resume=True, model_type=model_type) == [("warning", text)]
    assert check(model_type=model_type) == []
    state(2)
    assert check(auto_resume=True, model_type=model_type) == []


@pytest.mark.parametrize("model_type", ["SRModel", "ContrastModel"])
def test_a_state_of_another_run(check, root, state, model_type):
    """neosr-project/neosr#72: the network is looked for in the experiment of the option file's name."""
    state(2)
    path = {"resume_state": "experiments/tiny/training_states/2.state"}
    assert check(model_type=model_type, path=path) == []
    network = f"{root}/experiments/other/models/net_g_2.pth"
    found = check(model_type=model_type, path=path, name="other")
    assert found == [
        (
            "warning",
            f"path: resume_state: {path['resume_state']} does not lie in {root}/experiments/other/training_states: its "
            f"network is read from {network}, as name: other has it",
        ),
        ("error", f"checkpoint {network} does not exist"),
    ]
    assert check(model_type=model_type, path=path | {"ignore_resume_networks": "network_g"}, name="other") == []


@pytest.mark.parametrize("model_type", ["SRModel", "ContrastModel"])
def test_a_run_that_is_at_its_end(check, state, model_type):
    """jingyuanli001/RFR-Inpainting#44: nothing is trained any more."""
    state(4)
    text = "train: total_iter: 4: the state that is resumed is of iteration 4: nothing is trained; raise total_iter"
    assert check(auto_resume=True, model_type=model_type) == [("warning", text)]
    assert check(auto_resume=True, model_type=model_type, train={"total_iter": 5}) == []


@pytest.mark.parametrize("is_train", [True, False])
@pytest.mark.parametrize("strict, written", [(None, "~"), (False, "false")])
def test_weights_that_are_not_in_the_checkpoint(check, root, weights, is_train, strict, written):
    """kkkls/FFTformer#30, xinntao/Real-ESRGAN#233: an empty strict_load_g counts as false."""
    path = {"pretrain_network_g": "a.pth", "strict_load_g": strict}

    def found():
        return [text for _, text in check(is_train=is_train, path=path) if "strict" in text]

    torch.save({"params": weights}, root / "a.pth")
    assert found() == []
    weights |= {"conv_first.bias": torch.ones(1)}
    del weights["conv_first.weight"]
    torch.save({"params": weights}, root / "a.pth")
    assert found() == [
        f"path: strict_load_g: {written}: checkpoint a.pth lacks 2 of the {len(weights) + 1} weights of this "
        "network_g, or has them in other shapes; they stay as they are initialized"
    ]


def test_a_name_with_debug(check, root, monkeypatch):
    """blog.csdn.net/m0_74413554/article/details/148117841, xinntao/Real-ESRGAN#82: such a name is the debug mode."""
    text = (
        "name: deblur_debug: BasicSR takes 'debug' in a name for its debug mode: val_freq and save_checkpoint_freq "
        "become 8, print_freq 1, and TensorBoard and wandb are left out; write another name"
    )
    assert check(name="deblur_debug") == [("warning", text)]
    assert check(name="deblur_debug", debug=True) == check(debug=True) == check(name="deblur") == []
    assert not any("debug" in text for _, text in check(name="deblur_debug", is_train=False))
    check(name="deblur_debug")
    monkeypatch.setattr("sys.argv", ["train", "-opt", "options.yml"])
    opt, _ = parse_options(str(root), is_train=True)
    assert (opt["val"]["val_freq"], opt["logger"]["save_checkpoint_freq"], opt["logger"]["print_freq"]) == (8, 8, 1)


def test_one_folder_under_two_names(check, root):
    """Aitical/SCNet#5: val_2 is called Set14, and has the folders of Set5."""

    def change(options, **keys):
        options["datasets"]["val_2"] = options["datasets"]["val"] | {"name": "Set14"} | keys

    text = "datasets: val_2: name: Set14: its images are those of datasets: val; write the folders of the set itself"
    assert check(change) == [("warning", text)]
    write_pairs(root / "Set14")
    assert check(lambda options: change(options, dataroot_gt="Set14/HR", dataroot_lq="Set14/LR")) == []


@pytest.mark.parametrize("is_train, phases", [(True, ["val"]), (False, ["train", "val"])])
def test_results_of_one_name(check, root, is_train, phases):
    """As XPixelGroup/BasicSR#16, where LMDB keys are names without suffixes: so are those of saved results."""
    for name in ("HR/0", "LR/0x4"):
        Image.open(root / f"{name}.png").save(root / f"{name}.bmp")
    found = texts(check(is_train=is_train, val={"save_img": True}), "error")
    expected = (
        ": dataroot_lq: images of one name (without folder and suffix), whose results val: save_img would write over "
        f"each other; rename them, or write save_img: false\n  {root}/LR/0x4.bmp\n  {root}/LR/0x4.png"
    )
    assert found == [f"datasets: {phase}{expected}" for phase in phases]
    assert texts(check(is_train=is_train), "error") == []


def test_names_that_a_project_registers(check, root, monkeypatch):
    """XPixelGroup/HAT#28 and #87, xiaom233/BSRN#11: BasicSR's own trainer knows no names of a project."""
    (root / "my_project.py").write_text(
        "import torch\nfrom basicsr.utils.registry import ARCH_REGISTRY\n"
        "ARCH_REGISTRY._obj_map['OfMyProject'] = type('OfMyProject', (torch.nn.Module,), {})\n"
    )
    monkeypatch.syspath_prepend(str(root))
    monkeypatch.setattr(ARCH_REGISTRY, "_obj_map", dict(ARCH_REGISTRY._obj_map))

    def change(options):
        options["network_g"] = {"type": "OfMyProject"}

    (found,) = check(change)
    assert found[0] == "error" and found[1].startswith("network_g: type: 'OfMyProject' is not registered; ")
    assert found[1].endswith("; for what a project registers write 'imports: [MODULE]', or --import MODULE")
    assert check(change, imports=["my_project"]) == []


@pytest.mark.parametrize("metric", ["calculate_psnr", "calculate_ssim"])
def test_figures_that_do_not_compare(check, metric):
    """XPixelGroup/BasicSR#634: 30.56 dB on Set5 where the paper has 32.46, and the same on DIV2K, which is of RGB."""

    def of(color=None, **keys):
        def change(options):
            options["val"]["metrics"] = {"a": {"type": metric, "crop_border": 4, **keys}}
            options["datasets"]["val"]["color"] = color

        return [text for _, text in check(change) if "test_y_channel" in text]

    text = f"val: metrics: a: test_y_channel: false: {metric} is of RGB; most published figures are of Y"
    assert of() == of(test_y_channel=False) == [f"{text}: test_y_channel: true"]
    assert of(test_y_channel=True) == of(color="y") == []


IN_DOUBLE_QUOTES = "in double quotes a backslash begins an escape; write / in its place, or single quotes"


@pytest.mark.parametrize(
    "written, expected",
    [
        (r"D:\new\train", "dataroot_gt: 'D:\\new\\train': expected a path (" + IN_DOUBLE_QUOTES + ")"),
        (r"D:\data", "found unknown escape character; " + IN_DOUBLE_QUOTES),
        (r"D:\Users", "did not find expected hexdecimal number; " + IN_DOUBLE_QUOTES),
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


def resumed(path):
    return lambda options, root: options["path"].update(resume_state=path)


def renamed(options, root):
    train = options["datasets"]["train"]
    train |= {"use_flip": train.pop("use_hflip"), "use_shuffle": False}


def without_its_network(options, root):
    (root / "experiments" / "tiny" / "models" / "net_g_2.pth").unlink()
    resumed("experiments/tiny/training_states/2.state")(options, root)


def with_the_list_of_div2k(options, root):
    (root / "list.txt").write_text("0801_s001.png (480,480,3)\n")
    options["datasets"]["train"]["meta_info_file"] = "list.txt"


def larger_than_its_images(options, root):
    options["datasets"]["train"]["gt_size"] = 256


@pytest.mark.parametrize(
    "change, start",
    [
        # XPixelGroup/BasicSR#717: a network in place of a state, and the folder of the states.
        (
            resumed("experiments/tiny/models/net_g_2.pth"),
            "training state experiments/tiny/models/net_g_2.pth is none: ",
        ),
        (
            resumed("experiments/tiny/training_states"),
            "training state experiments/tiny/training_states cannot be read: it",
        ),
        # neosr-project/neosr#103: states without their networks.
        (without_its_network, "checkpoint {root}/experiments/tiny/models/net_g_2.pth does not exist"),
        # XPixelGroup/BasicSR#618: the list of another set.
        (
            with_the_list_of_div2k,
            "datasets: train: dataroot_lq: LQ and GT do not fit\n  {root}/LR/0801_s001x4.png: cannot be read",
        ),
        # XPixelGroup/BasicSR#309: keys of an earlier version.
        (renamed, "datasets: train has no use_hflip; 'use_flip' may be meant for use_hflip"),
        # JingyunLiang/SwinIR#32 (KAIR): patches larger than images.
        (
            larger_than_its_images,
            "datasets: train: dataroot_lq: LQ and GT do not fit\n  {root}/HR/0.png is 96x80, smaller than gt_size",
        ),
    ],
)
def test_what_was_refused_already(check, root, state, change, start):
    state(2)
    with pytest.raises(InputError) as failure:
        check(lambda options: change(options, root))
        check_file("options.yml", RunContext(True))
    assert str(failure.value).startswith(start.format(root=root))


def test_sections_at_the_wrong_depth(check, root):
    """neosr-project/neosr#3: a validation set beside datasets; XPixelGroup/BasicSR#382: a metric beside metrics."""
    check()
    text = (root / "options.yml").read_text()
    (root / "options.yml").write_text(text.replace("  val:\n    name: val", "val:\n    name: val"))
    found = [problem.message for problem in find_problems("options.yml", RunContext(True))]
    assert "'val' stands already in line 21; keep one" in found
    metric = {"niqe": {"type": "calculate_niqe", "crop_border": 0}}
    assert check(val=metric) == [("warning", "val: niqe: no such key; it is ignored")]


@pytest.mark.parametrize("name", ["best", "2 (1)"])
def test_other_files_among_the_states(check, root, state, name):
    """A sibling of kynthesis/StarSRGAN#7: BasicSR's --auto_resume reads each name as a number."""
    state(2)
    folder = root / "experiments" / "tiny" / "training_states"
    (folder / f"{name}.state").touch()
    (found,) = check(auto_resume=True, trainer="basicsr")
    text = "BasicSR's --auto_resume fails at a file that is not named NUMBER.state; move it out of the folder"
    assert found == ("error", f"{folder}/{name}.state: {text}")
    with pytest.raises(ValueError):
        load_resume_state({"auto_resume": True, "name": "tiny", "model_type": "SRModel", "path": {}})
    assert check(auto_resume=True) == check(trainer="basicsr") == []
