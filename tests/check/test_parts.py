"""Optimizer, scheduler, losses and metrics."""

import pytest


def errors(found):
    return [message for severity, message in found if severity == "error"]


def optimizer(**section):
    return lambda options: options["train"].update(optim_g=section)


@pytest.mark.parametrize(
    "section, message",
    [
        ({"type": "Adam"}, "train: optim_g: lr: missing; expected one such as !!float 2e-4"),
        ({"type": "Adam", "lr": -1}, "train: optim_g: lr: -1: expected a number of at least 0"),
        ({"type": "Adam", "lr": 1, "beta": 1}, "train: optim_g: Adam has no argument 'beta'; did you mean betas?"),
        ({"type": "Adam", "lr": 1, "betas": [0.9, 2]}, "train: optim_g: Adam: Invalid beta parameter at index 1: 2"),
        (
            {"type": "AdamW", "lr": 1},
            "train: optim_g: type: AdamW: BasicSR's SRModel takes Adam only; 'model_type: ContrastModel' takes all of "
            "PyTorch's",
        ),
        ({"type": "AdamX", "lr": 1}, "train: optim_g: type: AdamX: BasicSR's SRModel takes Adam only"),
    ],
)
def test_optimizers(check, section, message):
    assert errors(check(optimizer(**section))) == [message]


def test_a_wrong_rate_hides_no_wrong_name(check):
    found = errors(check(optimizer(type="AdamX", lr="2e-4"), model_type="ContrastModel"))
    assert len(found) == 2
    assert found[0].startswith("train: optim_g: type: 'AdamX' is not in torch.optim; did you mean Adam")
    assert found[1] == "train: optim_g: lr: 2e-4 is read as text; write 'lr: !!float 2e-4'"


def test_an_optimizer_that_cannot_make_a_step_here(check):
    (found,) = errors(check(optimizer(type="Adam", lr=1e-3, capturable=True)))
    assert found.startswith("train: optim_g: Adam: ") and "capturable=True" in found


@pytest.mark.parametrize("name", ["AdamW", "SGD", "RAdam", "NAdam", "RMSprop", "Adafactor"])
def test_contrast_model_takes_those_of_pytorch(check, name):
    assert check(optimizer(type=name, lr=1e-3), model_type="ContrastModel") == []


def test_contrast_model_takes_no_others(check):
    def of(name):
        return errors(check(optimizer(type=name, lr=1e-3), model_type="ContrastModel"))

    assert of("LBFGS") == [
        "train: optim_g: type: LBFGS is not supported: it evaluates the loss several times an iteration"
    ]
    assert of("SparseAdam")[0].endswith("it takes sparse gradients, and those of networks are dense")
    assert of("AdmW")[0].startswith("train: optim_g: type: 'AdmW' is not in torch.optim; did you mean AdamW")
    assert of("Optimizer")[0].startswith("train: optim_g: type: 'Optimizer' is not in torch.optim")


@pytest.mark.parametrize(
    "section, message",
    [
        ({"type": "StepLR"}, "train: scheduler: type: 'StepLR' is not in BasicSR; did you mean MultiStepLR"),
        ({"milestones": []}, "train: scheduler: type: missing; expected one such as MultiStepLR"),
        ({"type": "MultiStepLR"}, "train: scheduler: MultiStepRestartLR needs milestones"),
        (
            {"type": "MultiStepLR", "milestones": 3},
            "train: scheduler: milestones: 3: expected a list of iterations, such as [250000, 400000]",
        ),
        (
            {"type": "MultiStepLR", "milestones": [], "gama": 1},
            "train: scheduler: MultiStepRestartLR has no argument 'gama'; did you mean gamma?",
        ),
        (
            {"type": "MultiStepRestartLR", "milestones": [], "restarts": [1, 2], "restart_weights": [1]},
            "train: scheduler: MultiStepRestartLR: restarts and their weights do not match.",
        ),
        (
            {"type": "CosineAnnealingRestartLR", "periods": [0, 9], "restart_weights": [1, 1]},
            "train: scheduler: periods: [0, 9]: expected a list of numbers of iterations, such as [250000, 250000]",
        ),
    ],
)
def test_schedulers(check, section, message):
    (found,) = errors(check(lambda options: options["train"].update(scheduler=section)))
    assert found.startswith(message)


@pytest.mark.parametrize(
    "key, section, message",
    [
        ("pixel_opt", {"type": "MSE"}, "train: pixel_opt: type: 'MSE' is not registered; "),
        ("pixel_opt", {"loss_weight": 1}, "train: pixel_opt: type: missing; expected one such as MSELoss"),
        (
            "pixel_opt",
            {"type": "L1Loss", "weight": 1},
            "train: pixel_opt: L1Loss has no argument 'weight'; did you mean loss_weight?",
        ),
        (
            "pixel_opt",
            {"type": "L1Loss", "reduction": "men"},
            "train: pixel_opt: L1Loss: Unsupported reduction mode: men",
        ),
        (
            "pixel_opt",
            {"type": "L1Loss", "reduction": "none"},
            "train: pixel_opt: L1Loss: it gives more than one number; write reduction: mean, or sum",
        ),
        ("perceptual_opt", {"type": "L1Loss"}, "train: perceptual_opt: L1Loss: BasicSR expects two losses,"),
        (
            "perceptual_opt",
            {"type": "PerceptualLoss", "layer_weights": {"conv5_5": 1}},
            "train: perceptual_opt: PerceptualLoss: layer_weights: 'conv5_5' is no layer of vgg19; did you",
        ),
        (
            "perceptual_opt",
            {"type": "PerceptualLoss", "layer_weights": {"conv5_4": 1}, "criterion": "l2"},
            "train: perceptual_opt: PerceptualLoss: criterion: l2: expected l1 or fro",
        ),
    ],
)
def test_losses(check, key, section, message):
    (found,) = errors(check(lambda options: options["train"].update({key: section})))
    assert found.startswith(message)


def test_perceptual_loss_is_not_downloaded(check):
    section = {"type": "PerceptualLoss", "layer_weights": {"conv5_4": 1.0}, "perceptual_weight": 0.1}
    assert check(lambda options: options["train"].update(perceptual_opt=section)) == []


@pytest.mark.parametrize(
    "section, message",
    [
        (
            {"type": "calculate_pnsr"},
            "val: metrics: a: type: 'calculate_pnsr' is not registered; did you mean calculate_psnr",
        ),
        ({"type": "calculate_psnr"}, "val: metrics: a: calculate_psnr needs crop_border"),
        (
            {"type": "calculate_psnr", "crop_border": 4, "test_y": True},
            "val: metrics: a: calculate_psnr has no argument 'test_y'; did you mean test_y_channel?",
        ),
        (
            {"type": "calculate_psnr", "crop_border": 4.5},
            "val: metrics: a: crop_border: 4.5: expected a whole number of at least 0",
        ),
        (
            {"type": "calculate_ssim", "crop_border": 4, "input_order": "WHC"},
            "val: metrics: a: calculate_ssim: Wrong input_order WHC",
        ),
        ({"type": "calculate_psnr_pt", "crop_border": 4}, "val: metrics: a: calculate_psnr_pt: "),
        (
            {"type": "calculate_psnr", "crop_border": 4, "better": "up"},
            "val: metrics: a: better: 'up': expected higher or",
        ),
    ],
)
def test_metrics(check, section, message):
    (found,) = errors(check(lambda options: options["val"]["metrics"].update(a=section)))
    assert found.startswith(message)


def test_metrics_need_gt(check, root):
    def lq_only(options):
        options["datasets"] = {
            "test": {"name": "a", "type": "SingleImageDataset", "dataroot_lq": "LR", "io_backend": {"type": "disk"}}
        }

    found = check(lq_only, is_train=False)
    text = "calculate_psnr needs GT images, and datasets: test (SingleImageDataset) has none; write 'metrics: ~'"
    assert ("error", f"val: metrics: psnr: {text}") in found
    (found,) = check(lambda options: (lq_only(options), options["val"].pop("metrics")), is_train=False)
    assert found == ("warning", "path: pretrain_network_g: missing: random weights are tested")
