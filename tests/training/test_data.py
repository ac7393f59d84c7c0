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
from contrast_arch.training.data import Draw, EpochSampler, SeededDataset
from contrast_arch.training.randomness import random_states, set_random_states


def draws(epochs, **arguments):
    """(epoch, index) of the images that the sampler gives, over some epochs."""
    sampler = EpochSampler(**arguments)
    found = []
    for epoch in range(sampler.first, epochs):
        sampler.set_epoch(epoch)
        taken = list(sampler)
        assert len(taken) == len(sampler)
        found += taken
    return found


@pytest.mark.parametrize("ratio", [2, 1.95])
def test_the_order_is_that_of_basicsr(ratio):
    sampler, ours = EnlargedSampler(range(10), 1, 0, ratio), EpochSampler(10, ratio, 4, iterations=100)
    for epoch in (0, 1):
        sampler.set_epoch(epoch)
        ours.set_epoch(epoch)
        found = list(ours)
        assert [draw.index for draw in found] == list(sampler)
        assert [draw.position for draw in found] == list(range(20)) and {draw.epoch for draw in found} == {epoch}


def test_what_does_not_fill_a_batch_is_left_out():
    assert len(draws(3, length=11, ratio=1, batch=4, iterations=100)) == 3 * 8


@pytest.mark.parametrize("iterations, last", [(1, 0), (2, 0), (3, 1), (4, 1), (7, 3)])
def test_there_are_as_many_batches_as_iterations(iterations, last):
    arguments = {"length": 11, "ratio": 1, "batch": 4, "iterations": iterations}
    assert EpochSampler(**arguments).last_epoch() == last
    assert len(draws(last + 1, **arguments)) == len(draws(last + 5, **arguments)) == 4 * iterations


@pytest.mark.parametrize("done", range(6))
def test_a_resumed_epoch_has_the_rest(done):
    """Five iterations are two and a half epochs of two batches: cut anywhere, the images are those of one run."""
    arguments = {"length": 9, "ratio": 1, "batch": 4}
    whole = draws(3, **arguments, iterations=5)
    epoch, batches = (done - 1) // 2 if done else 0, (done - 1) % 2 + 1 if done else 0
    rest = EpochSampler(**arguments, iterations=5 - done, epoch=epoch, position=4 * batches)
    assert whole[4 * done :] == draws(3, **arguments, iterations=5 - done, epoch=epoch, position=4 * batches)
    assert rest.last_epoch() == (2 if done < 5 else epoch)


def test_processes_share_a_batch():
    one = draws(2, length=13, ratio=1, batch=6, iterations=4)
    shares = [draws(2, length=13, ratio=1, batch=6, iterations=4, rank=rank, processes=3) for rank in range(3)]
    assert [share[0] for share in shares] == one[:3]
    assert [draw for together in zip(*shares, strict=True) for draw in together] == one


def test_another_batch_goes_on_where_the_first_one_stopped():
    seen = draws(1, length=20, ratio=1, batch=4, iterations=2)
    rest = draws(1, length=20, ratio=1, batch=6, iterations=9, position=8)
    assert len(rest) == 12 and not {draw.index for draw in seen} & {draw.index for draw in rest}


def test_an_epoch_that_has_become_shorter_than_what_was_seen_of_it():
    """Eight images, of which twenty were seen: the next epoch begins, and the iterations are as many as wanted."""
    arguments = {"length": 8, "ratio": 1, "batch": 2, "iterations": 5, "epoch": 3, "position": 20}
    assert EpochSampler(**arguments).last_epoch() == 5
    found = draws(7, **arguments)
    assert [draw.epoch for draw in found] == [4] * 8 + [5] * 2


def test_too_few_images():
    with pytest.raises(InputError, match=r"3 images .*do not fill a batch of 8.*raise dataset_enlarge_ratio"):
        EpochSampler(3, 2, 8)


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
    data, sampler = SeededDataset(Numbers(), 0), EpochSampler(12, 1, 4, iterations=3)
    alone, shared = (list(DataLoader(data, 4, sampler=sampler, num_workers=count)) for count in (0, workers))
    for a, b in zip(alone, shared, strict=True):
        assert torch.equal(a["index"], b["index"]) and torch.equal(a["numbers"], b["numbers"])


def test_what_cannot_be_read_is_replaced_and_named():
    data = SeededDataset(Numbers(broken=(5, 6)), 0)
    sample = data[Draw(0, 0, 5)]
    assert sample["index"] == 7 and "cannot be read" in sample["problem"] and "lq/5.png" in sample["problem"]
    assert data[Draw(0, 0, 11)]["problem"] == ""
    with pytest.raises(InputError, match=r"lq/0\.png cannot be read.*\nnor could the 9 images after it"):
        SeededDataset(Numbers(broken=range(12)), 0)[Draw(0, 0, 0)]


@pytest.mark.parametrize(
    "count, ending", [(1, "no other image to take instead"), (2, "nor could the image after it be")]
)
def test_small_datasets_without_a_readable_image(count, ending):
    """Each image is tried once."""
    with pytest.raises(InputError, match=rf"LQ lq/0\.png cannot be read.*\n.*{ending}"):
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
                f"{kind} {name} cannot be read as an image: OpenCV, which BasicSR reads with, cannot decode TGA with "
                "pixels of kind RGB; store it as PNG"
            )
    with pytest.raises(InputError) as found:
        SeededDataset(build_dataset({"name": "a", "scale": 4, "use_hflip": False, "use_rot": False, **options}), 0)[
            Draw(0, 0, 0)
        ]
    assert str(found.value) == "; ".join(expected) + "\nThe dataset has no other image to take instead"


def test_random_states_come_back_from_a_file(tmp_path):
    torch.save(random_states(), tmp_path / "a.state")
    expected = random.random(), np.random.rand(), torch.rand(2)
    set_random_states(torch.load(tmp_path / "a.state", weights_only=True))
    found = random.random(), np.random.rand(), torch.rand(2)
    assert expected[:2] == found[:2] and torch.equal(expected[2], found[2])
