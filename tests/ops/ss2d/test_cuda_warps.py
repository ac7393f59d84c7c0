"""The warps of the Triton kernels are measured once and stay; GPU and times are made up."""

import pytest
import torch

from contrast_arch.ops.ss2d import cuda_warps
from contrast_arch.ops.ss2d.cuda_warps import choose_warps

pytest.importorskip("triton")
GPU = torch.device("cuda", 0)
SHAPE = (60, 4, 1, torch.float32)


class Machine:
    """Seconds of each choice, what the passes give with it, and how often it was measured."""

    def __init__(self):
        self.seconds = {4: 3.0, 2: 1.0, 1: 2.0}
        self.results = dict.fromkeys((4, 2, 1), 1.0)
        self.measured = 0

    def prepare(self):
        self.measured += 1
        return lambda warps: [torch.tensor([self.results[warps]])]

    def choose(self, shape=SHAPE, device=GPU):
        return choose_warps(device, shape, self.prepare)


@pytest.fixture
def machine(monkeypatch, tmp_path):
    made = Machine()
    monkeypatch.delenv(cuda_warps.ENVIRONMENT, raising=False)
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "GPU")
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(cuda_warps, "_seconds", lambda run, warps: made.seconds[warps])
    monkeypatch.setattr(cuda_warps, "_chosen", {})
    return made


def test_the_fastest_is_measured_once_and_kept(machine, monkeypatch):
    assert [machine.choose() for _ in range(2)] == [2, 2] and machine.measured == 1
    machine.seconds[1] = 0.5
    cuda_warps._chosen.clear()  # as in another process
    assert machine.choose() == machine.choose(device=torch.device("cuda", 1)) == 2 and machine.measured == 1
    assert machine.choose((120, 4, 1, torch.float32)) == 1 and machine.measured == 2
    cuda_warps._chosen.clear()
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "another GPU")
    assert machine.choose() == 1 and machine.measured == 3


def test_the_first_process_to_write_decides(machine):
    """Processes of one training start together, and measure together."""
    slower, others = machine.seconds[1], []

    def prepare():
        machine.seconds[1] = 0.5
        others.append(machine.choose())
        machine.seconds[1] = slower
        return machine.prepare()

    assert choose_warps(GPU, SHAPE, prepare) == 1 and others == [1]


def test_other_results_than_those_of_the_shipped_one_are_not_chosen(machine):
    machine.results |= {2: 1.001, 1: 1.000001}
    assert machine.choose() == 1


@pytest.mark.parametrize("fault", ["memory", "folder"])
def test_what_cannot_be_measured_or_kept_is_the_shipped_one(machine, monkeypatch, tmp_path, caplog, fault):
    if fault == "memory":

        def prepare():
            raise torch.OutOfMemoryError("CUDA out of memory")

        monkeypatch.setattr(machine, "prepare", prepare)
    else:
        (tmp_path / "file").touch()
        monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "file" / "cache"))
    assert [machine.choose() for _ in range(2)] == [4, 4]
    (warning,) = caplog.messages
    assert warning.startswith("ss2d on cuda:0: 4 warps, which were not measured: ")


def test_where_nothing_is_measured(machine, monkeypatch):
    """While a graph is captured, with deterministic algorithms, and where the environment names a choice."""
    for owner, name in ((torch.cuda, "is_current_stream_capturing"), (torch, "are_deterministic_algorithms_enabled")):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, lambda: True)
            assert machine.choose() == 4
    with monkeypatch.context() as patch:
        patch.setenv(cuda_warps.ENVIRONMENT, "1")
        assert machine.choose() == 1
        patch.setenv(cuda_warps.ENVIRONMENT, "3")
        with pytest.raises(ValueError, match=r"CONTRAST_ARCH_WARPS=3: expected one of \(4, 2, 1\); unset it to me"):
            machine.choose()
    assert not machine.measured and machine.choose() == 2
