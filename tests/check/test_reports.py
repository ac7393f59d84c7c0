"""Reports of users of BasicSR, HAT, Real-ESRGAN, neosr, KAIR and others, as small cases: what ``check`` says of each.

Each test names the reports as OWNER/REPOSITORY#NUMBER on GitHub.
"""

import pytest


def of_data(phase, **keys):
    return lambda options: options["datasets"][phase].update(keys)


def texts(problems, severity):
    return [text for found, text in problems if found == severity]


@pytest.mark.parametrize("is_train", [True, False])
@pytest.mark.parametrize("by_list", [True, False])
def test_training_data_without_images(check, root, is_train, by_list):
    """xinntao/Real-ESRGAN#703 and #380: the trainer ends with a ZeroDivisionError."""
    (root / "empty").mkdir()
    (root / "empty.txt").touch()
    keys = {"meta_info_file": "empty.txt"} if by_list else {"dataroot_gt": "empty", "dataroot_lq": "empty"}
    found = texts(check(of_data("train", **keys), is_train=is_train), "error")
    assert found == [f"datasets: train: no image in {'empty.txt' if by_list else 'empty'}"]
