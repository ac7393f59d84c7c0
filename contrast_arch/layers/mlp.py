"""The MLPs of the blocks and of OCAB."""

import torch
import torch.nn.functional as F
from torch import nn

from contrast_arch.layers.tokens import depthwise, pointwise_in_chunks
from contrast_arch.ops import no_autocast


class Mlp(nn.Module):
    """fc2(act(fc1(x))), ``hidden`` wide in between.

    Shapes: (..., C) -> (..., C).
    """

    parts = 1  # of fc1, each ``hidden`` wide

    def __init__(self, dims: int, hidden: int, act_layer: type[nn.Module] = nn.GELU):
        super().__init__()
        self.fc1 = nn.Linear(dims, self.parts * hidden)
        self.act = act_layer()
        self.fc2 = nn.Linear(hidden, dims)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.act(self.fc1(x)))


class GatedMlp(Mlp):
    """fc2(a * act(b)), a and b the halves of fc1(x) (VMamba's gMlp; arXiv 2002.05202)."""

    parts = 2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        value, gate = self.fc1(x).chunk(2, -1)
        return self.fc2(value * self.act(gate))


class SpatialGate(nn.Module):
    """Gate of :class:`SpatialGateMlp`: a 3x3 depthwise convolution over normed features."""

    def __init__(self, dims: int):
        super().__init__()
        self.norm = nn.LayerNorm(dims)
        self.conv = nn.Conv2d(dims, dims, 3, padding=1, groups=dims)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return depthwise(self.conv, self.norm(x))


class SpatialGateMlp(nn.Module):
    """fc2(a * gate(b)), a and b the halves of act(fc1(x)) (SGFN of DAT, arXiv 2308.03364, section 3.3).

    In float16 the products, which leave its range before the features do, and fc2 are computed in float32.

    Shapes: (B, H, W, C) -> (B, H, W, C).
    """

    def __init__(self, dims: int, hidden: int, act_layer: type[nn.Module] = nn.GELU):
        super().__init__()
        self.fc1 = nn.Linear(dims, hidden)
        self.act = act_layer()
        self.sg = SpatialGate(hidden // 2)
        self.fc2 = nn.Linear(hidden // 2, dims)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        value, gate = self.act(self.fc1(x)).chunk(2, -1)
        gate = self.sg(gate)
        if gate.dtype != torch.float16:
            return self.fc2(value * gate)
        with no_autocast(x.device):
            out = F.linear(value.float() * gate.float(), self.fc2.weight.float(), self.fc2.bias.float())
        return out.to(x.dtype)


def add_mlp(x: torch.Tensor, norm: nn.Module, mlp: nn.Module) -> torch.Tensor:
    """x + mlp(norm(x)), both (B, H, W, C)."""

    def added(x):
        return x + mlp(norm(x))

    return added(x) if isinstance(mlp, SpatialGateMlp) else pointwise_in_chunks(added, x)
