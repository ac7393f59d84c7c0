"""Finished experiments to export from, and files that are refused."""

import pytest
import torch

from contrast_arch import load_pretrained
from contrast_arch.errors import InputError
from contrast_arch.registration import networks
from tests.conftest import TINY
from tests.experiments.writing import OPTIONS, changed, whole_run


def assert_refused(path, make, message):
    """Write a file, which is refused in a line that names it."""
    make(path)
    with pytest.raises(InputError, match=message) as raised:
        load_pretrained(path)
    assert f"checkpoint {path}" in str(raised.value) and "\n" not in str(raised.value)


def finish(root, network_g=TINY, **values):
    """A folder experiments/A that looks like one of 60 iterations.

    Args:
        values: key -> the network's bias under it in the checkpoint of the end; by default 2 under "params".

    Returns:
        Its options, the folder, and a function that saves another checkpoint.
    """
    options = changed(OPTIONS, network_g=dict(network_g))
    folder = whole_run(root, options=options)
    (folder / "models").mkdir()
    arguments = {key: value for key, value in network_g.items() if key != "type"}

    def save(name, **values):
        state = networks()[network_g["type"]](**arguments).state_dict()
        bias = "norm.bias" if "norm.bias" in state else "conv_after_body.bias"
        content = {key: state | {bias: torch.full_like(state[bias], value)} for key, value in values.items()}
        torch.save(content, folder / "models" / name)

    save("net_g_latest.pth", **(values or {"params": 2}))
    return options, folder, save


@pytest.fixture
def finished(tmp_path):
    return tmp_path, *finish(tmp_path)
