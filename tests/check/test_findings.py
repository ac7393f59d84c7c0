"""Findings about an option file by itself, a case a line: what is changed, and what ``check`` says of it."""

import pytest

from contrast_arch.check import RunContext, check_file, find_problems
from contrast_arch.errors import InputError
from tests.check.conftest import ABSENT, alike

CONTRAST_MODEL = {"model_type": "ContrastModel"}
ADAM = {"type": "Adam", "lr": 1e-3}
COSINE = {"type": "CosineAnnealingRestartLR", "restart_weights": [1], "eta_min": 0}
WHOLE = "expected a whole number of at least 1"
SHOWN = "the option files of this package show what belongs there"
OF_SRMODEL = "SRModel takes Adam only; ContrastModel takes others"
ITERATIONS = "expected a list of iterations, such as [250000, 400000]"


def one_channel(in_chans, color, phases=("train", "val")):
    return {"network_g.in_chans": in_chans, "network_g.num_out_ch": 1} | {f"datasets.{p}.color": color for p in phases}


ERRORS = [
    ({"model_type": "SRGANModel"}, "model_type: SRGANModel: has a discriminator; expected a section network_d"),
    # Values that cannot be used. BasicSR divides by the frequencies.
    ({"val.val_freq": 0}, f"val: val_freq: 0: {WHOLE}"),
    ({"logger.print_freq": 0}, f"logger: print_freq: 0: {WHOLE}"),
    ({"logger.save_checkpoint_freq": 0}, f"logger: save_checkpoint_freq: 0: {WHOLE}"),
    ({"datasets.train.batch_size_per_gpu": 0}, f"datasets: train: batch_size_per_gpu: 0: {WHOLE}"),
    # It crops images at places that are no integers.
    ({"scale": 4.0}, f"scale: 4.0: {WHOLE}; write 'scale: 4'"),
    ({"scale": 4.5}, f"scale: 4.5: {WHOLE}"),
    ({"datasets.train.gt_size": 32.0}, f"datasets: train: gt_size: 32.0: {WHOLE}; write 'gt_size: 32'"),
    # YAML reads them as text.
    ({"train.total_iter": "1e5"}, "train: total_iter: 1e5 is read as text; write 'total_iter: !!float 1e5'"),
    ({"train.optim_g.lr": "2e-4"}, "train: optim_g: lr: 2e-4 is read as text; write 'lr: !!float 2e-4'"),
    ({"logger.print_freq": "9"}, "logger: print_freq: 9 is read as text; write 'print_freq: 9', without quotes"),
    ({"network_g.mlp_ratio": "2e0"}, "network_g: mlp_ratio: 2e0 is read as text; write 'mlp_ratio: !!float 2e0'"),
    (
        {"train.optim_g.betas": [0.9, "99e-2"]},
        "train: optim_g: betas: [0.9, '99e-2'] is read as text; write 'betas: [0.9, !!float 99e-2]'",
    ),
    ({"manual_seed": -1}, "manual_seed: -1: expected a whole number from 0 to 4294901760, or ~"),
    ({"num_gpu": 0.0}, "num_gpu: 0.0: expected auto, or the number of GPUs, 0 for none; write 'num_gpu: 0'"),
    ({"num_gpu": -1}, "num_gpu: -1: expected auto, or the number of GPUs, 0 for none"),
    *[({"num_gpu": v}, f"num_gpu: {v}: expected auto, or the number of GPUs, 0 for none...") for v in ({"a": 1}, {})],
    *[({"name": name}, f"name: {name!r}: expected text that can name a folder...") for name in (5, "a/b", "..")],
    ({"train.warmup_iter": float("nan")}, "train: warmup_iter: nan: expected a whole number of at least -1"),
    ({"train.ema_decay": 1.5}, "train: ema_decay: 1.5: expected a number of at least 0 and at most 1"),
    ({"train.total_iter": 10**400}, "train: total_iter: 1000..."),
    ({"val.save_img": "yes please"}, "val: save_img: 'yes please': expected true or false, or ~"),
    ({"logger.wandb": "a"}, "logger: wandb: 'a': expected keys of its own, indented below it"),
    ({"path.strict_load_g": 1}, "path: strict_load_g: 1: expected true or false, or ~"),
    ({("logger", 1): 2}, "logger: 1: a key that is no text, which BasicSR cannot print; quote it"),
    # Keys that are missing, unknown, or elsewhere.
    ({"logger": ABSENT}, f"options.yml has no logger; {SHOWN}"),
    ({"path": ABSENT}, f"options.yml has no path; {SHOWN}"),
    ({"logger.print_freq": ABSENT}, f"logger has no print_freq; {SHOWN}"),
    ({"val.sufix": None}, "val: sufix: no such key; did you mean suffix?"),
    ({"train.acumulate": 2} | CONTRAST_MODEL, "train: acumulate: no such key; did you mean accumulate?"),
    ({"path.pretrain_netwrk_g": None}, "path: pretrain_netwrk_g: no such key; did you mean pretrain_network_g?"),
    ({"path.rot": "here"}, "path: rot: no such key"),
    # Optimizer and scheduler.
    ({"train.optim_g": {"type": "Adam"}}, "train: optim_g: lr: missing; expected one such as !!float 2e-4"),
    ({"train.optim_g.lr": -1}, "train: optim_g: lr: -1: expected a number of at least 0"),
    ({"train.optim_g.beta": 1}, "train: optim_g: Adam has no argument 'beta'; did you mean betas?"),
    ({"train.optim_g.betas": [0.9, 2]}, "train: optim_g: Adam: Invalid beta parameter at index 1: 2"),
    ({"train.optim_g.type": "AdamW"}, f"train: optim_g: type: AdamW: {OF_SRMODEL}"),
    *[
        (CONTRAST_MODEL | {"train.optim_g.type": name}, f"train: optim_g: type: {text}...")
        for name, text in {
            "LBFGS": "'LBFGS' is not supported; supported: ASGD, Adadelta",
            "AdmW": "'AdmW' is not supported; did you mean AdamW",
            "Optimizer": "'Optimizer' is not supported",
        }.items()
    ],
    *[
        ({"train.scheduler": section}, f"train: scheduler: {text}...")
        for section, text in [
            ({"type": "StepLR"}, "type: 'StepLR' is not in BasicSR; did you mean MultiStepLR"),
            ({"milestones": []}, "type: missing; expected one such as MultiStepLR"),
            ({"type": "MultiStepLR"}, "MultiStepRestartLR needs milestones"),
            ({"type": "MultiStepLR", "milestones": 3}, f"milestones: 3: {ITERATIONS}"),
            (
                {"type": "MultiStepLR", "milestones": [], "gama": 1},
                "MultiStepRestartLR has no argument 'gama'; did you mean gamma?",
            ),
            (
                {"type": "MultiStepRestartLR", "milestones": [], "restarts": [1, 2], "restart_weights": [1]},
                "MultiStepRestartLR: restarts and their weights do not match.",
            ),
            (COSINE | {"periods": [0, 9]}, "periods: [0, 9]: expected a list of numbers of iterations, such as"),
            (COSINE | {"periods": [2]}, "periods: [2]: BasicSR fails at their end; expected the sum total_iter: 4"),
        ]
    ],
    # Losses.
    ({"train.pixel_opt": ABSENT}, "train: pixel_opt: no loss to train with; expected pixel_opt or perceptual_opt"),
    *[
        ({f"train.{key}": section}, f"train: {key}: {text}...")
        for key, section, text in [
            ("pixel_opt", {"type": "MSE"}, "type: 'MSE' is not registered; "),
            ("pixel_opt", {"loss_weight": 1}, "type: missing; expected one such as MSELoss"),
            ("pixel_opt", {"type": "L1Loss", "weight": 1}, "L1Loss has no argument 'weight'; did you mean loss_weight"),
            ("pixel_opt", {"type": "L1Loss", "reduction": "men"}, "L1Loss: Unsupported reduction mode: men"),
            ("pixel_opt", {"type": "L1Loss", "reduction": "none"}, "L1Loss: grad can be implicitly created only for s"),
            ("perceptual_opt", {"type": "PerceptualLoss"}, "PerceptualLoss needs layer_weights"),
        ]
    ],
    # Metrics.
    *[
        ({"val.metrics.a": section}, f"val: metrics: a: {text}...")
        for section, text in [
            ({"type": "calculate_pnsr"}, "type: 'calculate_pnsr' is not registered; did you mean calculate_psnr"),
            ({"type": "calculate_psnr"}, "calculate_psnr needs crop_border"),
            (
                {"type": "calculate_psnr", "crop_border": 4, "test_y": True},
                "calculate_psnr has no argument 'test_y'; did",
            ),
            ({"type": "calculate_psnr", "crop_border": 4.5}, "crop_border: 4.5: expected a whole number of at least 0"),
            (
                {"type": "calculate_ssim", "crop_border": 4, "input_order": "WHC"},
                "calculate_ssim: Wrong input_order WHC",
            ),
            ({"type": "calculate_psnr_pt", "crop_border": 4}, "calculate_psnr_pt: "),
            ({"type": "calculate_psnr", "crop_border": 4, "better": "up"}, "better: 'up': expected higher or"),
        ]
    ],
    # Datasets.
    *[
        ({f"datasets.{phase}.{key}": value for key, value in keys.items()}, f"datasets: {phase}: {text}...")
        for phase, keys, text in [
            ("train", {"io_backend": {"type": "dsk"}}, "io_backend: type: 'dsk': expected disk or lmdb"),
            ("train", {"meta_info_file": "LR"}, "meta_info_file: LR: expected a list of images"),
            ("val", {"dataroot_lq": "options.yml"}, "dataroot_lq: options.yml: expected a folder"),
            (
                "val",
                {"mean": [0.5] * 3},
                "mean: [0.5, 0.5, 0.5]: expected 3 numbers, and as many in std",
            ),
            ("val", {"mean": [0.5], "std": [1.0] * 3}, "mean: [0.5]: expected 3 numbers, and as many in std"),
            ("train", {"persistent_workers": True}, "persistent_workers: true: there are no workers"),
            ("val", {"persistent_workers": True}, "persistent_workers: true: there are no workers"),
            ("train", {"prefetch_mode": "cuda", "pin_memory": True}, "prefetch_mode: cuda needs a GPU and pin_memory"),
            ("train", {"num_worker_per_gpu": 129}, "num_worker_per_gpu: 129: expected a whole number from 0 to 128"),
            ("train", {"prefetch_mode": "gpu"}, "prefetch_mode: 'gpu': expected cpu or cuda, or ~"),
            ("val", {"type": "REDSDataset"}, "type: SRModel cannot use REDSDataset; expected Paired"),
            ("train", {"type": "SingleImageDataset"}, "type: training needs GT images, and Single"),
            ("val", {"filename_tmpl": "x4"}, "filename_tmpl: 'x4': expected the name of an LQ image, with {}"),
            ("train", {"gt_size": 30}, "gt_size: 30 is not a multiple of scale: 4"),
            # The last batch of an epoch is left out, and it is the only one.
            (
                "train",
                {"batch_size_per_gpu": 8, "dataset_enlarge_ratio": 3},
                "batch_size_per_gpu: 2 images are less than a batch of 8; raise dataset_enlarge_ratio from 3 to 4",
            ),
        ]
    ],
    ({"datasets.val.color": "y"}, "network_g: in_chans: 3, but images of datasets: val have 1 (with color: y)"),
    # Logs and tiles.
    ({"logger.wandb": {"project": "p"}}, "logger: wandb: project: needs use_tb_logger: true"),
    (
        CONTRAST_MODEL | {"val.tile": {"size": 16, "overlap": 12}},
        "val: tile: tile overlap=12: expected a multiple of window_size=4 from 0 to 8...",
    ),
    (
        CONTRAST_MODEL | {"val.tile": {"size": 18, "overlap": 4}},
        "val: tile: tile size=18: expected a multiple of window_size=4, such as 16",
    ),
    (
        CONTRAST_MODEL | {"val.tile": {"overlap": 4}},
        "val: tile: size: None: expected a whole number of LQ pixels, a multiple of window_size",
    ),
]


@pytest.mark.parametrize("edits, message", ERRORS, ids=[message[:50] for _, message in ERRORS])
def test_one_error(check, edits, message):
    found = check(edits, only=("error",))
    assert alike(found[:1], [f"error: {message}"]), found
    # Weights & Biases and its switch may both be missing.
    assert len(found) == 1 or "wandb" in message, found


WARNINGS = [
    ({"train.exta": 1}, "train: exta: no such key; it is ignored"),
    *[
        ({key: ABSENT}, "val: nothing is validated without both a section 'val' and a...")
        for key in ("val", "datasets.val")
    ],
    (
        {"datasets.train.gt_size": 40},
        "datasets: train: gt_size: 40: every patch is padded, since 10 is no multiple of window_size 4",
    ),
    (
        {"train.scheduler": COSINE | {"periods": [9]}},
        "train: scheduler: periods: [9]: eta_min is not reached in total_iter: 4",
    ),
    (
        {"train.scheduler.milestones": [3, 4, 9]},
        "train: scheduler: milestones: [4, 9] are not reached in total_iter: 4",
    ),
    ({"train.warmup_iter": 4}, "train: warmup_iter: 4: the rate of optim_g is not reached in total_iter: 4"),
    (
        {"val.metrics.psnr.test_y_channel": False},
        "val: metrics: psnr: test_y_channel: false: most published figures are of Y...",
    ),
]
PASSES = [
    {},
    {"path": {}},
    {"train.total_iter": 4.0, "val.val_freq": 2.0, "logger.save_checkpoint_freq": 4.0},
    {"train.warmup_iter": ABSENT, "manual_seed": None, "val.suffix": ABSENT},
    {"train.scheduler": COSINE | {"periods": [4]}},
    {"train.scheduler": COSINE | {"periods": [2, 1], "restart_weights": [1, 1]}},  # the rate of 4 is that at 3
    *[CONTRAST_MODEL | {"train.optim_g.type": name} for name in ("AdamW", "SGD", "RAdam", "RMSprop", "Adafactor")],
    CONTRAST_MODEL | {"val.tile": {"size": 16, "overlap": 8}},
    # PerceptualLoss is not downloaded.
    {"train.perceptual_opt": {"type": "PerceptualLoss", "layer_weights": {"conv5_4": 1.0}, "perceptual_weight": 0.1}},
    *[one_channel(1, "y") | more for more in ({}, CONTRAST_MODEL)],
    # A model of a project may have keys of its own.
    {
        "model_type": "SRGANModel",
        "network_d": {"type": "UNetDiscriminatorSN"},
        "train.optim_d": ADAM,
        "train.net_d_iters": 1,
    },
]


@pytest.mark.parametrize("edits, message", WARNINGS + [(edits, None) for edits in PASSES])
def test_one_warning_or_nothing(check, edits, message):
    assert alike(check(edits), [f"warning: {message}"] if message else [])


def test_several_at_once(check):
    """A wrong rate hides no wrong name, each key is named, and a missing one with what may be meant."""
    found = check({"train.total_iter": ABSENT, "train.total_itr": 4})
    missing = "error: train has no total_iter; 'total_itr' may be meant for total_iter"
    assert found == [missing, "error: train: total_itr: no such key; did you mean total_iter?"]
    found = check(CONTRAST_MODEL | {"train.optim_g": {"type": "AdamX", "lr": "2e-4"}}, only=("error",))
    assert alike(
        found,
        [
            "error: train: optim_g: type: 'AdamX' is not supported; did you mean Adam...",
            "error: train: optim_g: lr: 2e-4 is read as text; write 'lr: !!float 2e-4'",
        ],
    )


@pytest.mark.parametrize(
    "edits, is_train, fatal",
    [
        ({"val.sufix": None}, True, False),
        ({"val.sufix": None} | CONTRAST_MODEL, True, True),
        ({"val.val_freq": 0}, False, True),
        ({"path": {"pretrain_network_G": "net.pth"}}, True, True),
        ({"path": {"pretrain_network_G": "net.pth"}}, False, True),
    ],
)
def test_errors_that_keep_a_run_from_starting(check, root, edits, is_train, fatal):
    """A misspelt key of SRModel is an error of the file all the same; an earlier experiment stays where it is."""
    (root / "experiments" / "tiny").mkdir(parents=True)
    assert check(edits, is_train, only=("error",))
    if fatal:
        with pytest.raises(InputError):
            check_file("options.yml", RunContext(is_train))
    else:
        check_file("options.yml", RunContext(is_train))
    assert [path.name for path in (root / "experiments").iterdir()] == ["tiny"]


def test_changes_on_the_command_line(check):
    check()
    with pytest.raises(InputError, match="path: pretrain_network_G: no such key; did you mean pretrain_network_g"):
        check_file("options.yml", RunContext(True, force_yml=["path:pretrain_network_G=net.pth"]))
    (found,) = check(force_yml=["trian:total_iter=1"])
    assert found == "error: --force_yml trian:total_iter=1: the option file has no section 'trian' there"


def test_lines(check, root):
    check({"val.sufix": None, "train.exta": 1, "path.rot": "here"})
    lines = (root / "options.yml").read_text().splitlines()
    problems = [p for p in find_problems("options.yml", RunContext(True)) if "no such key" in p.message]
    assert [lines[problem.line - 1] for problem in problems] == ["  rot: here", "  exta: 1", "  sufix: null"]


def test_without_a_section_val(check):
    """Training does not need it, a test does."""
    assert check({"val": ABSENT}, is_train=False, only=("error",)) == [f"error: options.yml has no val; {SHOWN}"]
    (found,) = check({"val": None}, is_train=False, only=("error",))
    assert found == "error: val: None: expected keys of its own, indented below it"


def test_results_without_a_suffix(check):
    """SRModel asks for it, ContrastModel does not."""
    edits = {"val.suffix": ABSENT, "val.save_img": True}
    text = "error: val: no suffix, which save_img: true needs; write 'suffix: ~' for none"
    assert check(edits, is_train=False, only=("error",)) == [text]
    assert check(edits | CONTRAST_MODEL, is_train=False, only=("error",)) == []


def test_two_sets_of_one_name(check, root):
    set_2 = {"name": "val", "type": "PairedImageDataset", "dataroot_gt": "HR", "dataroot_lq": "LR"}
    found = check({"datasets.val_2": set_2 | {"filename_tmpl": "{}x4", "io_backend": {"type": "disk"}}})
    text = "two sets share it, and their results; rename one"
    assert found == [f"warning: datasets: {phase}: name: val: {text}" for phase in ("val", "val_2")]


@pytest.mark.parametrize("in_chans, color", [(1, "y"), (3, "y"), (1, None), (3, None)])
def test_one_channel_without_gt(check, in_chans, color):
    """And metrics need GT."""
    lq = {"test": {"name": "a", "type": "SingleImageDataset", "dataroot_lq": "LR", "io_backend": {"type": "disk"}}}
    edits = {"datasets": lq} | one_channel(in_chans, color, ["test"]) | {"val.metrics": None}
    channels, how = (1, "with") if color else (3, "without")
    text = f"error: network_g: in_chans: {in_chans}, but images of datasets: test have {channels} ({how} color: y)"
    assert check(edits, is_train=False, only=("error",)) == ([] if in_chans == channels else [text])
    text = "datasets: test has no GT images to compare with; write 'metrics: ~'"
    assert f"error: val: metrics: psnr: {text}" in check({"datasets": lq}, is_train=False)


def test_prefetching_on_a_gpu(check, gpus):
    gpus(1)
    found = check({"datasets.train.prefetch_mode": "cuda", "num_gpu": 1}, only=("error",))
    text = "prefetch_mode: cuda needs a GPU and pin_memory: true; write cpu, or ~"
    assert found == [f"error: datasets: train: {text}"]
    assert check({"datasets.train.prefetch_mode": "cuda", "datasets.train.pin_memory": True, "num_gpu": 1}) == []


@pytest.mark.parametrize("is_train, text", [(True, "trains with 'train', "), (False, "tests on 'test', 'test_...', ")])
def test_names_of_datasets(check, is_train, text):
    edits = {"datasets.valid": {"name": "a", "type": "PairedImageDataset"}, "datasets.val": ABSENT}
    expected = f"error: datasets: valid: BasicSR {text}'val' and 'val_...'; rename it"
    assert expected in check(edits, is_train)
