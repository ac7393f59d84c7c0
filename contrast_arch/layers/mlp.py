"""The MLPs of the blocks and of OCAB: ``hidden`` wide, (B, H, W, C) -> (B, H, W, C)."""

import torch
import torch.nn.functional as F
from torch import nn

from contrast_arch.layers.tokens import depthwise, in_bands, pointwise_in_chunks
from contrast_arch.ops import no_autocast


class Mlp(nn.Module):
    """fc2(act(fc1(x))); gated, fc2(a * act(b)) of the halves of fc1(x) (VMamba's gMlp; arXiv 2002.05202)."""

    def __init__(self, dims: int, hidden: int, act_layer: type[nn.Module] = nn.GELU, gated: bool = False):
        super().__init__()
        self.gated = gated
        self.fc1 = nn.Linear(dims, 2 * hidden if gated else hidden)
        self.act = act_layer()
        self.fc2 = nn.Linear(hidden, dims)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.fc1(x)
        if not self.gated:
            return self.fc2(self.act(x))
        value, gate = x.chunk(2, -1)
        return self.fc2(value * self.act(gate))


class SpatialGateMlp(nn.Module):
    """fc2(a * gate(b)), a and b the halves of act(fc1(x)) (SGFN of DAT, arXiv 2308.03364, section 3.3).

    In float16 the products, which leave its range before the features do, and fc2 are computed in float32.
    """

    def __init__(self, dims: int, hidden: int, act_layer: type[nn.Module] = nn.GELU):
        super().__init__()
        half = hidden // 2
        self.fc1 = nn.Linear(dims, hidden)
        self.act = act_layer()
        self.sg = nn.ModuleDict({"norm": nn.LayerNorm(half), "conv": nn.Conv2d(half, half, 3, padding=1, groups=half)})
        self.fc2 = nn.Linear(half, dims)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        value, gate = self.act(self.fc1(x)).chunk(2, -1)
        gate = depthwise(self.sg["conv"], self.sg["norm"](gate))
        if gate.dtype != torch.float16:
            return self.fc2(value * gate)
        with no_autocast(x.device):
            out = F.linear(value.float() * gate.float(), self.fc2.weight.float(), self.fc2.bias.float())
        return out.to(x.dtype)


def add_mlp(x: torch.Tensor, norm: nn.Module, mlp: nn.Module) -> torch.Tensor:
    """x + mlp(norm(x)); without a gradient the result may take the place of x."""

    def added(x):
        return x + mlp(norm(x))

    return in_bands(added, x) if isinstance(mlp, SpatialGateMlp) else pointwise_in_chunks(added, x)
