"""The network as it is trained: memory format, DistributedDataParallel and torch.compile."""

from collections.abc import Callable

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from contrast_arch.archs.network import SRNetwork
from contrast_arch.options.schema import CUDA_GRAPH_MODES


def channels_last_network(net: nn.Module) -> nn.Module:
    """Keep the weights of convolutions channels last, except those of depthwise ones.

    For them PyTorch would take cuDNN's grouped kernels on a GPU, see :func:`contrast_arch.layers.tokens.depthwise`.
    """
    net = net.to(memory_format=torch.channels_last)
    for module in net.modules():
        if isinstance(module, nn.Conv2d) and module.weight.shape[1] == 1:
            module.weight.data = module.weight.data.clone(memory_format=torch.contiguous_format)
    return net


def distributed_network(net: nn.Module, device: torch.device, find_unused: bool) -> DistributedDataParallel:
    """Wrap the network of this process so that gradients are averaged over all processes.

    Args:
        device: device of the network.
        find_unused: ``find_unused_parameters`` of the options.
    """
    gpus = None if device.type == "cpu" else [torch.cuda.current_device()]
    wrapped = DistributedDataParallel(net, device_ids=gpus, find_unused_parameters=find_unused)
    # Once, at the beginning, is enough for buffers that are constants. Other networks may have running statistics. As
    # an attribute: the argument has two names, the old one with a warning since PyTorch 2.14.
    wrapped.broadcast_buffers = not isinstance(net, SRNetwork)
    return wrapped


def compiled_network(net: nn.Module, mode: bool | str) -> Callable:
    """Compile the network for training; each call begins an iteration.

    Args:
        mode: ``train: compile`` of the options, not False.
    """
    # Batches are of one size. Sizes as symbols, which PyTorch would take at a second one, end in an error of its own
    # where gradients are wanted (its issue 185510).
    compiled = torch.compile(net, mode=None if mode is True else mode, dynamic=False)
    if mode not in CUDA_GRAPH_MODES:
        return compiled

    def next_step(*images):
        # A graph writes outputs and gradients where the one before did: all of an iteration is read in that iteration.
        torch.compiler.cudagraph_mark_step_begin()
        return compiled(*images)

    return next_step
