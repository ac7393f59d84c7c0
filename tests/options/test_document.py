"""The text of an option file: lines, keys that stand twice, and what is not YAML."""

import os
import subprocess
import sys

import pytest

from contrast_arch.errors import InputError
from contrast_arch.options.document import UnreadableError, forced, read_document, read_options
from tests.conftest import ROOT

TEXT = """\
name: a
train:
  # a comment
  optim_g: {type: Adam, lr: 1}
  scheduler:
    type: MultiStepLR
name: b
train2: &x
  gamma: 1
  gamma: 2
train3: *x
"""


def test_lines_of_keys(tmp_path):
    (tmp_path / "a.yml").write_text(TEXT)
    document = read_document(str(tmp_path / "a.yml"))
    assert document.options["name"] == "b"
    expected = {("train",): 2, ("train", "optim_g", "lr"): 4, ("train", "scheduler", "type"): 6}
    assert {path: document.line(path) for path in expected} == expected
    # Of a section that is an alias, its own.
    assert document.line(("train3", "gamma")) == 11
    # A key that is missing is looked for in its section, a section in the file.
    assert document.line(("train", "scheduler", "gamma")) == 5
    assert document.line(("logger", "print_freq")) == 1


def test_all_keys_that_stand_twice(tmp_path):
    (tmp_path / "a.yml").write_text(TEXT)
    file = str(tmp_path / "a.yml")
    found = [(problem.line, problem.message) for problem in read_document(file).problems]
    assert found[:2] == [
        (7, "'name' stands already in line 1; keep one"),
        (10, "'gamma' stands already in line 9; keep one"),
    ]
    with pytest.raises(InputError) as failure:
        read_options(file)
    assert f"{file}, line 7: 'name' stands already in line 1; keep one\n" in str(failure.value)


@pytest.mark.parametrize(
    "text, line, message",
    [
        (b"", None, "no options: expected 'key: value' lines"),
        (b"a: [1\n", 2, "while parsing a flow sequence, did not find expected ',' or ']'"),
        (b"a: 1\n\tb: 2\n", 2, "while scanning a plain scalar, found a tab character"),
        (b"a: &a {b: 1}\nc:\n  <<: *a\n", 3, "BasicSR's reader takes no merge keys (<<: *name); write the keys out"),
        (b"a: *nowhere\n", 1, "found undefined alias"),
        (b"a: !!int x\n", None, "not readable as YAML: invalid literal for int()"),
        (b"a: &a {b: *a}\n", 1, "with its aliases (*name) written out it has over 100,000 values"),
        (b"a: \xff\n", None, "'utf-8' codec can't decode byte 0xff"),
        (b"a: " + b"[" * 3000, 1, "exceeded maximum nesting depth"),
    ],
)
def test_what_is_not_readable(tmp_path, text, line, message):
    (tmp_path / "a.yml").write_bytes(text)
    with pytest.raises(UnreadableError) as failure:
        read_document(str(tmp_path / "a.yml"))
    assert message in failure.value.problem.message and message in str(failure.value)
    assert failure.value.problem.line == line


@pytest.mark.parametrize(
    "text", ["a: 1\n\tb: 2\n", "a:\n\tb: 1\n", "a:\n  \tb: 1\n", "a:\n\t- 1\n", "a: 1\n\t\nb: 2\n", "a: |\n\tx\n"]
)
def test_a_tab_as_indentation(tmp_path, text):
    """YAML's own message may be 'found character that cannot start any token'; other tabs YAML takes."""
    file = tmp_path / "a.yml"
    file.write_text(text)
    with pytest.raises(UnreadableError) as failure:
        read_document(str(file))
    end = "; the line is indented with a tab, and YAML takes spaces only: replace the tab by spaces"
    assert failure.value.problem.message.endswith(end) and failure.value.problem.line == 2
    file.write_text("a:\t1\nb: {c: 2,\n\td: 3}\n")
    assert read_options(str(file)) == {"a": 1, "b": {"c": 2, "d": 3}}
    file.write_text("a:\t1\nb: [\n")
    with pytest.raises(UnreadableError) as failure:
        read_document(str(file))
    assert "tab" not in failure.value.problem.message


@pytest.mark.parametrize("tag", ["object/apply:os.mkdir [made]", "name:os.mkdir ''", "object/new:pathlib.Path [a]"])
def test_no_code_is_run(tmp_path, monkeypatch, tag):
    """PyYAML's loader, as BasicSR takes it, would."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.yml").write_text(f"name: a\nlr: !!python/{tag}\n")
    with pytest.raises(UnreadableError, match=r"a\.yml, line 2: not readable as YAML: could not determine a construct"):
        read_document("a.yml")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    "entry, message",
    [
        ("train:lr", "expected key:key=value"),
        ("trian:lr=1", "the option file has no section 'trian' there"),
        ('train:lr"]=__import__("os").mkdir("made")#=1', "expected key:key=value"),
        ('train:lr"]#=1', "expected key:key=value"),
        ("train:lr=[1", "the value cannot be read"),
        ("train:lr=!!float x", "the value cannot be read"),
    ],
)
def test_changes_that_cannot_be_made(entry, message):
    with pytest.raises(InputError, match=f"--force_yml .*{message}"):
        forced({"train": {"lr": 1.0}}, [entry])


def test_changes_as_basicsr_reads_them():
    options = {"train": {"total_iter": 1, "lr": 2.0}, "val": {"save_img": False}, "name": "a"}
    changes = ["train:total_iter=20", "train:lr=!!float 1e-4", "val:save_img=true", "name=b"]
    expected = {"train": {"total_iter": 20, "lr": 1e-4}, "val": {"save_img": True}, "name": "b"}
    assert forced(options, changes) == expected and options["name"] == "a"


def test_neither_torch_nor_basicsr_is_imported(tmp_path):
    """Not by reading and writing option files, nor by checks against the schema."""
    (tmp_path / "a.yml").write_text("train: {total_iter: 1e5}\n")
    program = (
        "import sys, contrast_arch, contrast_arch.cli; assert 'pydantic' not in sys.modules; "
        "assert contrast_arch.cli.main(['options', '--network', 'Contrast']) == 0 and 'yaml' not in sys.modules; "
        "from contrast_arch.options.document import forced, read_options; "
        "from contrast_arch.options.validation import missing_problems, value_problems; "
        "options = forced(read_options('a.yml'), []); "
        "assert [*value_problems(options), *missing_problems(options, True, 'a.yml')]; "
        "assert not {'torch', 'basicsr', 'numpy'} & set(sys.modules)"
    )
    subprocess.run(
        [sys.executable, "-c", program], check=True, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )


@pytest.mark.parametrize("text", ["a: 2e-4\nb: 2.0e-4\nc: 012\nd: yes\ne: 1_000\nf: 2024-01-01\n", "a: {c: [1., ~]}\n"])
def test_values_are_those_of_basicsr(tmp_path, text):
    import yaml
    from basicsr.utils.options import ordered_yaml

    (tmp_path / "a.yml").write_text(text)
    assert read_options(str(tmp_path / "a.yml")) == yaml.load(text, Loader=ordered_yaml()[0])
    (tmp_path / "a.yml").write_text("betas: !!python/tuple [0.9, 0.99]\n")
    assert read_options(str(tmp_path / "a.yml")) == {"betas": (0.9, 0.99)}
