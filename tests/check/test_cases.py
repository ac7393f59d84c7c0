"""Option files of users' reports: ``check`` refuses those with which BasicSR fails, and takes those that run."""

import pytest
import yaml
from basicsr.utils.options import parse_options

from contrast_arch.check import RunContext, check_file
from contrast_arch.errors import InputError
from tests.conftest import tiny_options, write_pairs
from tests.models.test_schedules import ContrastModel, SRModel, cosine, model_of, multi_step, rates


def of_data(phase, **keys):
    return lambda options: options["datasets"][phase].update(keys)


def without(section):
    return lambda options: options.pop(section)


WHOLE = "expected a whole number of at least 1"


@pytest.mark.parametrize(
    "change, message",
    [
        # BasicSR divides by each of them.
        (lambda options: options["val"].update(val_freq=0), f"val: val_freq: 0: {WHOLE}"),
        (lambda options: options["logger"].update(print_freq=0), f"logger: print_freq: 0: {WHOLE}"),
        (lambda options: options["logger"].update(save_checkpoint_freq=0), f"logger: save_checkpoint_freq: 0: {WHOLE}"),
        (of_data("train", batch_size_per_gpu=0), f"datasets: train: batch_size_per_gpu: 0: {WHOLE}"),
        # It crops images at places that are no integers.
        (lambda options: options.update(scale=4.0), f"scale: 4.0: {WHOLE}; write 'scale: 4'"),
        (of_data("train", gt_size=32.0), f"datasets: train: gt_size: 32.0: {WHOLE}; write 'gt_size: 32'"),
        # YAML reads both as text.
        (
            lambda options: options["train"]["optim_g"].update(lr="2e-4"),
            "train: optim_g: lr: 2e-4 is read as text; write 'lr: !!float 2e-4'",
        ),
        (
            lambda options: options["train"].update(total_iter="1e5"),
            "train: total_iter: 1e5 is read as text; write 'total_iter: !!float 1e5'",
        ),
        (without("logger"), "options.yml has no logger; the option files of this package show what belongs there"),
        (without("path"), "options.yml has no path; the option files of this package show what belongs there"),
    ],
)
def test_with_which_basicsr_fails(check, change, message):
    assert [text for severity, text in check(change) if severity == "error"] == [message]


@pytest.mark.parametrize(
    "change",
    [
        without("val"),
        lambda options: options["path"].clear(),
        lambda options: options["train"].update(total_iter=4.0),
        lambda options: options["train"].pop("warmup_iter"),
        lambda options: options.update(manual_seed=None),
        lambda options: options["val"].pop("suffix"),
    ],
)
def test_with_which_basicsr_trains(check, change):
    assert "error" not in dict(check(change))


@pytest.mark.parametrize(
    "is_train, model_type, change, fatal",
    [
        (True, "SRModel", lambda options: options["val"].update(val_freq=0), True),
        (False, "SRModel", lambda options: options["val"].update(val_freq=0), False),
        (False, "SRModel", lambda options: options["logger"].update(print_freq=0), False),
        (False, "SRModel", lambda options: options.update(train=5), False),
        (False, "SRModel", lambda options: options["train"].update({1: 2}), True),
        (False, "ContrastModel", lambda options: options["train"].update(amp="fp8"), True),
        (True, "SRModel", of_data("val", batch_size_per_gpu=0), False),
        (False, "SRModel", of_data("val", gt_size=0), False),
        (False, "SRModel", of_data("train", gt_size=0), True),
        (True, "SRModel", of_data("val", num_prefetch_queue=0), True),
    ],
)
def test_what_basicsr_does_not_read_keeps_no_run_from_starting(check, is_train, model_type, change, fatal):
    """It is an error of the file all the same."""
    assert "error" in dict(check(change, is_train=is_train, model_type=model_type))
    if fatal:
        with pytest.raises(InputError):
            check_file("options.yml", RunContext(is_train))
    else:
        check_file("options.yml", RunContext(is_train))


def test_without_a_section_val(check):
    """Training does not need it, a test does."""
    (error,) = (text for severity, text in check(val=None, is_train=False) if severity == "error")
    assert error == "options.yml has no val; the option files of this package show what belongs there"
    assert check(val=None) == [("warning", "datasets: val: without a section 'val' nothing is validated")]


@pytest.mark.parametrize(
    "name, debug, fails", [("tiny", False, False), ("tiny", True, True), ("my_debug", False, True)]
)
def test_an_empty_section_val(check, root, monkeypatch, name, debug, fails):
    """BasicSR looks for "debug" anywhere in the name."""

    def change(options):
        options |= {"name": name, "val": None}

    errors = [text for severity, text in check(change, debug=debug) if severity == "error"]
    text = "val: ~: with 'debug' in the name BasicSR writes val_freq into the section; leave it out, or give it keys"
    assert errors == ([text] if fails else [])
    monkeypatch.setattr("sys.argv", ["train", "-opt", "options.yml", *(["--debug"] if debug else [])])
    if fails:
        with pytest.raises(TypeError):
            parse_options(str(root), is_train=True)
    else:
        parse_options(str(root), is_train=True)


def test_results_without_a_suffix(check):
    """SRModel asks for it, ContrastModel does not."""

    def change(options):
        del options["val"]["suffix"]
        options["val"]["save_img"] = True

    text = "val: no suffix, which save_img: true needs; write 'suffix: ~' for none"
    assert ("error", text) in check(change, is_train=False)
    assert "error" not in dict(check(change, is_train=False, model_type="ContrastModel"))


def test_two_sets_of_one_name(check):
    def change(options):
        options["datasets"]["val_2"] = dict(options["datasets"]["val"])

    text = (
        "name: val: is that of another too: they share their best metrics, their curves and the folder of their "
        "results; give each a name of its own"
    )
    assert check(change) == [("warning", f"datasets: {phase}: {text}") for phase in ("val", "val_2")]


def test_an_option_file_in_the_folder_of_its_run(root):
    """Its training is in tests/test_pipeline.py."""
    folder = root / "experiments" / "tiny"
    folder.mkdir(parents=True)
    (folder / "options.yml").write_text(yaml.safe_dump(tiny_options(root)))
    for auto_resume in (False, True):
        check_file("experiments/tiny/options.yml", RunContext(True, auto_resume=auto_resume))


@pytest.mark.parametrize("is_train, folder", [(True, "experiments/tiny"), (False, "results/tiny")])
def test_data_in_the_folder_of_an_earlier_run(check, root, is_train, folder):
    """BasicSR moves the folder aside before it makes the datasets."""
    write_pairs(root / folder)
    data = of_data("val", dataroot_lq=f"{folder}/LR")
    (text,) = (text for severity, text in check(data, is_train=is_train) if severity == "error")
    where = f"datasets: val: dataroot_lq: {folder}/LR lies in {root}/{folder}"
    assert text.startswith(f"{where}, which BasicSR moves aside before it reads there; write another name")
    assert "error" not in dict(check(data, is_train=is_train, name="other"))


@pytest.mark.parametrize(
    "scheduler, warmup, found, expected, until",
    [
        (multi_step(), 2, "0.0005", "0.001", "to the end"),
        (multi_step(1), 4, "0.00075", "0.0005", "to the end"),
        (multi_step(5, restarts=[0, 4], restart_weights=[1, 1]), 3, "0.000666667", "0.001", "until its restart at 4"),
        (multi_step(restarts=[0, 2], restart_weights=[1, 1]), 3, None, "0.001", None),
        (multi_step(), 1, None, "0.001", None),
        (cosine(8), 2, None, None, None),
    ],
)
def test_the_rate_after_a_warm_up(check, scheduler, warmup, found, expected, until):
    """As BasicSR's model and ContrastModel set it."""
    train = {"scheduler": scheduler, "warmup_iter": warmup, "total_iter": 8, "optim_g": {"type": "Adam", "lr": 1e-3}}
    own, basicsrs = (f"{rates(model_of(cls, train), 1, warmup)[-1]:.6g}" for cls in (ContrastModel, SRModel))
    assert basicsrs == (found or own) and own == (expected or own)
    assert check(train=train, model_type="ContrastModel") == []
    messages = [text for _, text in check(train=train)]
    if found is None:
        assert messages == []
        return
    start = f"train: warmup_iter: {warmup}: after the warm-up SRModel trains with a rate of {found}, not {expected}, "
    assert len(messages) == 1 and messages[0].startswith(f"{start}{until}: BasicSR's schedule goes on from the last")
    assert f"'model_type: ContrastModel' takes {expected}; or write warmup_iter: -1" in messages[0]


def one_channel(options):
    options["network_g"] |= {"in_chans": 1, "num_out_ch": 1}
    for dataset in options["datasets"].values():
        dataset["color"] = "y"


@pytest.mark.parametrize("model_type", ["SRModel", "ContrastModel"])
def test_one_channel(check, model_type):
    """Its training and validation are in tests/models/test_steps.py."""
    assert check(one_channel, model_type=model_type) == []


@pytest.mark.parametrize("color, channels", [("y", 1), (None, 3)])
def test_one_channel_without_gt(check, root, color, channels):
    def change(options, in_chans):
        one_channel(options)
        options["network_g"]["in_chans"] = in_chans
        options["datasets"] = {"test": {"name": "a", "type": "SingleImageDataset", "dataroot_lq": str(root / "LR")}}
        options["datasets"]["test"] |= {"io_backend": {"type": "disk"}, "color": color}
        options["val"]["metrics"] = None

    start = "datasets: test: color: y: BasicSR's SingleImageDataset exchanges red and blue when it computes Y"
    for in_chans in (1, 3):
        found = check(lambda options, in_chans=in_chans: change(options, in_chans), is_train=False)
        errors = [text for severity, text in found if severity == "error"]
        how = "with color: y" if color else "without color: y"
        text = f"network_g: in_chans: {in_chans}, but images of datasets: test have {channels} ({how})"
        assert errors == ([] if in_chans == channels else [text])
        assert any(text.startswith(start) for _, text in found) == (color == "y")
