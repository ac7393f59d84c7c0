"""Validation of any model: the figures and pictures of BasicSR's, shared out among processes."""

from pathlib import Path
from unittest.mock import Mock

import cv2
import pytest
import torch
from basicsr.data import build_dataloader, build_dataset
from basicsr.models.sr_model import SRModel
from basicsr.utils.registry import MODEL_REGISTRY
from torch import distributed, multiprocessing

from contrast_arch.errors import TrainingStopped
from contrast_arch.training.distributed import processes_on_cpus
from contrast_arch.training.validation import validate
from tests.conftest import write_pairs
from tests.models.building import build, options


@MODEL_REGISTRY.register()
class OwnValidationModel(SRModel):
    """As HATModel: an image goes through methods of its own."""

    def nondist_validation(self, dataloader, current_iter, tb_logger, save_img):
        self.is_train = False
        super().nondist_validation(dataloader, current_iter, tb_logger, save_img)
        self.is_train = True

    def test(self):
        super().test()
        self.output = 1 - self.output


@MODEL_REGISTRY.register()
class DistributedModel(SRModel):
    """As BasicSR's models of videos: it shares its images out itself."""

    def dist_validation(self, dataloader, current_iter, tb_logger, save_img):
        self.metric_results = {"psnr": 1.0}

    nondist_validation = dist_validation


def loader_of(opt, **changes):
    section = {**opt["datasets"]["val"], "io_backend": {"type": "disk"}, **changes}
    return build_dataloader(build_dataset(section), section)


@pytest.mark.parametrize("model_type", ["SRModel", "ContrastModel", "OwnValidationModel"])
def test_it_is_that_of_basicsr(tmp_path, log, model_type):
    """Lines, figures, best ones and pictures, bit for bit; and a number drawn, as BasicSR's loader does it."""
    write_pairs(tmp_path, count=3, lq=(13, 11))
    found = []
    for shared in (False, True):
        opt = options(tmp_path, model_type)
        model = build(opt)
        log.clear()
        torch.manual_seed(5)
        model.opt["val"]["save_img"] = True
        if shared:
            values, per_image = validate(model, loader_of(opt), 4)
            assert values == model.metric_results and sorted(per_image) == ["0x4", "1x4", "2x4"]
            psnrs = [one["psnr"] for one in per_image.values()]
            assert sum(psnrs) / 3 == values["psnr"] and len(set(psnrs)) == 3
        else:
            model.validation(loader_of(opt), 4, None, save_img=True)
        pictures = sorted((tmp_path / "experiments" / "tiny" / "visualization").rglob("*.png"))
        assert [path.name for path in pictures] == ["0x4_4.png", "1x4_4.png", "2x4_4.png"]
        found.append((log[-1], model.metric_results, model.best_metric_results, float(torch.rand(()))))
        found[-1] += ([cv2.imread(str(path)).tolist() for path in pictures],)
        assert model.net_g.training and model.is_train and "validation" not in vars(model)
        for path in pictures:
            path.unlink()
    assert found[0] == found[1] and found[0][1]["psnr"] > 5 and "Validation val" in found[0][0]


def test_models_that_share_out_themselves(tmp_path):
    write_pairs(tmp_path, count=1, lq=(13, 11))
    opt = options(tmp_path, "DistributedModel")
    model = build(opt)
    assert validate(model, loader_of(opt), 4) == ({"psnr": 1.0}, {})


def test_sets_of_one_name(tmp_path, log):
    """As SRModel does: each has its own figures, and the best of the name is the best of all."""
    for folder, seed in (("a", 0), ("b", 1)):
        write_pairs(tmp_path / folder, count=1, lq=(13, 11), seed=seed)
    found = []
    for shared in (False, True):
        opt = options(tmp_path, "SRModel")
        model, figures = build(opt), []
        log.clear()
        for folder in ("a", "b"):
            roots = {"dataroot_gt": str(tmp_path / folder / "HR"), "dataroot_lq": str(tmp_path / folder / "LR")}
            loader = loader_of(opt, **roots)
            validate(model, loader, 4) if shared else model.validation(loader, 4, None)
            figures.append(model.metric_results)
        found.append((figures, model.best_metric_results, [line for line in log if "Validation" in line]))
    assert found[0] == found[1] and found[0][0][0] != found[0][0][1]


def _validate(rank, world_size, root, count, sender):
    """In a process of its own: metrics of validation shared out among processes."""
    torch.set_num_threads(1)
    store = distributed.FileStore(f"{root}/store_{world_size}", world_size)
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=world_size)
    opt = options(Path(root), "SRModel") | {"dist": True, "rank": rank, "world_size": world_size}
    with processes_on_cpus():
        model = build(opt)
    sender.send((rank, validate(model, loader_of(opt), 4)))
    distributed.destroy_process_group()


@pytest.mark.parametrize("count", [1, 3])
def test_two_processes_give_the_figures_of_one(tmp_path, count):
    """To the last digit; with an odd number of images, and with none for the second process."""
    write_pairs(tmp_path, count=count, lq=(13, 11))
    opt = options(tmp_path, "SRModel")
    alone = validate(build(opt), loader_of(opt), 4)
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    processes = [context.Process(target=_validate, args=(rank, 2, tmp_path, count, sender)) for rank in (0, 1)]
    for process in processes:
        process.start()
    found = {}
    for _ in processes:
        assert receiver.poll(60)
        rank, values = receiver.recv()
        found[rank] = values
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert found == {0: alone, 1: alone} and alone[0]["psnr"] > 5 and len(alone[1]) == count


def test_an_image_that_cannot_be_read(tmp_path):
    write_pairs(tmp_path, count=2, lq=(13, 11))
    opt = options(tmp_path, "SRModel")
    model, loader = build(opt), loader_of(opt)
    (tmp_path / "LR" / "1x4.png").write_bytes(b"no picture")
    with pytest.raises(TrainingStopped, match=r"^validation: LQ .*1x4\.png cannot be read as an image"):
        validate(model, loader, 4)
    assert "_log_validation_metric_values" not in vars(model)


def test_a_loader_worker_that_is_lost_meanwhile(tmp_path, monkeypatch):
    """PyTorch's handler of its signal raises while an image is read, which is not at fault."""
    write_pairs(tmp_path, count=1, lq=(13, 11))
    opt = options(tmp_path, "SRModel")
    model, loader = build(opt), loader_of(opt)
    late = RuntimeError("DataLoader worker (pid 5) is killed by signal: Killed. ")
    monkeypatch.setattr(type(loader.dataset), "__getitem__", Mock(side_effect=late))
    with pytest.raises(RuntimeError, match=r"^DataLoader worker \(pid 5\)"):
        validate(model, loader, 4)


def test_images_without_gt(tmp_path):
    """Large images, say: no metrics, images in the results folder."""
    write_pairs(tmp_path, count=2, lq=(13, 11))
    opt = options(tmp_path, val={"metrics": None, "suffix": "x", "save_img": True})
    opt["is_train"] = False
    opt["datasets"] = {"val": {"name": "mine", "type": "SingleImageDataset", "phase": "test"}}
    opt["datasets"]["val"] |= {"dataroot_lq": str(tmp_path / "LR")}
    assert validate(build(opt), loader_of(opt), "tiny") == ({}, {})
    folder = tmp_path / "experiments" / "tiny" / "visualization" / "mine"
    assert sorted(path.name for path in folder.iterdir()) == ["0x4_x.png", "1x4_x.png"]
    assert cv2.imread(str(folder / "0x4_x.png")).shape == (44, 52, 3)
