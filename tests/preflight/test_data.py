"""Folders, lists, and pairs of images."""

import pytest
from PIL import Image

from contrast_arch.prepare import run as prepare
from contrast_arch.prepare.plan import make_settings
from tests.conftest import write_pairs


def of(phase, **keys):
    return lambda options: options["datasets"][phase].update(keys)


def test_names_that_do_not_pair(check, root):
    write_pairs(root, count=4)
    (root / "LR" / "1x4.png").unlink()
    (root / "LR" / "2x4.png").rename(root / "LR" / "2x2.png")
    lr, hr = root / "LR", root / "HR"
    expected = (
        f"datasets: val: LQ and GT do not fit\n  1.png: 1x4.png is not in {lr}\n  2.png: 2x4.png is not in {lr}\n"
        f"  {lr}/2x2.png belongs to no image of {hr}"
    )
    assert ("error", expected) in check()


def test_sizes_that_do_not_pair(check, root):
    write_pairs(root, count=7)
    for number in range(6):
        Image.new("RGB", (23, 20)).save(root / "LR" / f"{number}x4.png")
    (root / "LR" / "6x4.png").write_bytes(b"no image")
    found = [message for severity, message in check() if severity == "error"]
    assert len(found) == 2  # of training and of validation
    lines = found[0].splitlines()
    assert lines[0] == "datasets: train: LQ and GT do not fit"
    assert lines[1] == (f"  {root}/LR/0x4.png is 23x20, so at scale 4 {root}/HR/0.png must be 92x80, not 96x80")
    assert len(lines) == 7 and lines[6] == "  ... and 2 more"


def test_every_image_is_read_completely_if_asked(check, root):
    """Headers of truncated and of corrupt files are as they should be."""
    for name, keep in (("0.png", 0.5), ("1.png", None)):
        content = bytearray((root / "HR" / name).read_bytes())
        if keep is None:
            content[len(content) // 2 :] = bytes(len(content) - len(content) // 2)
        else:
            del content[int(len(content) * keep) :]
        (root / "HR" / name).write_bytes(content)
    assert check() == []
    found = check(every_pair=True)
    assert len(found) == 2
    for name in ("0.png", "1.png"):
        assert f"{root}/HR/{name}: cannot be read as an image completely: " in found[0][1]


@pytest.mark.parametrize("every_pair", [False, True])
def test_lmdb(check, root, every_pair):
    pytest.importorskip("lmdb")
    (root / "photographs").mkdir()
    for number in range(2):
        Image.effect_noise((96, 80), 50).convert("RGB").save(root / "photographs" / f"{number}.png")
    settings = make_settings([4], "training", 32, None, None)
    prepare([root / "photographs"], root / "data", settings, processes=1, lmdb=True)
    files = {path.name: path for path in (root / "data").rglob("*.lmdb")}
    hr, lr = (next(path for name, path in files.items() if name.startswith(start)) for start in ("HR", "X4"))
    keys = {"dataroot_gt": str(hr), "dataroot_lq": str(lr), "io_backend": {"type": "lmdb"}}
    assert check(of("train", **keys), every_pair=every_pair) == []
    (found,) = check(of("train", **{**keys, "dataroot_lq": str(hr)}), every_pair=every_pair)
    assert found[1].startswith("datasets: train: LQ and GT do not fit")


@pytest.mark.parametrize(
    "phase, keys, message",
    [
        ("train", {"io_backend": {"type": "dsk"}}, "datasets: train: io_backend: type: 'dsk': expected disk or lmdb"),
        ("train", {"io_backend": {"type": "disk", "a": 1}}, "datasets: train: io_backend: disk has no a"),
        ("train", {"meta_info_file": "LR"}, "datasets: train: meta_info_file: LR: expected a list of images"),
        ("val", {"dataroot_lq": "options.yml"}, "datasets: val: dataroot_lq: options.yml: expected a folder"),
        ("val", {"mean": [0.5] * 3}, "datasets: val: mean and std belong together; std is missing"),
        ("val", {"mean": [0.5], "std": [1.0]}, "datasets: val: mean: [0.5]: expected one number for each channel"),
        (
            "train",
            {"persistent_workers": True},
            "datasets: train: persistent_workers: true: num_worker_per_gpu: 0; write false",
        ),
        (
            "val",
            {"persistent_workers": True},
            "datasets: val: persistent_workers: true: BasicSR reads such a dataset without workers; write false",
        ),
        ("train", {"prefetch_mode": "cuda"}, "datasets: train: prefetch_mode: cuda needs a GPU; write cpu, or ~"),
        ("train", {"prefetch_mode": "gpu"}, "datasets: train: prefetch_mode: 'gpu': expected cpu or cuda, or ~"),
        ("val", {"type": "REDSDataset"}, "datasets: val: type: SRModel cannot use REDSDataset; expected Paired"),
        ("train", {"type": "SingleImageDataset"}, "datasets: train: type: training needs GT images, and Single"),
        (
            "val",
            {"filename_tmpl": "x4"},
            "datasets: val: filename_tmpl: 'x4': expected the name of an LQ image, with {}",
        ),
        ("val", {"color": "y"}, "network_g: in_chans: 3, but images of datasets: val have 1 (with color: y)"),
    ],
)
def test_what_a_dataset_cannot_have(check, root, phase, keys, message):
    (root / "options.yml").touch()
    found = [text for severity, text in check(of(phase, **keys)) if severity == "error"]
    assert found and found[0].startswith(message)


def test_prefetching_on_a_gpu(check, gpus):
    gpus(1)
    found = check(of("train", prefetch_mode="cuda"), num_gpu=1)
    assert ("error", "datasets: train: prefetch_mode: cuda needs pin_memory: true") in found
    assert check(of("train", prefetch_mode="cuda", pin_memory=True), num_gpu=1) == []


def test_phases(check):
    def rename(options):
        options["datasets"]["valid"] = options["datasets"].pop("val")

    assert ("error", "datasets: valid: BasicSR trains with 'train', 'val' and 'val_...'; rename it") in check(rename)
    text = "datasets: valid: BasicSR tests on 'test', 'test_...', 'val' and 'val_...'; rename it"
    assert ("error", text) in check(rename, is_train=False)


def test_no_lmdb(check, root):
    pytest.importorskip("lmdb")
    for name in ("HR.lmdb", "LR.lmdb"):
        (root / name).mkdir()
        (root / name / "meta_info.txt").write_text("0.png (96,80,3) 1\n")
    keys = {"dataroot_gt": "HR.lmdb", "dataroot_lq": "LR.lmdb", "io_backend": {"type": "lmdb"}}
    (found,) = check(of("val", **keys))
    assert found[1].startswith("datasets: val: LQ and GT do not fit\n  LR.lmdb cannot be opened: ")
