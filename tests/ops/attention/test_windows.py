import torch

from contrast_arch.ops.attention.windows import overlapping_windows, shift_mask, window_partition, window_reverse


def test_partition_and_back():
    x = torch.arange(2 * 4 * 6 * 1.0).view(2, 4, 6, 1)
    windows = window_partition(x, 2)
    assert windows.shape == (2, 6, 4, 1)
    assert windows[0, 1, :, 0].tolist() == [2, 3, 8, 9]
    assert torch.equal(window_reverse(windows, 2, 4, 6), x)


def test_overlapping_windows_are_zero_beyond_the_border():
    x = torch.arange(1, 17.0).view(1, 4, 4, 1)
    windows = overlapping_windows(x, 2, 4)
    assert windows.shape == (1, 4, 16, 1)
    assert windows[0, 0, :, 0].view(4, 4).tolist() == [[0, 0, 0, 0], [0, 1, 2, 3], [0, 5, 6, 7], [0, 9, 10, 11]]
    assert windows[0, 3, :, 0].view(4, 4).tolist() == [[6, 7, 8, 0], [10, 11, 12, 0], [14, 15, 16, 0], [0, 0, 0, 0]]


def test_shift_mask_of_two_windows():
    # A 2x4 image in 2x2 windows, shifted by 1: no two pixels of the last window were neighbours before the shift.
    mask = shift_mask(2, 4, 2, 1, torch.device("cpu"))
    assert mask.shape == (2, 4, 4)
    apart_vertically = [[0, 0, -100, -100], [0, 0, -100, -100], [-100, -100, 0, 0], [-100, -100, 0, 0]]
    assert mask[0].tolist() == apart_vertically
    assert mask[1].tolist() == [[0 if i == j else -100 for j in range(4)] for i in range(4)]
