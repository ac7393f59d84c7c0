"""Which images an iteration sees: in order, by several processes, resumed, and where some cannot be read."""

import random
from io import BytesIO

import numpy as np
import pytest
import torch
from basicsr.data import build_dataset
from basicsr.data.data_sampler import EnlargedSampler
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from contrast_arch.errors import InputError
from contrast_arch.training.data import Draw, SeededDataset, draws, random_states, set_random_states


@pytest.mark.parametrize("ratio", [2, 1.95])
def test_the_order_is_that_of_basicsr(ratio):
    """Without those at the end of an epoch that fill no batch."""
    sampler, ours = EnlargedSampler(range(10), 1, 0, ratio), list(draws(10, 20, 4, iterations=12))
    assert len(ours) == 4 * 12 and len(list(draws(11, 11, 4, iterations=3))) == 4 * 3
    for epoch in (0, 1):
        sampler.set_epoch(epoch)
        found = ours[20 * epoch : 20 * (epoch + 1)]
        assert [draw.index for draw in found] == list(sampler)
        assert [draw.position for draw in found] == list(range(20)) and {draw.epoch for draw in found} == {epoch}


@pytest.mark.parametrize("done", range(6))
def test_a_resumed_epoch_has_the_rest(done):
    """Five iterations are two and a half epochs of two batches: cut anywhere, the images are those of one run."""
    whole = list(draws(9, 9, 4, 5))
    place = divmod(done - 1, 2) if done else (0, -1)
    assert whole[4 * done :] == list(draws(9, 9, 4, 5 - done, (place[0], 4 * (place[1] + 1))))
    assert [draw.epoch for draw in whole] == [0] * 8 + [1] * 8 + [2] * 4


def test_processes_share_a_batch():
    one, *shares = (
        list(draws(13, 13, 6, 4, rank=rank, world=world)) for rank, world in ((0, 1), (0, 3), (1, 3), (2, 3))
    )
    assert [draw for together in zip(*shares, strict=True) for draw in together] == one


def test_another_batch_goes_on_where_the_first_one_stopped():
    seen, rest = list(draws(20, 20, 4, 2)), list(draws(20, 20, 6, 2, (0, 8)))
    assert len(rest) == 12 and not {draw.index for draw in seen} & {draw.index for draw in rest}


def test_an_epoch_that_has_become_shorter_than_what_was_seen_of_it():
    """Eight images, of which twenty were seen: the next epoch begins, and the iterations are as many as wanted."""
    assert [draw.epoch for draw in draws(8, 8, 2, 5, (3, 20))] == [4] * 8 + [5] * 2


class Numbers(Dataset):
    """Samples of random numbers; some cannot be read."""

    def __init__(self, length=12, broken=()):
        self.length, self.broken = length, broken
        self.paths = [{"lq_path": f"lq/{i}.png", "gt_path": f"gt/{i}.png"} for i in range(length)]

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        if index in self.broken:
            raise ValueError(f"no picture\n{index}")
        return {"index": index, "numbers": torch.tensor([random.random(), np.random.rand(), float(torch.rand(()))])}


def test_crops_depend_on_the_draw_alone():
    data = SeededDataset(Numbers(), seed=3)
    before = random_states()
    first = data[Draw(0, 5, 2)]
    assert str(random_states()) == str(before)
    random.random(), np.random.rand(), torch.rand(())
    again, other, epoch = data[Draw(0, 5, 2)], data[Draw(0, 6, 2)], data[Draw(1, 5, 2)]
    assert torch.equal(first["numbers"], again["numbers"])
    assert not torch.equal(first["numbers"], other["numbers"]) and not torch.equal(first["numbers"], epoch["numbers"])
    assert not torch.equal(first["numbers"], SeededDataset(Numbers(), seed=4)[Draw(0, 5, 2)]["numbers"])
    assert (first["epoch"], first["position"], first["problem"]) == (0, 5, "")


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(workers):
    data = SeededDataset(Numbers(), 0)
    alone, shared = (list(DataLoader(data, 4, sampler=draws(12, 12, 4, 3), num_workers=n)) for n in (0, workers))
    for a, b in zip(alone, shared, strict=True):
        assert torch.equal(a["index"], b["index"]) and torch.equal(a["numbers"], b["numbers"])


def test_what_cannot_be_read_is_replaced_and_named():
    data = SeededDataset(Numbers(broken=(5, 6)), 0)
    sample = data[Draw(0, 0, 5)]
    assert sample["index"] == 7 and "cannot be read" in sample["problem"] and "lq/5.png" in sample["problem"]
    assert data[Draw(0, 0, 11)]["problem"] == ""


@pytest.mark.parametrize("count, tried", [(1, 1), (2, 2), (12, 10)])
def test_no_image_can_be_read(count, tried):
    """Each is tried once."""
    with pytest.raises(InputError, match=rf"LQ lq/0\.png cannot be read.*\nNone of the {tried} images from it on can"):
        SeededDataset(Numbers(count, broken=range(count)), 0)[Draw(0, 0, 0)]


@pytest.mark.parametrize("backend", ["disk", "lmdb"])
@pytest.mark.parametrize("broken", ["LQ", "GT", "LQ GT"])
def test_the_unreadable_image_of_a_pair_is_named(tmp_path, backend, broken):
    """Of a format that Pillow reads and OpenCV does not; of an LMDB by its key."""
    options = {
        "type": "PairedImageDataset",
        "phase": "train",
        "scale": 4,
        "gt_size": 32,
        "io_backend": {"type": backend},
    }
    options |= {"name": "a", "scale": 4, "use_hflip": False, "use_rot": False}
    expected = []
    for kind, side in (("LQ", 8), ("GT", 32)):
        image, content = Image.effect_noise((side, side), 50).convert("RGB"), BytesIO()
        image.save(content, "TGA" if kind in broken else "PNG")
        folder = tmp_path / f"{kind}.lmdb"
        folder.mkdir()
        if backend == "lmdb":
            lmdb = pytest.importorskip("lmdb")
            (folder / "meta_info.txt").write_text(f"0.png ({side},{side},3) 1\n")
            with lmdb.open(str(folder)) as opened, opened.begin(write=True) as writing:
                writing.put(b"0", content.getvalue())
        else:
            (folder / "0.png").write_bytes(content.getvalue())
        options |= {f"dataroot_{kind.lower()}": str(folder)}
        if kind in broken:
            name = "0" if backend == "lmdb" else folder / "0.png"
            expected.append(
                f"{kind} {name} cannot be read as an image: OpenCV, which BasicSR reads with, cannot decode it; "
                "store it as PNG"
            )
    with pytest.raises(InputError) as found:
        SeededDataset(build_dataset({"name": "a", "scale": 4, "use_hflip": False, "use_rot": False, **options}), 0)[
            Draw(0, 0, 0)
        ]
    assert str(found.value) == "; ".join(expected) + "\nNone of the 1 images from it on can be read; is the disk there?"


def test_random_states_come_back_from_a_file(tmp_path):
    torch.save(random_states(), tmp_path / "a.state")
    expected = random.random(), np.random.rand(), torch.rand(2)
    set_random_states(torch.load(tmp_path / "a.state", weights_only=True))
    found = random.random(), np.random.rand(), torch.rand(2)
    assert expected[:2] == found[:2] and torch.equal(expected[2], found[2])
