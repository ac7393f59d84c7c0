"""The loop in this process: it is BasicSR's, it can be cut anywhere, and it says what it does."""

import re

import pytest
import torch
import yaml
from basicsr import train as basicsr_train
from basicsr.data.data_sampler import EnlargedSampler

from contrast_arch.training.data import Draw, SeededDataset
from tests.conftest import tiny_options
from tests.models.building import equal
from tests.training.building import content, cut, make, record, run_options, state


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

    def build_dataset(section):
        return SeededDataset(build(section), 0) if section["phase"] == "train" else build(section)

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


@pytest.mark.parametrize("model_type", ["SRModel", "ContrastModel"])
def test_a_run_cut_anywhere_is_one_of_a_piece(tmp_path, model_type):
    """Cut before the first iteration, at an end of an epoch, inside one, and with a validation still to come."""
    changes = {"val": {"val_freq": 3}, "logger": {"save_checkpoint_freq": 100}}
    make(tmp_path / "whole", model_type, **changes).run()
    for iteration in (0, 3, 4, 5):
        trainer = cut(make(tmp_path / "cut", model_type, **changes), iteration)
        assert trainer.iteration == iteration and trainer.saved_at == iteration
    last = make(tmp_path / "cut", model_type, **changes)
    last.run()
    assert equal(content(tmp_path / "whole"), content(tmp_path / "cut"))
    found = {}
    for name in ("whole", "cut"):
        lines = record(tmp_path / name)
        found[name] = {(line["kind"], line["iteration"]): line["values"] for line in lines if "values" in line}
        assert [line["resumed"] for line in lines if line["kind"] == "run"] == [False] + [True] * 4 * (name == "cut")
    assert found["whole"] == found["cut"] and len(found["cut"]) == 8 + 3
