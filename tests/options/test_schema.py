"""Settings of ContrastModel and contrast-train."""

import pytest

from contrast_arch.errors import InputError
from contrast_arch.options.schema import COMPILE_MODES
from contrast_arch.options.validation import OWN, allowed, micro_batches, schema_of, settings_of
from tests.check.conftest import edited


def value_at(settings, path):
    for key in path:
        settings = getattr(settings, key)
    return settings


GOOD = {
    ("train", "amp"): ["bf16", "fp16"],
    ("train", "compile"): [True, False, "default", "max-autotune"],
    ("train", "accumulate"): [1, 8],
    ("train", "clip_grad_norm"): [0.5, 1],
    ("train", "channels_last"): [True],
    ("train", "max_nonfinite"): [1, 3],
    ("train", "max_hours"): [0.5, 24],
    ("train", "requeue"): [True],
    ("train", "watchdog_minutes"): [0, 2.5],
    ("logger", "keep_last"): [1, 20],
    ("logger", "save_format"): ["pth", "safetensors"],
    ("datasets", "train", "skip_unreadable"): [True],
    ("val", "tile", "size"): [16, 512],
}
BAD = {
    ("train", "amp"): ["fp32", True, 16],
    ("train", "compile"): ["fast", 1],
    ("train", "accumulate"): [0, 1.5, True, "2"],
    ("train", "clip_grad_norm"): [0, -1, float("inf"), float("nan"), "1e-2", True],
    ("train", "channels_last"): [1, "yes"],
    ("train", "max_nonfinite"): [0, 2.5],
    ("train", "max_hours"): [0, -1, "12:00", True],
    ("train", "requeue"): ["no"],
    ("train", "watchdog_minutes"): [-1, 525_601, float("nan"), True],
    ("logger", "keep_last"): [0, -2, 1.0],
    ("logger", "save_format"): ["pt", True],
    ("datasets", "train", "skip_unreadable"): [1],
    ("val", "tile", "size"): [0, 12.5, "64"],
}


@pytest.mark.parametrize("path", GOOD, ids=": ".join)
def test_values(path):
    for value in GOOD[path]:
        assert value_at(settings_of(edited({}, {path: value})), path) == value
    for value in BAD[path]:
        message = f"{': '.join(path)}: {value!r}: expected {allowed(schema_of(path))}"
        with pytest.raises(InputError) as failure:
            settings_of(edited({}, {path: value}))
        assert str(failure.value) == message


def test_the_defaults():
    """For options that are not there, and for ``~``."""
    for opt in ({}, {"train": None, "val": None}, {"train": dict.fromkeys(settings_of({}).train.model_dump())}):
        settings = settings_of(opt)
        own = {
            "amp": None,
            "accumulate": 1,
            "compile": False,
            "clip_grad_norm": None,
            "channels_last": False,
            "max_nonfinite": 10,
            "max_hours": None,
            "requeue": False,
            "watchdog_minutes": None,
        }
        assert own.items() <= settings.train.model_dump().items()
        assert settings.val.tile is None and settings.datasets.train.skip_unreadable is False
        logger = settings.logger
        assert (logger.keep_last, logger.save_format) == (None, "pth")


def test_what_is_not_read():
    """Keys of projects and of BasicSR, and ContrastModel's with SRModel."""
    nothing = settings_of({})
    assert settings_of({"extra": 1, "train": {"extra": 1, "total_iter": 0}, "val": {"val_freq": 0}}) == nothing
    assert settings_of({"train": 5, "datasets": {"train": {"dataroot_gt": [1]}, "val": 5}}) == nothing
    assert settings_of({"model_type": "SRModel", "train": {"amp": "fp8", "accumulate": 2}}) == nothing
    # A section of ContrastModel as well.
    assert settings_of({"model_type": "SRModel", "val": {"tile": {"size": 8, "overlap": 1.5}}}) == nothing
    with pytest.raises(InputError, match=r"^train: max_hours: 0"):
        settings_of({"model_type": "SRModel", "train": {"max_hours": 0}})


def test_micro_batches():
    accumulate = {"train": {"accumulate": 4}}
    assert micro_batches(accumulate | {"model_type": "ContrastModel"}) == 4
    assert micro_batches(accumulate | {"model_type": "SRModel"}) == micro_batches(accumulate) == 1


GRAPHS = "expected accumulate: 1, not 2: a CUDA graph overwrites the gradients of the micro-batch before; write"


@pytest.mark.parametrize(
    "opt, messages",
    [
        ({"val": {"tile": {"overlap": 16}}}, ["val: tile: size: None: expected a whole number of LQ pixels, a"]),
        ({"val": {"tile": 64}}, ["val: tile: 64: expected keys of its own, indented below it"]),
        (
            {"train": {"amp": "fp32", "accumulate": 0}, "logger": {"keep_last": 0}},
            ["train: amp: 'fp32': expected", "train: accumulate: 0: expected", "logger: keep_last: 0: expected"],
        ),
        *[
            ({"train": {"compile": mode, "accumulate": 2}}, [f"train: compile: '{mode}': {GRAPHS}"] if graph else [])
            for mode, graph in zip(COMPILE_MODES, (False, True, True, False), strict=True)
        ],
    ],
)
def test_all_that_does_not_go_together(opt, messages):
    try:
        settings_of(opt)
        found = []
    except InputError as failure:
        found = str(failure).splitlines()
    assert len(found) == len(messages)
    assert all(line.startswith(message) for line, message in zip(found, messages, strict=True))


def test_every_key_is_tested():
    assert set(GOOD) == set(BAD) == set(OWN) - {("val", "tile"), ("imports",)} | {("val", "tile", "size")}
