"""Folders that are refused; a report is written as a whole or not at all."""

import sys

import pytest

from contrast_arch.errors import InputError
from tests.experiments.reports import FILES, make, rows
from tests.experiments.writing import Start, whole_run


def test_second_call_replaces(tmp_path):
    out = make(tmp_path, whole_run(tmp_path))
    start = Start(tmp_path, "B")
    start.train({20: 0.1})
    make(tmp_path, start.folder)
    assert {path.name for path in out.iterdir()} == FILES - {"parameters.png", "validation_Set5.png"}
    assert rows(out / "summary.csv")[0]["experiment"] == "B"
    assert {path.name for path in tmp_path.iterdir()} == {"experiments", "out"}


def test_failure_leaves_the_earlier_report(tmp_path, monkeypatch):
    folder = whole_run(tmp_path)
    out = make(tmp_path, folder)
    before = {path.name: path.read_bytes() for path in out.iterdir()}

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", fail)
    with pytest.raises(InputError, match="out cannot be written: No space left"):
        make(tmp_path, folder)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert {path.name for path in tmp_path.iterdir()} == {"experiments", "out"}


def test_output_with_other_files_is_refused(tmp_path):
    folder = whole_run(tmp_path)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match=r"thesis\.tex, which no report wrote"):
        make(tmp_path, folder)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.tex"]
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file; name a folder"):
        make(tmp_path, folder, output="file")


def test_folders_that_are_refused(tmp_path):
    whole = whole_run(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="nowhere does not exist; expected the folder of an experiment"):
        make(tmp_path, whole, tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"A\.yml is a file"):
        make(tmp_path, whole / "A.yml")
    with pytest.raises(InputError, match=r"empty holds no experiment; expected a folder experiments/NAME with"):
        make(tmp_path, whole, tmp_path / "empty")
    with pytest.raises(InputError, match=r"experiments holds experiments; name them: .*experiments/A"):
        make(tmp_path, tmp_path / "experiments")
    assert not (tmp_path / "out").exists()


def test_nothing_usable_is_refused(tmp_path):
    start = Start(tmp_path)
    with pytest.raises(InputError, match=r"(?s)nothing to report in any experiment:.*no line of training yet"):
        make(tmp_path, start.folder)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("package, module", [("jinja2", "page"), ("plotly.offline", "page"), ("matplotlib", "figures")])
def test_missing_package(tmp_path, monkeypatch, package, module):
    monkeypatch.delitem(sys.modules, f"contrast_arch.experiments.{module}", raising=False)
    monkeypatch.delattr(f"contrast_arch.experiments.{module}", raising=False)
    monkeypatch.setitem(sys.modules, package, None)
    message = f"the report needs {package}, which is not installed: pip install 'contrast-arch\\[report\\]'"
    with pytest.raises(InputError, match=message):
        make(tmp_path, whole_run(tmp_path))
    assert not (tmp_path / "out").exists()
