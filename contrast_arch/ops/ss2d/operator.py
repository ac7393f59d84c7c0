"""SS2D's core as an operator of PyTorch's library, one pair for each fast backend.

``torch.ops.contrast_arch.ss2d_NAME(x, p, dt_w, dt_b, A_logs, Ds, keep) -> (y, states)`` and ``ss2d_NAME_backward(dy,
states, x, p, dt_w, dt_b, A_logs, Ds) -> gradients``. Shapes are those of :mod:`contrast_arch.ops.ss2d.reference`.
"""

from collections.abc import Callable

from contrast_arch.ops.operators import compute_dtype, define
from contrast_arch.ops.ss2d.reference import check_ss2d, states_shape

_FORWARD = "(Tensor x, Tensor p, Tensor dt_w, Tensor dt_b, Tensor A_logs, Tensor Ds, bool keep) -> (Tensor, Tensor)"
_BACKWARD = (
    "(Tensor dy, Tensor states, Tensor x, Tensor p, Tensor dt_w, Tensor dt_b, Tensor A_logs, Tensor Ds) -> "
    "(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)


def define_ss2d(name: str, forward: Callable, backward: Callable, count_chunks: Callable[[int], int]) -> Callable:
    """Register ``ss2d_NAME`` and its gradient.

    Args:
        forward, backward: of the signatures above. ``states`` is what backward can use of the forward pass; with
            ``keep`` false it is empty, shape (0,), and backward works it out again. Outputs are contiguous, each in a
            storage of its own, gradients in the dtypes of the tensors they belong to.
        count_chunks: length of a sequence -> chunks of ``states``.

    Returns:
        The first of the operators.
    """

    def outputs(x, p, dt_w, dt_b, A_logs, Ds, keep=False):
        check_ss2d(x, p, dt_w, dt_b, A_logs, Ds)
        dtype = compute_dtype(x, p, dt_w, dt_b, A_logs, Ds)
        shape = states_shape(x, A_logs, count_chunks(x.shape[1] * x.shape[2])) if keep else (0,)
        return (x.shape, x.dtype), (shape, dtype)

    return define(f"ss2d_{name}", forward, backward, (_FORWARD, _BACKWARD), outputs, kept=slice(1, None))
