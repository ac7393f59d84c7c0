"""Multiply-adds of a network, counted on the meta device: nothing is computed and no memory taken.

Counted is every product of two numbers, with the addition that may follow it: of convolutions, linear layers,
attention (q k^T and the weighted sum of v) and of SS2D's scan. Norms, activations, exponentials, softmax, biases,
interpolation and sums of whole tensors are not, as is usual in the field.

The scan by its definition (:mod:`contrast_arch.ops.ss2d.reference`), whatever a backend does, for each pixel, direction
and channel, with R = dt_rank and N = d_state: R for dt (dt_projs_weight . dt_r), N for the decay (dt * A), 1 + N for
the input (dt * u, then times B), N for the state (decay * h), N + 1 for the output (C . h, and D * u).
"""

import torch
from torch.utils.flop_counter import FlopCounterMode, register_flop_formula

from contrast_arch.experiments.bench.checks import plain
from contrast_arch.ops import BACKENDS
from contrast_arch.ops.ss2d.reference import DIRECTIONS

# (H, W) of the output for which papers state the cost.
OUTPUT_SIZE = (720, 1280)
_ours = torch.ops.contrast_arch

# PyTorch's counter knows no operators but its own. It asks for FLOPs, two a multiply-add; the arguments are shapes.


@register_flop_formula([getattr(_ours, f"ss2d_{name}") for name in BACKENDS["ss2d"] if name != "reference"])
def _scan(x, p, dt_w, dt_b, A_logs, Ds, keep, out_shape=None):
    batch, height, width, dim = x
    return 2 * batch * height * width * DIRECTIONS * dim * (dt_w[2] + 4 * A_logs[1] + 2)


@register_flop_formula(_ours.window_attention)
def _window_attention(q, k, *others, out_shape=None):
    batch, windows, heads, queries, head_dim = q
    return 4 * batch * windows * heads * queries * k[3] * head_dim


@register_flop_formula(_ours.overlap_attention)
def _overlap_attention(qkv, table, query_rows, key_rows, out_shape=None):
    batch, height, width, channels = qkv
    return 4 * batch * height * width * key_rows[0] * (channels // 3)


def lq_size(scale: int) -> tuple[int, int]:
    """(H, W) of the LQ image for an output of 1280x720, rounded up where the scale does not divide it."""
    return tuple(-(-side // scale) for side in OUTPUT_SIZE)


def count(net: torch.nn.Module, size: tuple[int, int]) -> int:
    """Multiply-adds of one LQ image of (H, W), padded to whole windows; moves the network to the meta device."""
    channels = getattr(net, "in_chans", 3)
    # The sequential definition is no operator, and would be gone through step by step.
    with plain(), torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        net.to("meta").eval()(torch.empty(1, channels, *size))
    return counter.get_total_flops() // 2
