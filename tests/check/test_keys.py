"""Keys against the schema alone: unknown ones, those under path, ContrastModel's, and those that forks may read."""

import pytest

from contrast_arch.check import RunContext, find_problems
from contrast_arch.options import validation
from contrast_arch.options.validation import KEYS, allowed, schema_of
from tests.check.conftest import ABSENT, edited
from tests.conftest import ROOT

# Each network and size once, for training and for testing.
SHIPPED = sorted((ROOT / "options").rglob("*SRx4.yml")) + sorted((ROOT / "options").rglob("*SRx4_from_scratch.yml"))


@pytest.mark.parametrize("file", SHIPPED, ids=lambda path: path.stem)
def test_shipped_files_lack_data_only(file, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    problems = find_problems(str(file), RunContext("train" in file.parent.name))
    assert problems and all("does not exist" in problem.message and problem.line > 1 for problem in problems)


def problems(options):
    return list(validation.value_problems(options))


@pytest.mark.parametrize("model_type", ["SRModel", "ContrastModel", "SRGANModel"])
@pytest.mark.parametrize(
    "key, meant",
    [
        ("pretrain_network_G", "pretrain_network_g"),
        ("pretrained_network_g", "pretrain_network_g"),
        ("pretrain_model_g", "pretrain_network_g"),  # of BasicSR 1.1
        ("resume", "resume_state"),
        ("resume_states", "resume_state"),
        ("param_key", "param_key_g"),
        ("strict_load", "strict_load_g"),
    ],
)
def test_misspelt_keys_of_what_to_begin_with(key, meant, model_type):
    (found,) = problems({"model_type": model_type, "path": {key: "net.pth"}})
    assert found.fatal and found.message == f"path: {key}: no such key; did you mean {meant}?"


@pytest.mark.parametrize("key", ["pretrain_network_g", "resume_state", "param_key_g", "strict_load_g"])
def test_a_path_outside_of_its_section(key):
    for options, where in (({key: "net.pth"}, key), ({"train": {key: "net.pth"}}, f"train: {key}")):
        (found,) = problems({"model_type": "SRModel", **options})
        assert found.fatal and found.message == f"{where}: no such key; it belongs under path"


def test_what_keeps_a_run_from_starting():
    """BasicSR makes folders of other keys under path; projects may have further ones."""

    def fatal(paths, model_type="SRModel", **options):
        return {p.path[-1]: p.fatal for p in problems({"model_type": model_type, "path": paths, **options})}

    assert fatal({"rot": "here"}) == {"rot": True}
    assert fatal({"rot": "here"}, "SRGANModel") == {"rot": False}
    paths = {"pretrain_network_d": None, "param_key_d": "params", "strict_load_d": True}
    assert fatal(paths, "SRGANModel", network_d={"type": "UNetDiscriminatorSN"}) == {}
    assert fatal({"pretrain_network_d": "d.pth"}) == {"pretrain_network_d": True}
    found = fatal({"pretrain_network_hq": None, "pretrain_network_G": None}, "SRGANModel")
    assert found == {"pretrain_network_hq": False, "pretrain_network_G": True}
    assert [p.fatal for p in problems({"model_type": "SRModel", "val": {"sufix": None}})] == [False]
    assert [p.fatal for p in problems({"model_type": "ContrastModel", "val": {"sufix": None}})] == [True]


def test_keys_that_a_fork_may_read(check, root, monkeypatch):
    """Beside a BasicSR that is no release: MambaIR's and DAT's ``task``, MambaIR's lists of folders."""
    monkeypatch.setattr(validation, "basicsr_is_released", lambda: False)
    data = {"task": "SR", "dataroot_gt": [str(root / "HR")], "dataroot_lq": ["here"]}
    edits = {f"datasets.train.{key}": value for key, value in data.items()} | {"val.sufix": None}
    assert check(edits) == []
    # The keys of ContrastModel are known.
    found = check({"model_type": "ContrastModel", "train.acumulate": 2})
    assert "error: train: acumulate: no such key; did you mean accumulate?" in found


@pytest.mark.parametrize("path", KEYS, ids=": ".join)
def test_keys_of_contrast_model(check, path):
    value = {"amp": "bf16", "save_format": "safetensors", "tile": {"size": 16}}.get(path[-1])
    default, where = KEYS[path]["default"], ": ".join(path)
    right = {path: value or (not default if isinstance(default, bool) else 2)}
    assert check(right) == [f"error: {where}: SRModel ignores it; 'model_type: ContrastModel' has it"]
    assert check(right | {"model_type": "ContrastModel"}) == []
    found = problems(edited({"model_type": "ContrastModel"}, {path: "nonsense"}))
    assert [p.message for p in found] == [f"{where}: 'nonsense': expected {allowed(schema_of(path))}"]


@pytest.mark.parametrize("kind, severity", [("ProjectsDataset", None), ("PairedImageDataset", "warning")])
def test_datasets_of_others_may_have_keys_of_their_own(kind, severity):
    options = {"model_type": "SRModel", "datasets": {"train": {"type": kind, "task": "SR"}}}
    found = [(problem.severity, problem.message) for problem in problems(options)]
    assert found == ([(severity, "datasets: train: task: no such key; it is ignored")] if severity else [])


def test_keys_that_are_no_text(check):
    """BasicSR cannot print them; they are not held against the name of a missing one either."""
    found = check({("val", "metrics"): {True: {"type": "calculate_niqe", "crop_border": 0}}, (1,): 2, "name": ABSENT})
    text = "a key that is no text, which BasicSR cannot print; quote it"
    assert {f"error: val: metrics: true: {text}", f"error: 1: {text}"} < set(found)
    assert any(message.startswith("error: options.yml has no name; the option files") for message in found)
