import pytest

from contrast_arch.errors import InputError
from contrast_arch.models.settings import COMPILE_MODES, KEYS, check_settings, setting, setting_problems
from tests.conftest import ROOT


def options(path, value):
    for key in reversed(path):
        value = {key: value}
    return value


GOOD = {
    ("train", "amp"): ["bf16", "fp16"],
    ("train", "compile"): [True, False, "default", "max-autotune"],
    ("train", "accumulate"): [1, 8],
    ("train", "clip_grad_norm"): [0.5, 1],
    ("train", "channels_last"): [True],
    ("train", "max_nonfinite"): [0, 3],
    ("train", "handle_signals"): [False],
    ("logger", "atomic_save"): [False],
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
    ("train", "max_nonfinite"): [-1, 2.5],
    ("train", "handle_signals"): ["no"],
    ("logger", "atomic_save"): [0],
    ("logger", "keep_last"): [0, -2, 1.0],
    ("logger", "save_format"): ["pt", True],
    ("datasets", "train", "skip_unreadable"): [1],
    ("val", "tile", "size"): [0, 12.5, "64"],
}


@pytest.mark.parametrize("path", GOOD, ids=": ".join)
def test_values(path):
    assert setting({}, *path) == setting(options(path, None), *path) == KEYS[path].default
    for value in GOOD[path]:
        assert list(setting_problems(options(path, value))) == []
        assert setting(options(path, value), *path) == value
    for value in BAD[path]:
        message = f"{': '.join(path)}: {value!r}: expected {KEYS[path].expected}"
        assert (path, message) in list(setting_problems(options(path, value)))
        with pytest.raises(InputError):
            check_settings(options(path, value))


def test_a_tile_has_a_size():
    assert list(setting_problems({"val": {"tile": {"size": 64, "overlap": 16}}})) == []
    expected = "val: tile: {'overlap': 16}: expected a size, such as {size: 128, overlap: 32}"
    assert list(setting_problems({"val": {"tile": {"overlap": 16}}})) == [(("val", "tile"), expected)]
    assert [path for path, _ in setting_problems({"val": {"tile": 64}})] == [("val", "tile")]


@pytest.mark.parametrize("mode", COMPILE_MODES)
def test_cuda_graphs_do_not_accumulate(mode):
    opt = {"train": {"compile": mode, "accumulate": 2}}
    found = list(setting_problems(opt))
    if mode in ("reduce-overhead", "max-autotune"):
        assert [path for path, _ in found] == [("train", "compile")]
        with pytest.raises(
            InputError, match=f"^train: compile: {mode}: expected accumulate: 1, not 2: .*compile: true"
        ):
            check_settings(opt)
    else:
        assert found == []
    assert list(setting_problems({"train": {"compile": mode, "accumulate": 1}})) == []


def test_all_that_is_wrong_is_said_at_once():
    with pytest.raises(InputError) as failure:
        check_settings({"train": {"amp": "fp32", "accumulate": 0}, "logger": {"keep_last": 0}})
    assert [line.split(": ")[1] for line in str(failure.value).splitlines()] == ["amp", "accumulate", "keep_last"]


def test_every_key_is_tested_and_documented():
    text = (ROOT / "docs" / "training.md").read_text()
    overlap = ("val", "tile", "overlap")
    assert set(GOOD) == set(BAD) == set(KEYS) - {overlap}
    for path in GOOD:
        row = "val: tile" if path[0] == "val" else ": ".join(path)
        assert f"| `{row}` |" in text, row
