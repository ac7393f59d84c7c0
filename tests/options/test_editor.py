"""The schema for editors, and the tables of the docs."""

import json

import pytest
import yaml

from contrast_arch.options.editor import MAY_BE_EMPTY, editor_schema
from contrast_arch.options.schema import OptionFile
from contrast_arch.options.validation import KEYS
from tests.conftest import ROOT, tiny_options

jsonschema = pytest.importorskip("jsonschema")
FILES = sorted((ROOT / "options").rglob("*.yml"))
VALIDATOR = jsonschema.Draft7Validator(json.loads(editor_schema()))


def errors(options):
    """Message of each error, with the path of its section."""
    # What an editor reads: 5000.0 of !!float 5e3 is a whole number.
    return [(*map(str, error.absolute_path), error.message) for error in VALIDATOR.iter_errors(options)]


def test_shipped_files_have_no_errors_and_name_it():
    jsonschema.Draft7Validator.check_schema(VALIDATOR.schema)
    for file in FILES:
        text = file.read_text()
        assert text.startswith("# yaml-language-server: $schema=../schema.json\n")
        assert errors(yaml.load(text, yaml.CSafeLoader)) == [], file


@pytest.mark.parametrize(
    "changes, found",
    [
        ({"train": {"amp": "fp8"}}, ("train", "amp", "'fp8' is not one of ['bf16', 'fp16', None]")),
        ({"train": {"compile": 1.5}}, ("train", "compile", "1.5 is not one of [True, False, 'default', ")),
        ({"train": {"acumulate": 2}}, ("train", "Additional properties are not allowed ('acumulate' was unexpected)")),
        (
            {"val": {"tile": {"overlap": 4}}},
            ("val", "tile", "'size' is a required property"),
        ),
        ({"val": {"val_freq": 0}}, ("val", "val_freq", "0 is less than the minimum of 1")),
        ({"scale": 4.5}, ("scale", "4.5 is not of type 'integer'")),
        ({"logger": None}, ("'logger' is a required property",)),
        ({"num_gpu": "all"}, ("num_gpu", "'all' is not valid under any of the given schemas")),
        ({"datasets": {"val": {"type": "A"}}}, ("datasets", "val", "'name' is a required property")),
        ({"datasets": {"train": {"name": "a", "type": "b"}}}, ("datasets", "train", "'batch_size_per_gpu' is a req")),
    ],
)
def test_mistakes(tmp_path, changes, found):
    error, *_ = errors(tiny_options(tmp_path, **changes))
    assert error[:-1] == found[:-1] and error[-1].startswith(found[-1])


def test_what_is_right(tmp_path):
    train = {"total_iter": 5e3, "amp": None, "compile": "max-autotune", "clip_grad_norm": 1, "perceptual_opt": None}
    options = tiny_options(tmp_path, model_type="ContrastModel", train=train, val={"tile": {"size": 64, "overlap": 16}})
    assert errors(options) == errors({**options, "num_gpu": "auto", "imports": ["hat.archs"]}) == []


def test_a_model_of_a_project_may_have_keys_of_its_own(tmp_path):
    options = tiny_options(tmp_path, train={"net_d_iters": 1}) | {"network_d": {"type": "A"}}
    assert len(errors(options)) == 2
    assert errors(options | {"model_type": "SRGANModel"}) == []


def test_a_test_needs_no_training(tmp_path):
    options = tiny_options(tmp_path, train=None, logger=None, scale=None)
    assert errors(options) == []
    assert errors({**options, "val": {}}) == [("val", "'save_img' is a required property")]


def test_sections_that_may_be_empty():
    """Every reference to one of them may be null, and no other may."""
    for section in [OptionFile.model_json_schema(), *OptionFile.model_json_schema()["$defs"].values()]:
        for key in section["properties"].values():
            if "anyOf" in key and "$ref" in key["anyOf"][0]:
                assert key["anyOf"][0]["$ref"].split("/")[-1] in MAY_BE_EMPTY and key["anyOf"][1:] == [{"type": "null"}]
            elif "$ref" in key:
                assert key["$ref"].split("/")[-1] not in MAY_BE_EMPTY


def test_the_page_has_the_tables_of_the_schema():
    text = (ROOT / "docs" / "options.md").read_text()
    for path in KEYS:
        assert f"| `{path[-1]}` |" in text
    assert "| `keep_last` | Newest states that are kept, besides those of the best metrics; ~: all | " in text
    assert "a whole number of at least 1, or ~ | states |  | contrast-train |" in text
    assert "| `total_iter` | Length of the training | a whole number from 1 to 1000000000 | iterations |" in text
    assert "### train: pixel_opt, perceptual_opt\n" in text and "### val: metrics: NAME\n" in text
