"""Choice of a backend: by the call, by the environment, and by the device."""

import logging

import pytest
import torch

from contrast_arch import ops
from contrast_arch.cli import main
from contrast_arch.ops import dispatch

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _anew(monkeypatch):
    monkeypatch.delenv(ops.ENVIRONMENT, raising=False)
    dispatch._chosen.cache_clear()
    yield
    dispatch._chosen.cache_clear()


def chosen(dtype=torch.float32, backend=None):
    x = torch.empty(1, dtype=dtype)
    names = dict.fromkeys(ops.BACKENDS) | {"ss2d": backend}
    return {operator: ops.chosen_backend(operator, x, backend=name) for operator, name in names.items()}


def of(ss2d, window_attention, overlap_attention):
    return {"ss2d": ss2d, "window_attention": window_attention, "overlap_attention": overlap_attention}


FASTEST = of("cpu", "torch", "cpu")


@pytest.mark.parametrize(
    "value, expected",
    [
        (None, FASTEST),
        ("", FASTEST),
        ("torch", of("torch", "torch", "torch")),
        ("reference", of("reference", "reference", "reference")),
        ("cpu", FASTEST),
        ("overlap_attention=torch", FASTEST | {"overlap_attention": "torch"}),
        ("torch,overlap_attention=reference", of("torch", "torch", "reference")),
        ("ss2d=torch,overlap_attention=cpu", of("torch", "torch", "cpu")),
    ],
)
def test_environment(monkeypatch, value, expected):
    if value is not None:
        monkeypatch.setenv(ops.ENVIRONMENT, value)
    assert chosen() == expected
    assert chosen(backend="torch") == expected | {"ss2d": "torch"}
    ops.check_environment(CPU)


@pytest.mark.parametrize("value", ["numba", "ss2d=xpu", "scan=torch", "window_attention=cpu", "torch;ss2d=cpu"])
def test_unknown_names(monkeypatch, value):
    monkeypatch.setenv(ops.ENVIRONMENT, value)
    message = rf"^CONTRAST_ARCH_BACKEND={value}: .*: expected a backend or OPERATOR=BACKEND \(ss2d: reference, torch,"
    for call in (chosen, lambda: ops.check_environment(CPU)):
        with pytest.raises(ValueError, match=message):
            call()


def test_forced_backends_are_of_a_while(monkeypatch):
    monkeypatch.setenv(ops.ENVIRONMENT, "cpu")
    with pytest.raises(KeyError), ops.forced_backend("reference"):
        assert chosen() == of("reference", "reference", "reference")
        raise KeyError
    assert chosen() == FASTEST


def test_float64_is_said_and_no_warning(caplog):
    caplog.set_level(logging.INFO)
    assert chosen(torch.float64) == of("torch", "torch", "torch")
    assert "ss2d on cpu: backend torch (float64)" in caplog.text
    reason = "runs in plain PyTorch, slower: backend cpu is not used because it computes in float32 and an input is"
    assert f"overlap_attention on cpu {reason} float64" in caplog.text
    assert all(record.levelno == logging.INFO for record in caplog.records)


def test_one_line_for_each_operator_and_device(caplog):
    caplog.set_level(logging.INFO)
    for _ in range(3):
        ops.choose_all(CPU)
    lines = [record.getMessage() for record in caplog.records if "backend" in record.getMessage()]
    assert lines == [f"{operator} on cpu: backend {name}" for operator, name in FASTEST.items()]


def test_warmup(caplog):
    caplog.set_level(logging.INFO)
    assert main(["warmup"]) == 0
    assert all(f"{operator} on cpu: backend {name}" in caplog.text for operator, name in FASTEST.items())


def test_a_new_backend_is_one_line(monkeypatch):
    """A module with the operator's function; taken where it is named after the device."""

    class Meta:
        @staticmethod
        def window_attention(qkv, bias, heads, window_size, shift):
            return "attended"

    monkeypatch.setitem(ops.BACKENDS["window_attention"], "meta", Meta)
    qkv = torch.empty(1, 4, 4, 6, device="meta")
    assert ops.window_attention(qkv, None, 1, 4) == "attended"
