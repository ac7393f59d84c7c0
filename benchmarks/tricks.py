"""The special paths of the CPU that exist for speed or memory alone, and how each is switched off for a measurement.

A trick is switched off by patching the package for a while; the package has no switches for it. Its price is the
number of lines that would go with it, counted in the sources.
"""

import ast
import contextlib
import functools
import inspect
import textwrap
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import contrast_arch
from contrast_arch import ops
from contrast_arch.archs.blocks import Block
from contrast_arch.layers import mlp, ss2d
from contrast_arch.ops import simd
from contrast_arch.ops.attention import cpu as attention_cpu
from contrast_arch.ops.attention import torch as attention_torch
from contrast_arch.ops.ss2d import cpu as ss2d_cpu
from contrast_arch.ops.ss2d import torch as ss2d_torch
from contrast_arch.ops.ss2d.reference import DIRECTIONS

PACKAGE = Path(contrast_arch.__file__).parent
NO_LIMIT = 1 << 62


class Case(NamedTuple):
    """Measurement in which a trick may show.

    Args:
        network: a class of ours, or the name in the file name of a shipped option file.
        kind: "step" or "inference".
        batch, size: images, and the side of one.
        threads: those of PyTorch.
        base: name of a trick that is off on both sides, "" for none.
    """

    network: str
    kind: str
    batch: int
    size: int
    threads: int
    base: str = ""

    def __str__(self):
        base = f", without {self.base}" if self.base else ""
        return f"{self.network}, {self.kind}, {self.batch} of {self.size}x{self.size}, {self.threads} threads{base}"


def cases(networks, kinds=("step", "inference"), batches=(1, 8), size=64, counts=(1, 2), base="") -> list[Case]:
    """Make the cases of all networks (names with spaces between), kinds, batches and numbers of threads."""
    return [
        Case(network, kind, batch, size, count, base)
        for network in networks.split()
        for batch in batches
        for kind in kinds
        for count in counts
    ]


@dataclass(frozen=True)
class Trick:
    """A special path.

    Args:
        name: in the tables.
        instead: what stands in its place where it is off.
        off: makes a context in which it is off.
        price: see :func:`count_lines`.
        cases: where it is measured.
    """

    name: str
    instead: str
    off: Callable[[], AbstractContextManager]
    price: tuple[str, ...]
    cases: list[Case]


@contextlib.contextmanager
def without(*names: str) -> Iterator[None]:
    """Switch tricks off for a while."""
    with contextlib.ExitStack() as stack:
        for name in names:
            stack.enter_context(TRICKS[name].off())
        yield


@contextlib.contextmanager
def replaced(*changes: tuple) -> Iterator[None]:
    """Replace attributes for a while: (owner, name, value), or (owner, name, old text, new text) of its source."""
    with contextlib.ExitStack() as stack:
        for owner, name, *value in changes:
            value = value[0] if len(value) == 1 else _rewritten(getattr(owner, name), *value)
            stack.enter_context(mock.patch.object(owner, name, value))
        yield


@functools.cache
def _rewritten(function, old, new):
    """Compile a function with a piece of its source replaced."""
    source = textwrap.dedent(inspect.getsource(function))
    if source.count(old) != 1:
        raise ValueError(
            f"{function.__qualname__} holds {old!r} {source.count(old)} times, expected 1: mend {__file__}"
        )
    made = {}
    exec(compile(source.replace(old, new), inspect.getfile(function), "exec"), function.__globals__, made)  # noqa: S102 (of this package)
    return made[function.__name__]


def count_lines(price: tuple[str, ...]) -> int:
    """Count non-blank lines of FILE (below the package), of FILE:FUNCTION, or of FILE that hold a word (FILE~WORD).

    Raises:
        ValueError: a part that is not there.
    """
    found = 0
    for part in price:
        name, _, function = part.partition(":")
        name, _, word = name.partition("~")
        text = (PACKAGE / name).read_text()
        if function:
            text = _source_of(ast.parse(text), function.split("."), text)
        lines = [line for line in text.splitlines() if line.strip() and word in line]
        if not lines:
            raise ValueError(f"{part}: not there: mend {__file__}")
        found += len(lines)
    return found


def _source_of(tree, path, text):
    for name in path:
        tree = next((node for node in tree.body if getattr(node, "name", None) == name), None)
        if tree is None:
            return ""
    return ast.get_source_segment(text, tree)


def _whole(function, x, *_, **__):
    """In place of chunks and bands."""
    return function(x)


INFERENCE, STEP = ("inference",), ("step",)
BOTH = "Contrast ContrastNoPE"
SCAN, ATTENTION = "scan kernels", "attention kernels"

_tricks = [
    Trick(
        SCAN,
        "SS2D in plain PyTorch",
        partial(ops.forced_backend, "ss2d=torch"),
        ("ops/ss2d/cpu.py", "ops/ss2d/cpu_kernels.py"),
        cases(BOTH),
    ),
    Trick(
        ATTENTION,
        "OCAB's attention in PyTorch",
        partial(ops.forced_backend, "overlap_attention=torch"),
        ("ops/attention/cpu.py", "ops/attention/cpu_kernels.py"),
        cases(BOTH),
    ),
    Trick(
        "one window at a time",
        "PyTorch's attention, the weights kept for backward",
        lambda: replaced((attention_torch, "wants_windows", lambda *_: False)),
        ("ops/attention/by_window.py", "ops/attention/torch.py:wants_windows"),
        cases("HATLight", STEP, counts=(2,)) + cases("Contrast", STEP, counts=(2,), base=ATTENTION),
    ),
    Trick(
        "windows as heads",
        "the bias of shifted windows repeated for each image",
        lambda: replaced(
            (
                attention_torch,
                "attend_fused",
                "merged, apart = (1, 2), (windows, heads)\n"
                "    if bias is not None:\n"
                "        bias = bias.to(q.dtype).reshape(1, -1, *bias.shape[-2:])",
                "bias = bias.repeat(batch, 1, 1, 1)\n"
                "    if bias is not None:\n"
                "        bias = bias.to(q.dtype) if mask is not None else bias.to(q.dtype)[None]",
            )
        ),
        ("ops/attention/torch.py~merged",),
        cases("HATLight", INFERENCE, (8,), counts=(2,)),
    ),
    Trick(
        "images shared out among threads",
        "heads shared out, and every image on its own",
        lambda: replaced((attention_cpu, "_groups", lambda batch, heads: batch)),
        ("ops/attention/cpu.py:_groups",),
        cases("Contrast", batches=(8,)),
    ),
    Trick(
        "groups of directions",
        "every direction into memory of its own",
        lambda: replaced((ss2d_cpu, "_groups", lambda images: DIRECTIONS)),
        ("ops/ss2d/cpu.py:_groups",),
        cases("Contrast"),
    ),
    Trick(
        "no states without a gradient",
        "the states of the scan written in inference",
        lambda: replaced(
            (ss2d, "ss2d_scan", "torch.is_grad_enabled() and any(t.requires_grad for t in inputs) and not ", "not ")
        ),
        ("ops/__init__.py~keep",),
        cases("Contrast", INFERENCE, counts=(2,)),
    ),
    Trick(
        "PyTorch's threads",
        "a pool of threads of our own",
        lambda: replaced((simd, "_openmp", lambda: None)),
        tuple(f"ops/simd/__init__.py{part}" for part in (":_openmp", "~_openmp()", "~_BODY =")),
        cases("Contrast", counts=(2,)),
    ),
    Trick(
        "pixels contiguous after the depthwise convolution",
        "as PyTorch gives them",
        lambda: replaced((ss2d.SS2D, "forward", "depthwise(self.conv2d, x).contiguous()", "depthwise(self.conv2d, x)")),
        ("layers/ss2d.py~one copy here",),
        cases("Contrast"),
    ),
    Trick(
        "sums in place",
        "new memory for the sums of a block",
        lambda: replaced(
            (
                Block,
                "forward",
                "mixed.add_(self.conv_block(normed), alpha=self.conv_scale)\n"
                "    x = mixed.add_(x) if mixed.dtype == x.dtype else mixed + x",
                "mixed + self.conv_scale * self.conv_block(normed)\n    x = mixed + x",
            ),
        ),
        ("archs/blocks.py~add_",),
        cases("Contrast"),
    ),
    Trick(
        "chunks of tokens",
        "all tokens at once",
        lambda: replaced((mlp, "pointwise_in_chunks", _whole), (ss2d, "pointwise_in_chunks", _whole)),
        (
            "layers/tokens.py:pointwise_in_chunks",
            "layers/tokens.py:_in_chunks",
            "layers/ss2d.py~pointwise_in_chunks",
            "layers/mlp.py~pointwise_in_chunks",
        ),
        cases("Contrast", INFERENCE, (8,)) + cases("Contrast", INFERENCE, (1,), 256, (2,)),
    ),
    Trick(
        "bands of rows",
        "all rows at once",
        lambda: replaced((mlp, "in_bands", _whole)),
        ("layers/tokens.py:in_bands", "layers/mlp.py~in_bands"),
        cases("ContrastV2_light", INFERENCE, (1,), 256, (2,)),
    ),
    Trick(
        "small images together",
        "one image after the other",
        lambda: replaced((ss2d_torch, "_IMAGES_TOGETHER_LIMIT", 0)),
        ("ops/ss2d/torch.py~_IMAGES_TOGETHER_LIMIT",),
        cases("Contrast", batches=(8,), size=32, counts=(2,), base=SCAN),
    ),
    Trick(
        "images apart",
        "the whole batch at once",
        lambda: replaced((ss2d_torch, "_IMAGES_TOGETHER_LIMIT", NO_LIMIT)),
        ("ops/ss2d/torch.py:_by_blocks",),
        cases("Contrast", batches=(8,), counts=(2,), base=SCAN),
    ),
]
TRICKS = {trick.name: trick for trick in _tricks}
# All kernels of the CPU stand on these; no variant does without.
SHARED = {"ops/simd": ("ops/simd/__init__.py", "ops/simd/vectors.py")}
SHARED["ops/simd/vectors.py"] = ("ops/simd/vectors.py",)
