"""The keys that ContrastModel adds to an option file. BasicSR's SRModel ignores them."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch

from contrast_arch.errors import InputError

OURS = "ContrastModel"
AMP = {"bf16": torch.bfloat16, "fp16": torch.float16}
COMPILE_MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")
# Those that replay CUDA graphs.
CUDA_GRAPH_MODES = ("reduce-overhead", "max-autotune")


class Key(NamedTuple):
    """A key of ContrastModel.

    Attributes:
        default: what holds where the option file does not have the key, or has ``~``.
        fits: whether a value is allowed.
        expected: what is allowed, as an error message says it.
    """

    default: Any
    fits: Callable[[Any], bool]
    expected: str


def _whole(lowest):
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= lowest


def _flag(value):
    return isinstance(value, bool)


def _above_zero(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < float("inf")


KEYS = {
    ("train", "amp"): Key(None, lambda value: value in tuple(AMP), " or ".join(AMP)),
    ("train", "compile"): Key(
        False,
        lambda value: _flag(value) or value in COMPILE_MODES,
        f"true, false or a mode of torch.compile ({', '.join(COMPILE_MODES)})",
    ),
    ("train", "accumulate"): Key(1, _whole(1), "a whole number of micro-batches, 1 or more"),
    ("train", "clip_grad_norm"): Key(None, _above_zero, "a number above 0"),
    ("train", "channels_last"): Key(False, _flag, "true or false"),
    ("train", "max_nonfinite"): Key(
        10, _whole(0), "a whole number of iterations in a row, 0 for no look at losses and gradients"
    ),
    ("train", "handle_signals"): Key(True, _flag, "true or false"),
    ("logger", "atomic_save"): Key(True, _flag, "true or false"),
    ("logger", "keep_last"): Key(None, _whole(1), "a whole number of states, 1 or more"),
    ("logger", "save_format"): Key("pth", lambda value: value in ("pth", "safetensors"), "pth or safetensors"),
    ("datasets", "train", "skip_unreadable"): Key(False, _flag, "true or false"),
    ("val", "tile", "size"): Key(None, _whole(1), "a whole number of LQ pixels, a multiple of window_size"),
    ("val", "tile", "overlap"): Key(
        None, _whole(0), "a whole number of LQ pixels, a multiple of window_size, at most half of size"
    ),
}


def setting(opt: dict, *path: str) -> Any:
    """The value of a key of ContrastModel, its default where the options do not have it.

    Args:
        opt: options as BasicSR reads them.
        path: sections and name, one of ``KEYS``: ``setting(opt, "train", "amp")``.
    """
    value = _given(opt, path)
    return KEYS[path].default if value is None else value


def micro_batches(opt: dict) -> int:
    """How many of a process make an iteration; 1 for models that do not accumulate.

    Args:
        opt: options as BasicSR reads them.
    """
    return setting(opt, "train", "accumulate") if opt.get("model_type") == OURS else 1


def _given(opt, path):
    for key in path:
        opt = opt.get(key) if isinstance(opt, dict) else None
    return opt


def setting_problems(opt: dict) -> Iterator[tuple[tuple[str, ...], str]]:
    """Values of ContrastModel's keys that cannot be used: the path of the key, and what is wrong with it.

    Args:
        opt: options as BasicSR reads them.
    """
    for path, key in KEYS.items():
        value = _given(opt, path)
        if value is not None and not key.fits(value):
            yield path, f"{': '.join(path)}: {value!r}: expected {key.expected}"
    tile = _given(opt, ("val", "tile"))
    if tile is not None and _given(opt, ("val", "tile", "size")) is None:
        yield ("val", "tile"), f"val: tile: {tile!r}: expected a size, such as {{size: 128, overlap: 32}}"
    mode, count = (_given(opt, ("train", key)) for key in ("compile", "accumulate"))
    if mode in CUDA_GRAPH_MODES and _whole(2)(count):
        yield (
            ("train", "compile"),
            f"train: compile: {mode}: expected accumulate: 1, not {count}: a CUDA graph overwrites the gradients of "
            "the micro-batch before; write compile: true, or a larger batch_size_per_gpu and no accumulate",
        )


def check_settings(opt: dict) -> None:
    """See that the values of ContrastModel's keys can be used.

    Raises:
        InputError: all that is wrong, a line each.
    """
    problems = [message for _, message in setting_problems(opt)]
    if problems:
        raise InputError("\n".join(problems))
