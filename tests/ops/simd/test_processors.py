"""The kernels compiled for other processors than this one, named in numba's configuration."""

import os
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from contrast_arch.ops.attention import cpu as attention
from contrast_arch.ops.self_test import error_of
from contrast_arch.ops.ss2d import cpu as scan
from tests.conftest import run_python


def results() -> list[torch.Tensor]:
    """Outputs and gradients of the scan and of OCAB's attention, whose sizes fill no vector."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(shape, generator=generator)

    found = []
    scanned = random(1, 5, 7, 18), random(1, 5, 7, 4, 7), random(4, 18, 3), random(4, 18), random(72, 2), random(72)
    attended = random(1, 8, 4, 18), random(2, 16, 36)
    calls = (
        (lambda *inputs: scan.ss2d(*inputs, True)[0], scanned),
        (lambda *inputs: attention.overlap_attention(*inputs, 2, 4, 6), attended),
    )
    for operator, inputs in calls:
        inputs = [value.requires_grad_() for value in inputs]
        y = operator(*inputs)
        found += [y.detach(), *torch.autograd.grad(y, inputs, random(*y.shape))]
    return found


@pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"), reason="haswell is no part of it"
)
def test_other_processors_give_the_same_values(tmp_path):
    """A vector is eight registers of SSE, without fused multiply-adds, and four of AVX2."""
    pytest.importorskip("numba")
    processors, native = ("generic", "haswell"), results()
    with ThreadPoolExecutor() as pool:
        runs = list(pool.map(lambda name: run_python(tmp_path, __file__, name), processors))
    assert [run.stderr for run in runs if run.returncode] == []
    found = [torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in processors]
    assert max(error_of(values, native) for values in found) < 1e-5
    # Without fused multiply-adds results are rounded otherwise: the name took effect.
    assert not all(map(torch.equal, found[0], native))


if __name__ == "__main__":
    # Before numba is imported. Without a list of features it adds those of this machine to the processor's.
    os.environ |= {"NUMBA_CPU_NAME": sys.argv[1], "NUMBA_CPU_FEATURES": ""}
    torch.save(results(), f"{sys.argv[1]}.pt")
