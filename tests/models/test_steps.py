"""One iteration: the losses, the gradients, and what is done with them."""

import math
from collections import Counter
from copy import deepcopy
from pathlib import Path

import cv2
import pytest
import torch
from basicsr.data import build_dataloader, build_dataset
from basicsr.utils.registry import ARCH_REGISTRY
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import default_collate

from contrast_arch.errors import InputError, TrainingStopped
from contrast_arch.models import checkpoints
from contrast_arch.models.optimizers import optimizer_names
from tests.conftest import NETWORKS, relative_error, write_pairs
from tests.known_failures import works_unless_known
from tests.models.building import batch, build, equal, options, train, weights

SGD = {"optim_g": {"type": "SGD", "lr": 0.1}}
PERCEPTUAL = {"type": "TinyPerceptualLoss"}


def gradients(model):
    return {name: parameter.grad.clone() for name, parameter in model.net_g.named_parameters()}


def test_without_keys_it_trains_as_srmodel_does(tmp_path):
    """Bit for bit: weights, averaged weights and logs of iterations over a milestone. Rates after a warm-up are in
    test_schedules.py."""
    changes = {"train": {"ema_decay": 0.9, "perceptual_opt": PERCEPTUAL}}
    ours, basicsr = (build(options(tmp_path, name, **changes)) for name in ("ContrastModel", "SRModel"))
    assert train(ours, 1, 5) == train(basicsr, 1, 5)
    assert equal(weights(ours.net_g), weights(basicsr.net_g))
    assert equal(weights(ours.net_g_ema), weights(basicsr.net_g_ema))
    assert not equal(weights(ours.net_g), weights(ours.net_g_ema))
    assert ours.get_current_learning_rate() == basicsr.get_current_learning_rate() == [5e-4]


@pytest.mark.parametrize("model_type", ["SRModel", "ContrastModel"])
def test_one_channel(tmp_path, model_type):
    """With ``color: y``: an iteration, a validation with metrics, and a folder without GT."""
    write_pairs(tmp_path, lq=(13, 11))
    opt = options(tmp_path, model_type, network_g={"in_chans": 1, "num_out_ch": 1})
    training, paired = ({**dataset, "color": "y"} for dataset in deepcopy(opt["datasets"]).values())
    single = {key: paired[key] for key in ("dataroot_lq", "io_backend", "color", "phase", "scale")}
    single = deepcopy(single) | {"name": "single", "type": "SingleImageDataset"}
    model, dataset = build(opt), build_dataset(training)
    images = default_collate([dataset[0], dataset[1]])
    assert images["lq"].shape == (2, 1, 8, 8) and images["gt"].shape == (2, 1, 32, 32)
    assert 0 < train(model, 1, 1, batches=lambda number: images)[0]["l_pix"] < 1
    model.validation(build_dataloader(build_dataset(paired), paired), 1, None)
    assert 0 < model.metric_results["psnr"] < 100 and abs(model.metric_results["ssim"]) <= 1
    model.opt["val"]["metrics"] = None
    model.validation(build_dataloader(build_dataset(single), single), 1, None, True)
    (file,) = Path(opt["path"]["visualization"], "0x4").iterdir()
    assert cv2.imread(str(file), cv2.IMREAD_UNCHANGED).shape == (44, 52)


@pytest.mark.parametrize("loss, reduction", [("MSELoss", "mean"), ("L1Loss", "sum"), ("CharbonnierLoss", "sum")])
def test_micro_batches_are_the_large_batch(tmp_path, loss, reduction):
    pixel = {"pixel_opt": {"type": loss, "loss_weight": 0.5, "reduction": reduction}, **SGD}
    found = {}
    for micro_batches in (1, 2, 4):
        model = build(options(tmp_path, train={"accumulate": micro_batches, **pixel}))
        sizes = []
        model.net_g.register_forward_pre_hook(lambda net, args, sizes=sizes: sizes.append(len(args[0])))
        log = train(model, 1, 1)[0]
        assert sizes == [4 // micro_batches] * micro_batches
        found[micro_batches] = log["l_pix"], gradients(model)
    for micro_batches in (2, 4):
        assert math.isclose(found[micro_batches][0], found[1][0], rel_tol=1e-5)
        for name, expected in found[1][1].items():
            assert relative_error(found[micro_batches][1][name], expected) < 1e-3, name
    assert found[1][1]["conv_first.weight"].abs().max() > 0


def test_micro_batches_need_not_be_of_one_size(tmp_path):
    """As under a trainer that does not know accumulate: five images in chunks of two, two and one."""
    found = {}
    for micro_batches in (1, 3):
        model = build(options(tmp_path, train={"accumulate": micro_batches, **SGD}))
        train(model, 1, 1, batches=lambda number: batch(number, images=5))
        found[micro_batches] = gradients(model)
    for name, expected in found[1].items():
        assert relative_error(found[3][name], expected) < 1e-3, name


@ARCH_REGISTRY.register()
class EmptyParameterNet(torch.nn.Sequential):
    """With a parameter of no elements, as DAT has where heads are few."""

    def __init__(self):
        super().__init__(torch.nn.Conv2d(3, 48, 1), torch.nn.PixelShuffle(4))
        self.empty = torch.nn.Parameter(torch.zeros(0))

    def forward(self, x):
        return super().forward(x) + self.empty.sum()


@pytest.mark.parametrize("clip", [None, 1.0])
def test_parameters_without_elements(tmp_path, clip):
    opt = options(tmp_path, train={"clip_grad_norm": clip, **SGD})
    opt["network_g"] = {"type": "EmptyParameterNet"}
    model = build(opt)
    before = weights(model.net_g)
    train(model, 1, 1)
    assert not torch.equal(before["0.weight"], model.net_g.state_dict()["0.weight"])


def test_perceptual_losses_are_accumulated_too(tmp_path):
    logs = []
    for micro_batches in (1, 2):
        train_opt = {"accumulate": micro_batches, "perceptual_opt": PERCEPTUAL, "pixel_opt": None, **SGD}
        logs += train(build(options(tmp_path, train=train_opt)), 1, 1)
    assert set(logs[0]) == {"l_percep", "l_style"}
    for key in logs[0]:
        assert math.isclose(logs[0][key], logs[1][key], rel_tol=1e-5)
    no_style = {"perceptual_opt": {**PERCEPTUAL, "style": False}, "pixel_opt": None}
    assert set(train(build(options(tmp_path, train=no_style)), 1, 1)[0]) == {"l_percep"}


@pytest.mark.parametrize("amp, dtype", [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_mixed_precision(tmp_path, amp, dtype):
    plain, mixed = (build(options(tmp_path, train={"amp": value, **SGD})) for value in (None, amp))
    seen = set()
    mixed.net_g.conv_first.register_forward_hook(lambda net, args, output: seen.add(output.dtype))
    expected, found = train(plain, 1, 1)[0], train(mixed, 1, 1)[0]
    assert seen == {dtype}
    assert math.isclose(found["l_pix"], expected["l_pix"], rel_tol=0.02)
    assert all(parameter.dtype == torch.float32 for parameter in mixed.net_g.parameters())
    # Unscaled again, whatever fp16's scale is.
    ours, theirs = gradients(mixed), gradients(plain)
    assert relative_error(ours["conv_first.weight"], theirs["conv_first.weight"]) < 0.1
    # Validation is in float32: the metrics are those of the weights.
    mixed.test()
    assert dtype in seen and mixed.output.dtype == torch.float32 and torch.float32 in seen


class Casts(TorchDispatchMode):
    """Count the casts of each parameter: name -> count."""

    def __init__(self, net):
        super().__init__()
        self.names = {value.data_ptr(): name for name, value in net.named_parameters()}
        self.found = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = self.names.get(args[0].data_ptr()) if function is torch.ops.aten._to_copy.default else None
        if name is not None:
            self.found[name] += 1
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("network", NETWORKS)
def test_a_weight_is_cast_once(tmp_path, monkeypatch, network):
    """For each micro-batch: the operators, which leave autocast for a while, do not empty its cache."""
    emptied, empty = [], torch.clear_autocast_cache
    monkeypatch.setattr(torch, "clear_autocast_cache", lambda: emptied.append(True) or empty())
    opt = options(tmp_path, train={"amp": "bf16", "accumulate": 2})
    opt["network_g"]["type"] = network
    model = build(opt)
    with Casts(model.net_g) as casts:
        train(model, 1, 1)
    assert set(casts.found.values()) == {2} and "conv_first.weight" in casts.found
    assert len(emptied) == 2


def test_the_scale_of_fp16_is_saved_and_halved_where_it_was_too_large(tmp_path):
    model = build(options(tmp_path, train={"amp": "fp16"}))
    before = weights(model.net_g)
    model.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**120)
    train(model, 1, 1)
    assert model.nonfinite == {"total": 1, "in_a_row": 1} and equal(before, weights(model.net_g))
    assert model.scaler.get_scale() == 2.0**119
    model.save(0, 1)
    again = build(options(tmp_path, train={"amp": "fp16"}))
    again.resume_training(torch.load(checkpoints.state_file(model.opt, 1), weights_only=True))
    assert again.scaler.get_scale() == 2.0**119 and again.nonfinite == {"total": 1, "in_a_row": 1}


@pytest.mark.parametrize("mode, passed", [(True, None), ("max-autotune-no-cudagraphs", "max-autotune-no-cudagraphs")])
def test_compiled(tmp_path, monkeypatch, mode, passed):
    """The compiled network gives the gradients; the plain one is validated and saved under its own names."""
    compile, asked = torch.compile, []

    def with_quick_backend(net, mode=None, dynamic=None):
        asked.append(mode)
        return compile(net, backend="aot_eager", dynamic=dynamic)

    monkeypatch.setattr(torch, "compile", with_quick_backend)
    small = {"network_g": {"type": "EmptyParameterNet"}}
    plain, compiled = (build(options(tmp_path, train={"compile": value, **SGD}) | small) for value in (False, mode))
    assert asked == [passed]
    assert math.isclose(train(plain, 1, 1)[0]["l_pix"], train(compiled, 1, 1)[0]["l_pix"], rel_tol=1e-5)
    ours, theirs = gradients(compiled), gradients(plain)
    assert max(relative_error(ours[name], theirs[name]) for name in theirs if theirs[name].numel()) < 1e-3
    assert list(compiled.net_g.state_dict()) == list(plain.net_g.state_dict())


def test_compiled_sizes_are_fixed(tmp_path, monkeypatch):
    """Also where batches are not of one size: with symbols for sizes PyTorch's inductor fails at the gradient."""
    compile, symbols = torch.compile, []

    def backend(graph, inputs):
        symbols.append([value for value in inputs if isinstance(value, torch.SymInt)])
        return graph

    monkeypatch.setattr(torch, "compile", lambda net, **more: compile(net, **{**more, "mode": None}, backend=backend))
    model = build(options(tmp_path, train={"compile": True, **SGD}) | {"network_g": {"type": "EmptyParameterNet"}})
    train(model, 1, 3, batches=lambda number: batch(number, images=1 + number))
    assert symbols == [[], [], []]


def test_gradients_are_clipped(tmp_path):
    free, clipped = (build(options(tmp_path, train={"clip_grad_norm": limit, **SGD})) for limit in (None, 0.01))
    train(free, 1, 1)
    log = train(clipped, 1, 1)[0]
    norm = math.sqrt(sum(float((g**2).sum()) for g in gradients(free).values()))
    assert math.isclose(log["grad_norm"], norm, rel_tol=1e-4) and norm > 0.02
    found = math.sqrt(sum(float((g**2).sum()) for g in gradients(clipped).values()))
    assert math.isclose(found, 0.01, rel_tol=1e-3)


def test_channels_last(tmp_path):
    plain, last = (build(options(tmp_path, train={"channels_last": value, **SGD})) for value in (False, True))
    assert last.net_g.conv_first.weight.is_contiguous(memory_format=torch.channels_last)
    # Its strides are what PyTorch chooses the kernel by, and those of one channel may say either.
    depthwise = [module.weight for module in last.net_g.modules() if getattr(module, "groups", 1) > 1]
    assert {weight.stride() for weight in depthwise} == {(9, 9, 3, 1)}
    expected, found = train(plain, 1, 2), train(last, 1, 2)
    assert last.lq.is_contiguous(memory_format=torch.channels_last)
    assert math.isclose(expected[1]["l_pix"], found[1]["l_pix"], rel_tol=1e-5)
    last.save(0, 2)
    saved = torch.load(tmp_path / "experiments" / "tiny" / "models" / "net_g_2.pth", weights_only=True)["params"]
    assert all(value.is_contiguous() for value in saved.values())


@pytest.mark.parametrize("name", optimizer_names())
def test_optimizers_of_torch(tmp_path, name):
    with works_unless_known("optimizer", name):
        model = build(options(tmp_path, train={"optim_g": {"type": name, "lr": 1e-3}}))
        before = weights(model.net_g)
        train(model, 1, 2)
        assert type(model.optimizer_g).__name__ == name
        assert not equal(before, weights(model.net_g)) and model.nonfinite["total"] == 0


@pytest.mark.parametrize(
    "name, message",
    [
        ("Adm", "did you mean Adam"),
        ("lr_scheduler", "supported: ASGD, Adadelta"),
        ("LBFGS", "supp"),
        ("SparseAdam", ""),
    ],
)
def test_no_optimizers_of_torch(tmp_path, name, message):
    with pytest.raises(InputError, match=f"train: optim_g: type: '{name}' is not supported; {message}"):
        build(options(tmp_path, train={"optim_g": {"type": name, "lr": 1e-3}}))


def test_arguments_of_an_optimizer(tmp_path):
    with pytest.raises(InputError, match=r"train: optim_g: Adam: .*'beta'"):
        build(options(tmp_path, train={"optim_g": {"type": "Adam", "lr": 1e-3, "beta": 0.9}}))


def broken(*iterations):
    """Batches, of which those of the iterations have a NaN in GT."""

    def of(iteration):
        images = batch(iteration)
        if iteration in iterations:
            images["gt"][0, 0, 0, 0] = float("nan")
        return images

    return of


def everything(model):
    states = [value for state in model.optimizer_g.state.values() for value in state.values()]
    return {
        **{f"net.{key}": value for key, value in weights(model.net_g).items()},
        **{f"ema.{key}": value for key, value in weights(model.net_g_ema).items()},
        **{f"optimizer.{number}": value.clone() for number, value in enumerate(states)},
    }


def test_a_loss_that_is_not_finite_leaves_no_trace(tmp_path, log):
    model = build(options(tmp_path, train={"ema_decay": 0.9, "clip_grad_norm": 1.0}))
    train(model, 1, 2)
    before = everything(model)
    logs = train(model, 3, 4, broken(3, 4))
    assert math.isnan(logs[0]["l_pix"])
    warnings = [line for line in log if "no step was taken" in line]
    assert [line.split(",")[0] for line in warnings] == [
        f"Iteration {n}: the loss or a gradient is not finite; no step was taken ({n - 2} in a row" for n in (3, 4)
    ]
    assert equal(before, everything(model)) and model.nonfinite == {"total": 2, "in_a_row": 2}
    train(model, 5, 5)
    assert not equal(before, everything(model)) and model.nonfinite == {"total": 2, "in_a_row": 0}
    assert all(torch.isfinite(value).all() for value in everything(model).values())


def test_a_gradient_that_is_not_finite_leaves_no_trace(tmp_path):
    model = build(options(tmp_path, train={"ema_decay": 0.9, "accumulate": 2}))
    train(model, 1, 1)
    before = everything(model)
    handle = model.net_g.conv_first.bias.register_hook(lambda gradient: gradient * float("inf"))
    log = train(model, 2, 2)
    assert math.isfinite(log[0]["l_pix"])
    assert equal(before, everything(model)) and model.nonfinite["total"] == 1
    handle.remove()
    train(model, 3, 3)
    assert not equal(before, everything(model))


def test_running_statistics_are_kept_too(tmp_path):
    class Normed(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = torch.nn.Conv2d(3, 48, 1), torch.nn.BatchNorm2d(48)

        def forward(self, x):
            return torch.nn.functional.pixel_shuffle(self.norm(self.conv(x)), 4)

    if "Normed" not in ARCH_REGISTRY:
        ARCH_REGISTRY.register(Normed)
    opt = options(tmp_path)
    opt["network_g"] = {"type": "Normed"}
    model = build(opt)
    train(model, 1, 1)
    before = weights(model.net_g)

    def unreadable(iteration):
        images = batch(iteration)
        images["lq"][0] = float("inf")
        return images

    train(model, 2, 2, unreadable)
    after = weights(model.net_g)
    assert torch.equal(before["norm.running_mean"], after["norm.running_mean"]) and model.nonfinite["total"] == 1


def test_ten_in_a_row_end_the_run(tmp_path):
    model = build(options(tmp_path))
    train(model, 1, 2)
    model.save(0, 2)
    train(model, 3, 11, broken(*range(3, 12)))
    message = r"not finite in 10 iterations in a row, the last of them 12; .*models/net_g_2.pth \(iteration 2\)"
    with pytest.raises(TrainingStopped, match=message):
        train(model, 12, 12, broken(12))
    model = build(options(tmp_path, train={"max_nonfinite": 1}))
    with pytest.raises(TrainingStopped, match="in 1 iterations in a row"):
        train(model, 1, 1, broken(1))
