"""SS2D's core as operators of PyTorch's library, one pair for each fast backend.

``torch.ops.contrast_arch.ss2d_NAME(x, p, dt_w, dt_b, A_logs, Ds, keep) -> (y, states)`` and ``ss2d_NAME_backward(dy,
states, x, p, dt_w, dt_b, A_logs, Ds) -> gradients``; torch.compile, torch.export and autocast do not look inside.
Shapes are those of ``reference.py``. A backend is a module with

- ``forward`` and ``backward`` of these signatures. ``states`` is what backward can use of the forward pass; with
  ``keep`` false it is empty, shape (0,), and backward works it out again. Outputs are contiguous, each in a storage of
  its own, gradients in the dtypes of the tensors they belong to;
- ``count_chunks(length)``, which gives the shape of ``states``, and ``why_not(device, double)``.

Under autocast the operators take x and p in whatever dtype the layers before them give, and compute in float32.
"""

import torch

from contrast_arch.ops import cpu, numba, triton
from contrast_arch.ops.reference import check_shapes, check_ss2d, compute_dtype, states_shape

NAMESPACE = "contrast_arch"
AUTOCAST_KEYS = {"cpu": "AutocastCPU", "cuda": "AutocastCUDA"}

_FORWARD = "(Tensor x, Tensor p, Tensor dt_w, Tensor dt_b, Tensor A_logs, Tensor Ds, bool keep) -> (Tensor, Tensor)"
_BACKWARD = (
    "(Tensor dy, Tensor states, Tensor x, Tensor p, Tensor dt_w, Tensor dt_b, Tensor A_logs, Tensor Ds) -> "
    "(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)
_fragment = torch.library.Library(NAMESPACE, "FRAGMENT")


def define(name, forward, backward, schemas, outputs, kept):
    """Register a function and its gradient as ``contrast_arch::NAME`` and ``contrast_arch::NAME_backward``.

    Args:
        forward: gives its result, or that and what is kept for ``backward``, for which there is no gradient.
        backward: takes the gradient of the result, what ``kept`` says, and at last the inputs that are tensors; gives
            the gradients of the first of them, in their shapes and dtypes.
        schemas: of the two; tensors come before other inputs, and those that have a gradient before the rest.
        outputs: takes the inputs of ``forward``; gives shape and dtype of each output, or raises ValueError where the
            inputs do not fit. Called before either function: both trust the shapes, and a traced or exported network
            calls the operators with whatever size it is given.
        kept: which of the outputs ``backward`` takes, a slice.

    Returns:
        The first of the operators. Their autocast rule: inputs keep their dtypes, and nothing inside is narrowed.
    """
    tensors = schemas[0].split("->")[0].count("Tensor")
    gradients = schemas[1].split("->")[1].count("Tensor")

    def fake(*inputs):
        made = tuple(inputs[0].new_empty(shape, dtype=dtype) for shape, dtype in outputs(*inputs))
        return made if len(made) > 1 else made[0]

    def checked(*inputs):
        outputs(*inputs)
        return forward(*inputs)

    def checked_backward(dy, *given):
        shape = outputs(*given[-tensors:])[0][0]
        check_shapes(f"{name}_backward", {"dy": (dy, tuple(shape))})
        return backward(dy, *given)

    functions = {f"{NAMESPACE}::{name}": checked, f"{NAMESPACE}::{name}_backward": checked_backward}
    operators = [
        torch.library.custom_op(full_name, function, mutates_args=(), schema=schema)
        for (full_name, function), schema in zip(functions.items(), schemas, strict=True)
    ]
    operators[0].register_fake(fake)
    operators[1].register_fake(lambda *given: tuple(t.new_empty(t.shape) for t in given[-tensors:][:gradients]))
    for full_name, operator in zip(functions, operators, strict=True):
        for device_type, key in AUTOCAST_KEYS.items():

            def rule(*args, device_type=device_type, operator=operator):
                with torch.autocast(device_type, enabled=False):
                    return operator(*args)

            _fragment.impl(full_name, rule, key)

    def set_up(ctx, inputs, output):
        outputs = output if isinstance(output, tuple) else (output,)
        ctx.others = len(inputs) - gradients
        ctx.save_for_backward(*outputs[kept], *inputs[:tensors])
        ctx.set_materialize_grads(False)

    def gradient(ctx, dy, *_):
        without = (None,) * ctx.others
        if dy is None:
            return (None,) * gradients + without
        return (*operators[1](dy, *ctx.saved_tensors), *without)

    operators[0].register_autograd(gradient, setup_context=set_up)
    return operators[0]


def gather_bias(table: torch.Tensor, query_rows: torch.Tensor, key_rows: torch.Tensor) -> torch.Tensor:
    """Bias of every query and key: row key_rows[j] - query_rows[i] of the table, counted from its end below 0.

    Args:
        table: (M, rows).
        query_rows: (queries,) int64.
        key_rows: (keys,) int64.

    Returns:
        (M, queries, keys).
    """
    rows = _rows(table, query_rows, key_rows)
    # Half as long as with an index that PyTorch has to check.
    return table.index_select(1, rows.flatten()).view(len(table), *rows.shape)


def _rows(table, query_rows, key_rows):
    rows = key_rows - query_rows[:, None]
    return torch.where(rows < 0, rows + table.shape[1], rows)


def define_with_table(name, forward, backward, schemas, outputs, kept):
    """Register ``contrast_arch::NAME_table`` for an operator ``NAME`` whose last input is a bias (M, queries, keys).

    In place of the bias it takes the arguments of :func:`gather_bias`. Nothing of the size of the bias is kept for
    backward. Arguments as those of :func:`define`.
    """

    def gather(inputs):
        *others, table, query_rows, key_rows = inputs
        return others, gather_bias(table.to(compute_dtype(table)), query_rows, key_rows)

    def table_forward(*inputs):
        others, bias = gather(inputs)
        return forward(*others, bias)

    def table_backward(dy, *given):
        others, bias = gather(given)
        table = given[-3]
        *gradients, d_bias = backward(dy, *others, bias)
        d_table = bias.new_zeros(table.shape).index_add_(1, _rows(*given[-3:]).flatten(), d_bias.flatten(1))
        return *gradients, d_table.to(table.dtype)

    def table_outputs(*inputs):
        *others, table, query_rows, key_rows = inputs
        if (table.dim(), query_rows.dim(), key_rows.dim()) != (2, 1, 1):
            raise ValueError(
                f"{name}: table {tuple(table.shape)} must be (M, rows), query_rows {tuple(query_rows.shape)} "
                f"(queries,) and key_rows {tuple(key_rows.shape)} (keys,)"
            )
        return outputs(*others, table.new_empty(()).expand(len(table), len(query_rows), len(key_rows)))

    schemas = tuple(s.replace("Tensor bias", "Tensor table, Tensor query_rows, Tensor key_rows") for s in schemas)
    return define(f"{name}_table", table_forward, table_backward, schemas, table_outputs, kept)


def _define(name, backend):
    def outputs(x, p, dt_w, dt_b, A_logs, Ds, keep=False):
        check_ss2d(x, p, dt_w, dt_b, A_logs, Ds)
        dtype = compute_dtype(x, p, dt_w, dt_b, A_logs, Ds)
        shape = states_shape(x, A_logs, backend.count_chunks(x.shape[1] * x.shape[2])) if keep else (0,)
        return (x.shape, x.dtype), (shape, dtype)

    schemas = _FORWARD, _BACKWARD
    return define(f"ss2d_{name}", backend.forward, backend.backward, schemas, outputs, kept=slice(1, None))


_FAST = {"torch": cpu, "numba": numba, "triton": triton}
OPERATORS = {name: _define(name, backend) for name, backend in _FAST.items()}
