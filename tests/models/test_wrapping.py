"""The network under DistributedDataParallel and torch.compile."""

import pytest
import torch
from basicsr.utils.registry import ARCH_REGISTRY
from torch import distributed, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import contrast_arch.archs.contrast_arch as archs
from contrast_arch.ops.attention import torch as attention_torch
from contrast_arch.options.schema import CUDA_GRAPH_MODES
from contrast_arch.training.distributed import processes_on_cpus
from tests.conftest import NETWORKS, TINY
from tests.models.building import batch, build, equal, options, train, weights


@pytest.fixture
def process_group():
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    with processes_on_cpus():
        yield
    distributed.destroy_process_group()


@ARCH_REGISTRY.register()
class RunningStatisticsNet(nn.Sequential):
    def __init__(self):
        super().__init__(nn.BatchNorm2d(3), nn.Conv2d(3, 48, 1), nn.PixelShuffle(4))


@pytest.mark.parametrize("network, broadcast", [(None, False), ({"type": "RunningStatisticsNet"}, True)])
def test_only_running_statistics_are_broadcast(tmp_path, process_group, network, broadcast):
    opt = options(tmp_path)
    opt |= {"dist": True} | ({"network_g": network} if network else {})
    model = build(opt)
    assert list(model.get_bare_model(model.net_g).buffers())
    assert model.net_g.will_sync_module_buffers() is broadcast
    train(model, 1, 1)


@pytest.fixture
def cuda_graphs(monkeypatch):
    """CUDA graphs as far as training sees them, on the CPU: what a step gives out is overwritten by the next one.

    Returns:
        The sizes of the images, one entry for each forward pass; None for each beginning of a step.
    """
    calls, given = [], []

    def mark_step_begin():
        calls.append(None)
        for tensor in given:
            tensor.data.fill_(float("nan"))
        given.clear()

    def compile(net, mode, dynamic):
        for parameter in net.parameters():
            parameter.register_post_accumulate_grad_hook(lambda parameter: given.append(parameter.grad))

        def run(lq):
            calls.append(tuple(lq.shape))
            given.append(net(lq))
            return given[-1]

        return run

    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", mark_step_begin)
    monkeypatch.setattr(torch, "compile", compile)
    return calls


@pytest.mark.parametrize("mode", CUDA_GRAPH_MODES)
def test_nothing_of_a_step_is_read_in_the_next(tmp_path, cuda_graphs, mode):
    """Weights, averaged weights, logs and validation are those of the plain network; also around a bad batch."""

    def batches(iteration):
        images = batch(iteration)
        if iteration == 3:
            images["gt"][0] = float("nan")
        return images

    found = []
    for compile in (False, mode):
        model = build(options(tmp_path, train={"compile": compile, "ema_decay": 0.9, "clip_grad_norm": 0.1}))
        logs, validated = [], []
        for iteration in range(1, 6):
            logs.append(repr(train(model, iteration, iteration, batches)))
            model.feed_data({"lq": torch.rand(1, 3, 5 + iteration, 9, generator=torch.Generator().manual_seed(0))})
            model.test()
            validated.append(model.output)
        assert model.nonfinite["total"] == 1
        found.append((logs, weights(model.net_g), weights(model.net_g_ema), dict(enumerate(validated))))
    (logs, *plain), (graphed_logs, *graphed) = found
    assert logs == graphed_logs
    assert all(equal(a, b) for a, b in zip(plain, graphed, strict=True))
    # Validation takes the network as it is: a size of an image of its own is no graph more.
    assert cuda_graphs == [None, (4, 3, 8, 8)] * 5


@pytest.mark.parametrize("ema_decay", [0, 0.9])
def test_validation_compiles_nothing_anew(tmp_path, monkeypatch, ema_decay):
    """Each graph more would be captured, and keep memory."""
    compile, graphs = torch.compile, []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph

    monkeypatch.setattr(torch, "compile", lambda net, **more: compile(net, **{**more, "mode": None}, backend=backend))
    torch.compiler.reset()
    opt = options(tmp_path, train={"compile": "reduce-overhead", "ema_decay": ema_decay})
    model = build(opt | {"network_g": {"type": "RunningStatisticsNet"}})
    for iteration in (1, 2, 3):
        train(model, iteration, iteration)
        for width in (5, 9):
            model.feed_data({"lq": torch.rand(1, 3, 4 + iteration, width)})
            model.test()
    assert len(graphs) == 1


class Devices(TorchDispatchMode):
    """Types of device of all tensors that are made."""

    def __init__(self):
        super().__init__()
        self.found = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        self.found |= {t.device.type for t in (out if isinstance(out, tuple) else (out,)) if torch.is_tensor(t)}
        return out


@pytest.mark.parametrize("name", NETWORKS)
def test_all_tensors_are_on_the_gpu(monkeypatch, name):
    """PyTorch makes no CUDA graph of a network that uses a tensor of the CPU."""
    monkeypatch.setenv("CONTRAST_ARCH_BACKEND", "torch")
    monkeypatch.setattr(attention_torch, "_fused_is_right", lambda device: True)
    net = getattr(archs, name)(**{key: value for key, value in TINY.items() if key != "type"})
    with FakeTensorMode() as mode:
        tensors = {key: mode.from_tensor(t) for key, t in (*net.named_parameters(), *net.named_buffers())}
        tensors = {key: tensor.to("cuda") for key, tensor in tensors.items()}
        with Devices() as devices:
            torch.func.functional_call(net, tensors, torch.empty(2, 3, 9, 7, device="cuda"))
    assert devices.found == {"cuda"}
