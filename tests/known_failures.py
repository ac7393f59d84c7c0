"""Known failures: data, checked both ways.

A case that is listed fails as listed, and its test says so where it has begun to work. All others work.
"""

import contextlib

import pytest

from contrast_arch.errors import InputError

OTHER_WAYS = r"cannot .*: use torch\.export\.export.*contrast-arch onnx"
# (kind, case) -> what is raised, and the message.
KNOWN_FAILURES = {
    ("recorder", "jit.script"): (NotImplementedError, OTHER_WAYS),
    ("recorder", "fx.symbolic_trace"): (NotImplementedError, OTHER_WAYS),
    # It is for matrices; a network has other parameters too.
    ("optimizer", "Muon"): (InputError, "train: optim_g: Muon: Muon only supports 2D"),
}


@contextlib.contextmanager
def works_unless_known(kind: str, case: str):
    """Let the body fail as it is listed and in no other way."""
    known = KNOWN_FAILURES.get((kind, case))
    with pytest.raises(known[0], match=known[1]) if known else contextlib.nullcontext():
        yield
