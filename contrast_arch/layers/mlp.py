"""The MLPs of the blocks."""

import torch
from torch import nn


class Mlp(nn.Module):
    """fc2(act(fc1(x))).

    Args:
        dims: C.
        hidden: width in between.
        act_layer: class of the activation.

    Shapes: (..., C) -> (..., C).
    """

    def __init__(self, dims: int, hidden: int, act_layer: type[nn.Module] = nn.GELU):
        super().__init__()
        self.fc1 = nn.Linear(dims, hidden)
        self.act = act_layer()
        self.fc2 = nn.Linear(hidden, dims)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.act(self.fc1(x)))


class GatedMlp(nn.Module):
    """fc2(a * act(b)), a and b the halves of fc1(x) (VMamba's gMlp; arXiv 2002.05202).

    Args and shapes as :class:`Mlp`; fc1 is 2 * hidden wide.
    """

    def __init__(self, dims: int, hidden: int, act_layer: type[nn.Module] = nn.GELU):
        super().__init__()
        self.fc1 = nn.Linear(dims, 2 * hidden)
        self.act = act_layer()
        self.fc2 = nn.Linear(hidden, dims)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        value, gate = self.fc1(x).chunk(2, -1)
        return self.fc2(value * self.act(gate))
