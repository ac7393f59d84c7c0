"""SS2D: the token mixer of VMamba's second version."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from contrast_arch.layers.tokens import depthwise, pointwise_in_chunks
from contrast_arch.ops import ss2d_scan
from contrast_arch.ops.ss2d.reference import DIRECTIONS


def _start_values(name, rank, inner, state):
    """Weight and bias of dt, and log(-A): Mamba's "v0" (arXiv 2312.00752, section 3.6), or VMamba's "v1" and "v2"."""
    if name == "v0":  # A = -(1 ... N), dt log-uniform in [0.001, 0.1]
        weight = (2 * torch.rand(DIRECTIONS, inner, rank) - 1) * rank**-0.5
        dt = torch.empty(DIRECTIONS, inner).uniform_(math.log(0.001), math.log(0.1)).exp()
        bias = dt + torch.log(-torch.expm1(-dt))  # the inverse of softplus
        return weight, bias, torch.arange(1.0, state + 1).log().repeat(DIRECTIONS * inner, 1)
    random, A_logs = (torch.randn, torch.randn) if name == "v1" else (torch.rand, torch.zeros)
    weight, bias = 0.1 * random(DIRECTIONS, inner, rank), 0.1 * random(DIRECTIONS, inner)
    return weight, bias, A_logs(DIRECTIONS * inner, state)


class SS2D(nn.Module):
    """Four selective scans over an image between two projections (VMamba, arXiv 2401.10166, section 4.2).

    in_proj (no bias) -> depthwise convolution -> activation -> scans along four directions -> LayerNorm -> out_proj.
    With ``gate`` in_proj makes a second half z, and the normed scan is multiplied by act(z).

    Args: the others are those of :class:`~contrast_arch.archs.config.Config` that begin with ``ssm_``.

    Shapes: (B, H, W, C) -> (B, H, W, C).
    """

    def __init__(
        self,
        dims: int,
        gate: bool = False,
        d_state: int = 1,
        ratio: float = 1.0,
        dt_rank: int | str = "auto",
        act_layer: type[nn.Module] = nn.GELU,
        conv: int = 3,
        conv_bias: bool = False,
        init: str = "v2",
    ):
        super().__init__()
        inner = max(1, int(ratio * dims))
        rank = math.ceil(dims / 16) if dt_rank == "auto" else dt_rank
        self.gate = gate
        self.in_proj = nn.Linear(dims, inner * (2 if gate else 1), bias=False)
        self.act = act_layer()
        self.conv2d = nn.Conv2d(inner, inner, conv, 1, conv // 2, groups=inner, bias=conv_bias) if conv > 1 else None
        # As nn.Linear would start four (R + 2N, D) projections.
        bound = inner**-0.5
        self.x_proj_weight = nn.Parameter(torch.empty(DIRECTIONS, rank + 2 * d_state, inner).uniform_(-bound, bound))
        values = _start_values(init, rank, inner, d_state)
        self.dt_projs_weight, self.dt_projs_bias, self.A_logs = map(nn.Parameter, values)
        self.Ds = nn.Parameter(torch.ones(DIRECTIONS * inner))
        self.out_norm = nn.LayerNorm(inner)
        self.out_proj = nn.Linear(inner, dims, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.in_proj(x)
        if self.gate:
            x, z = x.chunk(2, -1)
        if self.conv2d is not None:
            # Some of PyTorch's depthwise kernels give channels first: one copy here, or one in each use below.
            x = depthwise(self.conv2d, x).contiguous()
        x = pointwise_in_chunks(self.act, x)
        p = F.linear(x, self.x_proj_weight.flatten(0, 1)).unflatten(-1, (DIRECTIONS, -1))
        y = ss2d_scan(x, p, self.dt_projs_weight, self.dt_projs_bias, self.A_logs, self.Ds)
        if self.gate:
            return self.out_proj(self.out_norm(y) * self.act(z))
        return pointwise_in_chunks(lambda y: self.out_proj(self.out_norm(y)), y)
