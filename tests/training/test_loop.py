"""The loop in this process: it is BasicSR's, it can be cut anywhere, and it says what it does."""

import errno
import logging
import os
import re
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from basicsr import train as basicsr_train
from basicsr.data.data_sampler import EnlargedSampler

from contrast_arch.errors import TrainingStopped
from contrast_arch.models import checkpoints
from contrast_arch.models.checkpoints import TrainState
from contrast_arch.training import loop, signals
from contrast_arch.training import record as recording
from contrast_arch.training.data import Draw, SeededDataset
from contrast_arch.training.loop import Trainer
from contrast_arch.training.record import Record
from contrast_arch.training.signals import Watchdog
from tests.conftest import tiny_options
from tests.models.building import equal
from tests.training.building import at, content, cut, make, record, run_options, seed_all, state


def figures(log):
    """Losses, and lines of validations, of a log; BasicSR validates the last weights twice."""
    found = [re.sub(r"\[eta.*?\] ", "", line) for line in log if "l_pix" in line or line.startswith("Validation")]
    return list(dict.fromkeys(found))


class DrawingSampler(EnlargedSampler):
    """BasicSR's sampler for a SeededDataset: the crops of a place in the epoch are the loop's."""

    def __iter__(self):
        yield from (Draw(self.epoch, n, index) for n, index in enumerate(super().__iter__()))


@pytest.mark.parametrize("model_type", ["SRModel", "ContrastModel"])
def test_it_is_basicsrs_trainer(tmp_path, monkeypatch, log, model_type):
    """Bit for bit, over 20 iterations, five epochs and a validation every seven: losses, weights, the optimizer's state
    and metrics; of a network that draws random numbers."""
    changes = {"train": {"total_iter": 20}, "val": {"val_freq": 7}, "logger": {"save_checkpoint_freq": 20}}
    trainer = make(tmp_path / "ours", model_type, **changes)
    log.clear()
    trainer.run()
    ours = figures(log)

    opt = run_options(tmp_path / "basicsr", model_type, **changes)
    options = tiny_options(tmp_path / "basicsr", model_type=model_type)
    options |= {key: opt[key] for key in ("train", "val", "logger", "network_g")}
    (tmp_path / "a.yml").write_text(yaml.safe_dump(options))
    monkeypatch.setattr("sys.argv", ["train.py", "-opt", str(tmp_path / "a.yml")])
    monkeypatch.setattr(basicsr_train, "EnlargedSampler", DrawingSampler)
    build = basicsr_train.build_dataset

    class Seeded(SeededDataset):
        def __len__(self):
            return len(self.dataset)

    def build_dataset(section):
        return Seeded(build(section), 0) if section["phase"] == "train" else build(section)

    monkeypatch.setattr(basicsr_train, "build_dataset", build_dataset)
    log.clear()
    basicsr_train.train_pipeline(str(tmp_path / "basicsr"))
    assert len(ours) == 20 + 3 and figures(log)[:22] == ours[:22]
    # It counts the last weights as those of iteration 21.
    assert figures(log)[-1].replace("21 iter", "20 iter") == ours[-1]
    assert equal(content(tmp_path / "ours"), content(tmp_path / "basicsr"))
    a, b = (state(tmp_path / name, 20) for name in ("ours", "basicsr"))
    assert str(a["optimizers"]) == str(b["optimizers"]) and str(a["schedulers"]) == str(b["schedulers"])
    assert a["epoch"] == b["epoch"] == 4


def test_a_small_dataset(tmp_path, log):
    """Four images in batches of three: BasicSR counts the incomplete batches as trained, and ends after six of ten."""
    opt = run_options(tmp_path, train={"total_iter": 10})
    opt["datasets"]["train"] |= {"batch_size_per_gpu": 3, "dataset_enlarge_ratio": 2}
    seed_all()
    trainer = Trainer(opt, ("a.yml", ""))
    trainer.run()
    assert trainer.now.iter == 10 and sum("l_pix" in line for line in log) == 10


@pytest.mark.parametrize("model_type", ["SRModel", "ContrastModel"])
def test_a_run_cut_anywhere_is_one_of_a_piece(tmp_path, model_type):
    """Cut before the first iteration, at an end of an epoch, inside one, and with a validation still to come."""
    changes = {"val": {"val_freq": 3}, "logger": {"save_checkpoint_freq": 100}}
    make(tmp_path / "whole", model_type, **changes).run()
    for iteration in (0, 3, 4, 5):
        trainer = cut(make(tmp_path / "cut", model_type, **changes), iteration)
        assert trainer.now.iter == iteration and trainer.saved_at == iteration
    last = make(tmp_path / "cut", model_type, **changes)
    last.run()
    assert equal(content(tmp_path / "whole"), content(tmp_path / "cut"))
    found = {}
    for name in ("whole", "cut"):
        lines = record(tmp_path / name)
        found[name] = {(line["kind"], line["iteration"]): line["values"] for line in lines if "values" in line}
        assert [line["resumed"] for line in lines if line["kind"] == "run"] == [False] + [True] * 4 * (name == "cut")
    assert found["whole"] == found["cut"] and len(found["cut"]) == 8 + 3


def test_the_seed_that_was_drawn(tmp_path, monkeypatch):
    """Without ``manual_seed`` a resumed run draws no other one; a file that has got one by then counts."""
    changes = {"manual_seed": None, "logger": {"save_checkpoint_freq": 100}}
    monkeypatch.setattr(loop, "random", SimpleNamespace(randint=lambda low, high: 4321))
    make(tmp_path / "whole", **changes).run()
    cut(make(tmp_path / "cut", **changes), 3)
    assert state(tmp_path / "cut", 3)["seed"] == 4321
    monkeypatch.setattr(loop, "random", SimpleNamespace(randint=lambda low, high: 1234))
    last = make(tmp_path / "cut", **changes)
    last.run()
    assert last.opt["manual_seed"] == 4321 and last.now.options_digest == state(tmp_path / "cut", 3)["options_digest"]
    assert equal(content(tmp_path / "whole"), content(tmp_path / "cut"))
    # It is the run of this seed.
    opt = run_options(tmp_path / "given", manual_seed=4321, logger={"save_checkpoint_freq": 100})
    seed_all(4321)
    Trainer(opt, ("options.yml", "")).run()
    assert equal(content(tmp_path / "whole"), content(tmp_path / "given"))
    given = make(tmp_path / "cut", manual_seed=7)
    assert given.opt["manual_seed"] == given.now.seed == 7


def test_the_state_of_a_run_of_another_name(tmp_path):
    """neosr-project/neosr#72: BasicSR makes folders for new runs only."""
    cut(make(tmp_path), 3)
    path = {
        "resume_state": str(tmp_path / "experiments/tiny/training_states/3.state"),
        "ignore_resume_networks": ["network_g"],
    }
    trainer = Trainer(run_options(tmp_path, name="other", path=path) | {"auto_resume": False}, ("options.yml", ""))
    assert trainer.now.iter == 3
    trainer.run()
    folders = ("models/net_g_8.pth", "training_states/8.state", "visualization", "options.yml")
    assert all((tmp_path / "experiments/other" / name).exists() for name in folders)


def states(root):
    return sorted(int(path.stem) for path in (root / "experiments" / "tiny" / "training_states").glob("*.state"))


def test_a_signal_can_ask_for_a_state(tmp_path):
    """SIGUSR1 saves, and the run goes on; signals are given back at its end."""
    before = signal.getsignal(signal.SIGUSR1)
    trainer = make(tmp_path, logger={"save_checkpoint_freq": 100})
    at(trainer, 3, lambda: os.kill(os.getpid(), signal.SIGUSR1))
    trainer.run()
    assert states(tmp_path) == [3] and trainer.now.iter == 8
    assert signal.getsignal(signal.SIGUSR1) == before


@pytest.mark.parametrize("wanted", [signals.SAVE, signals.STOP])
def test_a_signal_during_a_validation(tmp_path, log, wanted):
    """The state is saved between two images; to end, the validation is broken off, and a resumed run begins with it."""
    changes = {"logger": {"save_checkpoint_freq": 100}, "val": {"val_freq": 4}}
    make(tmp_path / "whole", **changes).run()
    trainer = make(tmp_path, **changes)
    test, asked = trainer.model.test, []

    def ask():
        if not asked:
            trainer.requests.wanted = wanted
        asked.append(trainer.now.iter)
        test()

    trainer.model.test = ask
    trainer.run()
    saved = state(tmp_path, 4)
    if wanted == signals.SAVE:
        # Saved once more when the metrics were known.
        assert not saved["validation_due"] and saved["best_metric_results"]["val"]["psnr"]["iter"] == 4
    else:
        assert asked == [4] and saved["validation_due"] and saved["best_metric_results"]["val"]["psnr"]["iter"] == -1
        assert "Validation of val was broken off; a resumed run begins with it." in log
        assert "Stopped after iteration 4; --auto_resume goes on from there." in log
        make(tmp_path, **changes).run()
    assert equal(content(tmp_path), content(tmp_path / "whole"))
    a, b = ([line for line in record(root) if line["kind"] == "validation"] for root in (tmp_path, tmp_path / "whole"))
    assert [line["values"] for line in a] == [line["values"] for line in b] and len(a) == 2


def full(content, path):
    """Take the place of ``torch.save`` on a full disk."""
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_ends_the_run_where_something_would_be_lost(tmp_path, monkeypatch, log):
    monkeypatch.setattr(checkpoints.time, "sleep", lambda seconds: None)

    trainer = make(tmp_path, logger={"save_checkpoint_freq": 2})
    at(trainer, 3, lambda: monkeypatch.setattr(torch, "save", full))
    # At the last iteration, also where "latest" would be next.
    with pytest.raises(TrainingStopped, match=r"net_g_8\.pth could not be written .*; the last good .*net_g_2\.pth"):
        trainer.run()
    assert sum(line.startswith("Nothing was saved at iteration") for line in log) == 2 and trainer.now.iter == 8
    trainer = make(tmp_path, logger={"save_checkpoint_freq": 100})
    at(trainer, 3, lambda: setattr(trainer.requests, "wanted", signals.STOP))
    with pytest.raises(TrainingStopped, match=r"net_g_3\.pth could not be written .*; the last good .*net_g_2\.pth"):
        trainer.run()
    assert states(tmp_path) == [2]


def test_a_disk_that_is_full_at_the_last_validation(tmp_path, monkeypatch):
    """The state would say for ever that the validation is still to come."""
    validate, path = Trainer._validate, tmp_path / "experiments/tiny/training_states/8.state"

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints.time, "sleep", lambda seconds: None)
        patch.setattr(Trainer, "_validate", lambda trainer: (patch.setattr(torch, "save", full), validate(trainer)))
        with pytest.raises(TrainingStopped, match=r"8\.state could not be written .*; the last good .*net_g_8"):
            make(tmp_path, val={"val_freq": 100}).run()
    assert TrainState.read(path).validation_due
    make(tmp_path, val={"val_freq": 100}).run()
    assert not TrainState.read(path).validation_due


def test_weights_that_are_not_finite_replace_nothing(tmp_path):
    trainer = make(tmp_path, logger={"save_checkpoint_freq": 2})
    at(trainer, 4, lambda: trainer.model.net_g[0].weight.data.fill_(float("nan")))
    with pytest.raises(TrainingStopped, match=r"0\.weight is not finite any more.*net_g_2\.pth \(iteration 2\)"):
        trainer.run()
    assert states(tmp_path) == [2]


@pytest.mark.parametrize("model_type, skip", [("SRModel", False), ("ContrastModel", True)])
def test_an_image_that_breaks(tmp_path, log, model_type, skip):
    """A truncated image behind a good header: the run ends with its name, and goes on once it is mended."""
    changes = {"logger": {"save_checkpoint_freq": 100}, "val": {"val_freq": 100}}
    make(tmp_path / "whole", model_type, **changes).run()
    opt = run_options(tmp_path, model_type, **changes)
    broken = tmp_path / "LR" / "1x4.png"
    whole = broken.read_bytes()
    broken.write_bytes(whole[: len(whole) // 2])
    opt["datasets"]["train"]["skip_unreadable"] = skip
    opt["datasets"].pop("val"), opt.pop("val")
    seed_all()
    trainer = Trainer(opt, ("a.yml", ""))
    named = r"LQ .*1x4\.png cannot be read as an image: image file is truncated"
    if skip:
        trainer.run()
        assert sum(bool(re.match(f"{named}; the image after it was taken instead", line)) for line in log) == 1
        assert trainer.now.iter == 8 and any(line["kind"] == "problem" for line in record(tmp_path))
        return
    with pytest.raises(TrainingStopped, match=rf"^{named}\nMend the file.*Saved after iteration [0-3]; --auto_resume"):
        trainer.run()
    broken.write_bytes(whole)
    make(tmp_path, model_type, **changes).run()
    assert equal(content(tmp_path), content(tmp_path / "whole"))


def test_the_newest_and_the_best_are_kept(tmp_path):
    trainer = make(tmp_path, logger={"save_checkpoint_freq": 1, "keep_last": 2}, val={"val_freq": 2})
    trainer.run()
    best = {metric["iter"] for metric in trainer.model.best_metric_results["val"].values()}
    assert set(states(tmp_path)) == {7, 8} | best
    assert {path.name for path in (tmp_path / "experiments/tiny/models").iterdir()} == {
        *(f"net_g_{number}.pth" for number in states(tmp_path)),
        "net_g_latest.pth",
    }


def test_the_time_limit(tmp_path, monkeypatch, log):
    """A start trains an iteration at least, saves before the time is up, and puts its Slurm job back into the queue."""
    called = tmp_path / "called"
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text(f'#!/bin/sh\necho "$@" >> {called}\n')
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", f"{scontrol.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    make(tmp_path, train={"max_hours": 1e-9, "requeue": True}).run()
    assert states(tmp_path) == [1] and called.read_text() == "requeue 77\n"
    assert log[-2:] == [
        "The time limit is near: stopped after iteration 1; --auto_resume goes on from there.",
        "Job 77 is back in its queue.",
    ]
    # What Slurm leaves counts too; without requeue nothing is put back.
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(int(time.time()) + 30))
    make(tmp_path, train={"max_hours": 9}).run()
    assert states(tmp_path) == [1, 2] and called.read_text() == "requeue 77\n"
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(int(time.time()) + 9999))
    trainer = make(tmp_path, train={"max_hours": 9})
    # A clock that is set anew is no reason to end.
    monkeypatch.setattr(time, "time", lambda: 4e9)
    trainer.run()
    assert trainer.now.iter == 8


def test_the_last_validation_is_made_up_for(tmp_path, monkeypatch):
    """A run that was killed between its last save and the validation at its end."""

    def killed(trainer):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_validate", killed)
        with pytest.raises(KeyboardInterrupt):
            make(tmp_path, val={"val_freq": 100}).run()
    for _ in range(2):
        make(tmp_path, val={"val_freq": 100}).run()
        assert [line["iteration"] for line in record(tmp_path) if line["kind"] == "validation"] == [8]


def test_a_disk_that_cannot_be_written(tmp_path, monkeypatch, capfd):
    """At the start; and for a log later, which is no reason for tracebacks."""

    def fail(*_):
        raise OSError(errno.EROFS, "Read-only file system", "models/a")

    trainer = make(tmp_path)
    trainer.log.addHandler(handler := logging.StreamHandler(SimpleNamespace(write=fail)))
    trainer.run()
    trainer.log.removeHandler(handler)
    assert "Read-only" not in capfd.readouterr().err
    monkeypatch.setattr(checkpoints, "remove_unfinished", fail)
    with pytest.raises(TrainingStopped, match=r"^the folder of the experiment cannot be written: .*models/a"):
        make(tmp_path)


def test_what_is_progress(tmp_path, monkeypatch):
    """For the watchdog: an iteration, a save, and an image of a validation; after the run nothing is watched."""
    calls = []
    for name in ("__enter__", "progress", "__exit__"):
        monkeypatch.setattr(Watchdog, name, lambda self, *_, name=name: calls.append((name.strip("_"), self.minutes)))
    make(tmp_path / "a", val={"val_freq": 100}).run()
    assert set(calls) == {("enter", 0), ("progress", 0), ("exit", 0)}
    calls.clear()
    changes = {"logger": {"save_checkpoint_freq": 8}, "val": {"val_freq": 8}}
    make(tmp_path / "b", train={"watchdog_minutes": 2.5}, **changes).run()
    # Eight iterations, a save, two images, the end of the validation, a save with its metrics, and the last save.
    assert calls == [("enter", 2.5), *[("progress", 2.5)] * (8 + 1 + 2 + 1 + 1 + 1), ("exit", 2.5)]


def test_the_clock(tmp_path, monkeypatch, log):
    """Seconds of training are those of iterations; the time left is at the speed of the run with its validations."""
    time = [100.0]
    for clock in ("perf_counter", "time"):
        monkeypatch.setattr(recording.time, clock, lambda: time[0])
    opt = run_options(tmp_path, train={"total_iter": 21}, logger={"print_freq": 5})
    clock = Record(None, opt, now := TrainState(1, 0, {}))
    model = SimpleNamespace(get_current_learning_rate=lambda: [1e-3], get_current_log=lambda: {"l_pix": 0.5})
    for number, seconds in ((2, 60), (3, 2), (4, 2), (5, 4)):
        clock.waits.append(seconds / 4)
        time[0] += seconds
        now.iter = number
        clock.iteration_is_done(model)
        time[0] += 8  # a validation
        clock.tick = time[0]
    # The first one is slow, and is forgotten.
    assert list(clock.iterations) == [2, 2, 4] and clock.seconds == 68
    assert "[eta: 0:06:08, time (data): 2.667 (0.667)] l_pix: 5.0000e-01" in log[-1]


def test_the_record(tmp_path):
    """metrics.jsonl of a run and of one that goes on from it."""
    changes = {"val": {"val_freq": 4}, "logger": {"save_checkpoint_freq": 4, "print_freq": 2}}
    cut(make(tmp_path, "ContrastModel", train={"accumulate": 2}, **changes), 6)
    run, *lines = record(tmp_path)
    assert run["kind"] == "run" and run["time"] > 1e9 and run["iteration"] == 0
    expected = {"name": "tiny", "model": "ContrastModel", "network": "DroppingNet", "device": "cpu", "processes": 1}
    expected |= {"batch": 4, "total_iter": 8, "resumed": False, "torch": torch.__version__, "basicsr": "1.4.2"}
    assert {key: run[key] for key in expected} == expected and len(run["options_digest"]) == 64
    train = [line for line in lines if line["kind"] == "train"]
    assert [(line["iteration"], line["images"], line["epoch"]) for line in train] == [(2, 8, 0), (4, 16, 1), (6, 24, 2)]
    assert set(train[0]["values"]) == {"lr", "l_pix"} and train[0]["values"]["lr"] == 1e-3
    assert 0 < train[0]["seconds"] < train[1]["seconds"] and train[0]["memory_bytes"] > 1e7
    assert train[0]["iteration_seconds"] > train[0]["data_seconds"] > 0
    (validation,) = [line for line in lines if line["kind"] == "validation"]
    assert (validation["iteration"], validation["images"], validation["set"]) == (4, 16, "val")
    psnr = validation["values"]["psnr"]
    assert set(validation["values"]) == {"psnr", "ssim"} and validation["best"]["psnr"] == {
        "value": psnr,
        "iteration": 4,
    }
    per_image = [values["psnr"] for values in validation["values_per_image"].values()]
    assert len(per_image) == 2 and sum(per_image) / 2 == psnr
    saved = [line for line in lines if line["kind"] == "checkpoint"]
    assert [(line["iteration"], Path(line["path"]).name) for line in saved] == [(4, "net_g_4.pth"), (6, "net_g_6.pth")]
    assert saved[0]["bytes"] == Path(saved[0]["path"]).stat().st_size
    make(tmp_path, "ContrastModel", train={"accumulate": 1}, **changes).run()
    again = record(tmp_path)[1 + len(lines) :]
    assert again[0]["kind"] == "run" and again[0]["resumed"] and again[0]["iteration"] == 6
    assert [line["images"] for line in again if line["kind"] == "train"] == [28]
