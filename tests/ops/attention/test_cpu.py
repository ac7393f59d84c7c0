"""OCAB's attention by the kernels of the CPU, against the definition in float64."""

import copy
import math

import pytest
import torch

from contrast_arch.layers.attention import OverlapAttention
from contrast_arch.layers.windows import relative_position_index, relative_position_rows
from contrast_arch.ops import IndexedBias, forced_backend
from contrast_arch.ops.attention import cpu, reference
from tests.ops.attention.inputs import gathered_rows
from tests.ops.ss2d.inputs import on, outputs_and_gradients, ss2d_inputs

SHAPES = [  # B, H, W, heads, head_dim, window, overlap
    (1, 16, 32, 6, 10, 16, 24),
    (2, 21, 14, 2, 5, 7, 9),
    (3, 8, 4, 3, 2, 4, 6),
    (2, 6, 9, 1, 1, 3, 3),
    (1, 2, 2, 2, 3, 1, 1),
    (1, 4, 4, 1, 4, 4, 8),  # most keys beyond the border
]


def inputs(shape, dtype=torch.float32, scale=1.0):
    batch, height, width, heads, dim, window, overlap = shape
    qkv = torch.randn(batch, height, width, 3 * heads * dim).to(dtype)
    bias = scale * torch.randn(heads, window**2, overlap**2)
    return [qkv.requires_grad_(), bias.requires_grad_()], torch.randn(batch, height, width, heads * dim).to(dtype)


def indexed(bias):
    return IndexedBias(bias.flatten(1), *gathered_rows(*bias.shape[1:]))


def overlap_attention(qkv, bias):
    """The kernels, for windows and heads as the gathered bias has them."""
    heads, *sides = bias.shape
    return cpu.overlap_attention(qkv, indexed(bias), heads, *(math.isqrt(count) for count in sides))


def definition(heads, window, overlap):
    return lambda qkv, bias: reference.overlap_attention(qkv, bias, heads, window, overlap)


def check(shape, tensors, weight, tolerance):
    wide = [t.detach().double().requires_grad_() for t in tensors]
    expected = outputs_and_gradients(definition(shape[3], *shape[-2:]), wide, weight)
    for a, b in zip(outputs_and_gradients(overlap_attention, tensors, weight), expected, strict=True):
        assert (a.double() - b).abs().max() <= tolerance * b.abs().max() + 1e-6


@pytest.mark.parametrize("shape, threads", [*zip(SHAPES, (2, 4, 2, 4, 1, 1), strict=True)], ids=str)
def test_is_the_plain_form_with_its_gradients(shape, threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        check(shape, *inputs(shape), 2e-6)
    finally:
        torch.set_num_threads(before)


def test_large_logits_do_not_overflow():
    check(SHAPES[1], *inputs(SHAPES[1], scale=200.0), 2e-4)


def test_without_bias():
    shape = SHAPES[1]
    (qkv, _), weight = inputs(shape)
    y = cpu.overlap_attention(qkv, None, *shape[3:4], *shape[-2:])
    expected = overlap_attention(qkv, torch.zeros(2, 49, 81).requires_grad_())
    assert torch.equal(y, expected)
    gradients = [torch.autograd.grad(out, qkv, weight)[0] for out in (y, expected)]
    assert torch.equal(*gradients)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype):
    """81 keys are no whole vectors: the bias is filled up, with a number that float16 does not have."""
    tensors, weight = inputs(SHAPES[1], dtype)
    for bias in (tensors[1], tensors[1].detach().to(dtype).requires_grad_()):
        half = outputs_and_gradients(overlap_attention, [tensors[0], bias], weight)
        wide = [t.detach().float().requires_grad_() for t in (tensors[0], bias)]
        full = outputs_and_gradients(overlap_attention, wide, weight)
        assert [t.dtype for t in half] == [dtype, dtype, bias.dtype]
        for a, b in zip(half, full, strict=True):
            # The gradient starts from the rounded output.
            torch.testing.assert_close(a.float(), b, rtol=4 * torch.finfo(dtype).eps, atol=4 * torch.finfo(dtype).eps)


WRONG = [
    ((1, 6, 8, 18), (2, 16, 36), "6x8 pixels are no whole windows of 4x4"),
    ((1, 8, 9, 18), (2, 16, 36), "8x9 pixels are no whole windows of 4x4"),
    ((1, 8, 8, 16), (2, 16, 36), r"qkv has 16 channels: expected a multiple of 3 \* 2 heads"),
    ((1, 8, 8, 18), (0, 16, 36), r"a multiple of 3 \* 0 heads"),
    ((1, 8, 8, 18), (2, 15, 36), r"query_rows has shape \(15,\), expected \(9,\)"),
    ((1, 8, 8, 18), (2, 16, 35), r"key_rows has shape \(35,\), expected \(25,\)"),
    ((1, 8, 8, 18), (2, 16, 4), "windows of 4x4 with keys from 2x2: expected keys that reach"),
    ((1, 8, 8, 18), (2, 16, 25), "windows of 4x4 with keys from 5x5: expected keys that reach"),
    ((8, 8, 18), (2, 16, 36), r"qkv \(8, 8, 18\) must be \(B, H, W, 3 \* M \* d\)"),
]


def test_wrong_inputs_are_named():
    """By the operators themselves: a traced network calls them with whatever size it is given."""
    operators = torch.ops.contrast_arch
    for qkv_shape, (heads, queries, keys), message in WRONG:
        tensors = torch.rand(qkv_shape), torch.rand(heads, queries * keys), *gathered_rows(queries, keys)
        for device in ("cpu", "meta"):
            with pytest.raises(ValueError, match=f"overlap_attention.*{message}"):
                operators.overlap_attention(*(t.to(device) for t in tensors))
        with pytest.raises(ValueError, match=message):
            operators.overlap_attention_backward(*tensors[:1] * 3, *tensors)
    with pytest.raises(ValueError, match="computes in float32 and an input is float64"):
        overlap_attention(torch.rand(1, 8, 8, 18).double(), torch.rand(2, 16, 36))
    (qkv, bias), weight = inputs(SHAPES[2])
    tensors = [t.detach() for t in (qkv, *indexed(bias))]
    y, sums = operators.overlap_attention(*tensors)
    with pytest.raises(ValueError, match=r"overlap_attention_backward: dy has shape \(2, 8, 4, 6\), expected"):
        operators.overlap_attention_backward(weight[1:], y, sums, *tensors)


@torch.no_grad()
def test_nan_goes_through():
    """Of a query, a key, or the bias."""
    (clean, bias), _ = inputs(SHAPES[2])
    expected = overlap_attention(clean, bias)
    for channel in (0, 6):
        qkv = clean.clone()
        qkv[0, 1, 1, channel] = float("nan")
        y = overlap_attention(qkv, bias)
        assert y[0].isnan().any() and torch.equal(y[1:], expected[1:])
    bias[0, 5, 2] = float("nan")
    assert overlap_attention(clean, bias)[0].isnan().any()


def test_empty():
    for size in ((0, 8, 8), (2, 0, 8)):
        qkv = torch.zeros(*size, 18, requires_grad=True)
        bias = torch.randn(2, 16, 36, requires_grad=True)
        y, *gradients = outputs_and_gradients(overlap_attention, [qkv, bias], torch.zeros(*size, 6))
        assert y.shape == (*size, 6)
        assert [g.shape for g in gradients] == [qkv.shape, bias.shape] and not gradients[1].any()


def test_defaults_of_pytorch_do_not_matter():
    """float64 as the default dtype; the meta device as the default device."""
    shape = SHAPES[2]
    tensors, weight = inputs(shape)
    step = torch.ones(1, 5, 4, 3)
    scan = ss2d_inputs((1, 5, 4, 3, 1, 2), torch.float32)
    expected = outputs_and_gradients(overlap_attention, tensors, weight), outputs_and_gradients(on("cpu"), scan, step)
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            got = (
                outputs_and_gradients(overlap_attention, tensors, weight),
                outputs_and_gradients(on("cpu"), scan, step),
            )
    finally:
        torch.set_default_dtype(torch.float32)
    for one, other in zip(got, expected, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_not_contiguous():
    shape = SHAPES[1]
    (qkv, bias), weight = inputs(shape)
    strided = qkv.detach().permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0).requires_grad_()
    transposed = bias.detach().transpose(1, 2).contiguous().transpose(1, 2).requires_grad_()
    for a, b in zip(
        outputs_and_gradients(overlap_attention, [strided, transposed], weight.mT.contiguous().mT),
        outputs_and_gradients(overlap_attention, [qkv, bias], weight),
        strict=True,
    ):
        assert torch.equal(a, b)


def test_operators_pass_opcheck():
    (qkv, _), _ = inputs(SHAPES[2])
    tensors = qkv, torch.randn(3, 81, requires_grad=True), *relative_position_rows(4, 6)
    operator = torch.ops.contrast_arch.overlap_attention
    torch.library.opcheck(operator, tensors)
    fixed = [t.detach() for t in tensors]
    y, sums = operator(*fixed)
    checks = ("test_schema", "test_faketensor")
    torch.library.opcheck(torch.ops.contrast_arch.overlap_attention_backward, (y, y, sums, *fixed), test_utils=checks)
    with pytest.raises(ValueError, match=r"overlap_attention: table \(81,\) must be \(M, rows\), query_rows \(16,\)"):
        operator(qkv, tensors[1][0], *tensors[2:])


@pytest.mark.parametrize("shape, aligned", [(SHAPES[1], True), (SHAPES[2], False), (SHAPES[3], True)], ids=str)
def test_bias_of_a_table(shape, aligned):
    """Values and gradients are those of a bias that autograd gathers; in half precision of the table too."""
    *_, heads, _, window, overlap = shape
    (qkv, _), weight = inputs(shape)
    rows, index = relative_position_rows(window, overlap, aligned), relative_position_index(window, overlap, aligned)
    table = torch.randn(heads, (window + overlap - 1) ** 2, requires_grad=True)

    def of_table(qkv, table):
        return cpu.overlap_attention(qkv, IndexedBias(table, *rows), heads, window, overlap)

    for a, b in zip(
        outputs_and_gradients(of_table, [qkv, table], weight),
        outputs_and_gradients(lambda qkv, table: overlap_attention(qkv, table[:, index]), [qkv, table], weight),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    half = table.detach().bfloat16().requires_grad_()
    y, _, d_table = outputs_and_gradients(of_table, [qkv, half], weight)
    assert y.dtype == torch.float32 and d_table.dtype == torch.bfloat16


@pytest.mark.parametrize("backend", ["cpu", "torch"])
def test_ocab_keeps_neither_weights_nor_bias(backend, monkeypatch):
    """At windows of 32 the weights of a head and window take 9 MiB, the bias of a head as much; all that is kept, 3."""
    monkeypatch.setenv("CONTRAST_ARCH_BACKEND", backend)
    ocab = OverlapAttention(8, 32, 0.5, 2, torch.nn.LayerNorm, torch.nn.Identity(), position_bias="computed")
    x, kept = torch.randn(1, 32, 32, 8), {}

    def keep(tensor):
        kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        ocab(x)
    assert max(t.untyped_storage().nbytes() for t in kept.values()) < 2**20
    assert sum(t.untyped_storage().nbytes() for t in kept.values()) < 3 * 2**20


@pytest.mark.parametrize(
    "dtype, backend, aligned", [("float32", "cpu", True), ("float32", "torch", False), ("float64", None, True)]
)
def test_computed_bias_has_the_gradient_of_the_plain_form(dtype, backend, aligned, monkeypatch):
    """Down to the network that computes it, against float64."""
    if backend is not None:
        monkeypatch.setenv("CONTRAST_ARCH_BACKEND", backend)
    ocab = OverlapAttention(
        12, 8, 0.5, 2, torch.nn.LayerNorm, torch.nn.Identity(), position_bias="computed", aligned=aligned
    )
    for parameter in ocab.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    x, weight = torch.randn(2, 8, 16, 12), torch.randn(2, 8, 16, 12)
    exact = copy.deepcopy(ocab).double()
    with forced_backend("reference"):
        expected = torch.autograd.grad(exact(x.double()), [*exact.parameters()], weight.double())
    dtype = getattr(torch, dtype)
    ocab.to(dtype)
    got = torch.autograd.grad(ocab(x.to(dtype)), [*ocab.parameters()], weight.to(dtype))
    tolerance = 1e-12 if dtype == torch.float64 else 2e-5
    for (name, _), a, b in zip(ocab.named_parameters(), got, expected, strict=True):
        assert b.any() or name == "cpb_mlp.pos3.2.bias", name
        assert (a.double() - b).abs().max() <= tolerance * max(1, b.abs().max()), name
