"""Checks of a network before it is timed."""

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch

from contrast_arch.archs.contrast_arch import HATLight
from contrast_arch.archs.network import SRNetwork
from contrast_arch.experiments.bench.measure import Run, Trial, arithmetic
from contrast_arch.experiments.bench.networks import BASE
from contrast_arch.ops import forced_backend

# Side of the LQ images of a check: two of the default windows, so that there are inner borders and shifted windows.
CHECKED_PATCH = 32
# Relative, by norms, of the tensor that is furthest off. Gradients of weights are sums over pixels that may cancel.
OUTPUT_LIMIT = 1e-4
GRADIENT_LIMIT = 1e-3


def relative(values, expected) -> float:
    """Largest error of any tensor, by norms; infinite where a value is not finite."""
    return max(
        float((a.double() - b).norm() / b.norm()) if a.isfinite().all() else float("inf")
        for a, b in zip(values, expected, strict=True)
    )


def upstream_error(ours, theirs, lq) -> float:
    """Relative error of upstream HAT, given the weights of HATLight, against HATLight on the image ``lq``."""
    theirs.load_state_dict(ours.state_dict(), strict=False)
    with torch.no_grad():
        return relative([theirs.eval()(lq)], [ours.eval()(lq).double()])


def plain() -> AbstractContextManager:
    """Compute the operators of this package in plain PyTorch for a while, without kernels for them."""
    return forced_backend("ss2d=torch,window_attention=reference,overlap_attention=reference")


def _first_step(run, build):
    """The network, its output and the gradients of its weights, from the same random numbers every time."""
    torch.manual_seed(0)
    net = build().to(run.device).train()
    trial = Trial(net, 1, min(run.patch, CHECKED_PATCH), run.scale)
    with torch.no_grad():
        sr = trial.output()
    trial.step()
    return net, sr, {name: p.grad for name, p in net.named_parameters() if p.grad is not None}


@arithmetic("fp32")
def check(run: Run, name: str, build: Callable[[], torch.nn.Module]) -> bool:
    """True if the network may be timed; the findings go to ``run``.

    Ours must give what they give in plain PyTorch, output and each gradient; upstream HAT the output of HATLight with
    the same weights; all others numbers that are finite.
    """
    if name == BASE:
        lq = torch.rand(1, 3, CHECKED_PATCH, CHECKED_PATCH, device=run.device)
        nets = (net.to(run.device) for net in (HATLight(upscale=run.scale), build()))
        return run.check(f"{name} against HATLight", upstream_error(*nets, lq), OUTPUT_LIMIT)
    net, sr, gradients = _first_step(run, build)
    if not isinstance(net, SRNetwork):
        finite = all(bool(tensor.isfinite().all()) for tensor in (sr, *gradients.values()))
        return run.check(f"{name}: finite output and gradients", not finite)
    with plain():
        _, plain_sr, plain_gradients = _first_step(run, build)
    passed = run.check(f"{name}: output as in plain PyTorch", relative([sr], [plain_sr.double()]), OUTPUT_LIMIT)
    # Without a relative error are gradients of zero: those behind a dead activation, and, but for rounding, that of a
    # constant added to all of a head's bias, which no softmax sees.
    pairs = [
        (own, plain_gradients[key].double())
        for key, own in gradients.items()
        if not key.endswith("cpb_mlp.pos3.2.bias") and (own.any() or plain_gradients[key].any())
    ]
    error = relative(*zip(*pairs, strict=True))
    return run.check(f"{name}: gradients as in plain PyTorch", error, GRADIENT_LIMIT) and passed
