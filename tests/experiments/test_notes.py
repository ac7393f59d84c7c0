"""Notes on missing, broken or different runs stand in the page, in report.md and on stdout."""

import pytest

from tests.experiments.reports import FILES, Page, make, rows, three_runs
from tests.experiments.writing import OPTIONS, Start, changed, whole_run


def everywhere(out, printed):
    """Notes, which have to stand in the page, in report.md and on stdout alike."""
    notes = [line.removeprefix("note: ") for line in printed.splitlines() if line.startswith("note: ")]
    page = "".join(Page((out / "index.html").read_text()).text)
    markdown = (out / "report.md").read_text()
    for note in notes:
        assert note in page
        assert f"- {note}\n" in markdown
    # Text logs have no values of single images.
    return [note for note in notes if not note.startswith("no difference by image of A and ")]


def test_notes_stand_everywhere(tmp_path, capsys):
    folders = three_runs(tmp_path)
    out = make(tmp_path, *folders, folders[0])
    notes = everywhere(out, capsys.readouterr().out)
    expected = [
        f"{folders[0]}: named twice; read once",
        f"{folders[2]}: iteration 30 ends no checkpoint interval (20 iterations)",
        "The curves end at different numbers of images: Contrast at 240; HATLight at 240; Mamba_a at 120. Compare",
        "no difference by image of Contrast and HATLight on Set5 and 2 more: no validation of both",
    ]
    assert len(notes) == len(expected)
    assert all(any(note.startswith(text) for note in notes) for text in expected)


def test_nothing_to_note(tmp_path, capsys):
    out = make(tmp_path, whole_run(tmp_path))
    assert everywhere(out, capsys.readouterr().out) == []
    assert "Nothing was missing." in (out / "index.html").read_text()


def test_missing_tag_and_no_validation(tmp_path, capsys):
    whole = whole_run(tmp_path)
    start = Start(tmp_path, "B")
    start.train({10: 0.1, 20: 0.1, 40: 0.1, 60: 0.1})
    start.validate(60, psnr=20.0)
    without = Start(tmp_path, "C")
    without.train({20: 0.1, 60: 0.1})
    out = make(tmp_path, whole, start.folder, without.folder)
    assert everywhere(out, capsys.readouterr().out) == [
        f"{without.folder}: no validation so far; it has no point in the figures of PSNR and SSIM",
        f"{start.folder}: no metrics/Set5/ssim, which others have",
    ]


def test_no_validation_in_any(tmp_path):
    start = Start(tmp_path)
    start.train({10: 0.1, 20: 0.1})
    out = make(tmp_path, start.folder)
    assert {path.name for path in out.iterdir()} == FILES - {"parameters.png", "validation_Set5.png"}


def test_experiment_without_anything_keeps_its_row(tmp_path, capsys):
    start = Start(tmp_path, "B")
    out = make(tmp_path, whole_run(tmp_path), start.folder)
    notes = everywhere(out, capsys.readouterr().out)
    assert notes == [f"{start.log}: no line of training yet", f"{start.folder}: nothing was logged yet"]
    assert "| B | Contrast | 1,491,300 | - | - | - | - | 0 (not finished) | - | - |" in (out / "report.md").read_text()


def test_a_resumed_run_does_not_differ_in_its_own_checkpoint(tmp_path, capsys):
    """BasicSR writes what it resumes from over what the run began with."""
    own = str(tmp_path / "experiments" / "B" / "models")
    resumed = changed(OPTIONS, path={"models": own, "pretrain_network_g": f"{own}/net_g_20.pth"})
    begun_anew = whole_run(tmp_path)
    out = make(tmp_path, begun_anew, whole_run(tmp_path, "B", options=resumed))
    assert everywhere(out, capsys.readouterr().out) == []
    tuned = changed(OPTIONS, path={"models": own, "pretrain_network_g": "experiments/X2/models/net_g_latest.pth"})
    out = make(tmp_path, begun_anew, whole_run(tmp_path, "C", options=tuned))
    assert everywhere(out, capsys.readouterr().out) == [
        "The experiments differ in path: pretrain_network_g: none (A); experiments/X2/models/net_g_latest.pth (C)"
    ]


@pytest.mark.parametrize(
    "change, text",
    [
        ({"train__optim_g__lr": 4e-4}, "differ in train: optim_g: lr: 0.0002 (A); 0.0004 (B)"),
        ({"train__pixel_opt__type": "L1Loss"}, "differ in train: pixel_opt: type: MSELoss (A); L1Loss (B)"),
        ({"train__ema_decay": 0.999}, "differ in train: ema_decay: none (A); 0.999 (B)"),
        ({"datasets__train__gt_size": 128}, "differ in datasets: train: gt_size: 64 (A); 128 (B)"),
        ({"datasets__train__dataroot_gt": "other"}, "differ in datasets: train: dataroot_gt: none (A); other (B)"),
        ({"datasets__train__batch_size_per_gpu": 8}, "differ in images an iteration: 4 (A); 8 (B)"),
        ({"datasets__val_1__dataroot_gt": "x"}, "differ in datasets: val: Set5: dataroot_gt: data/Set5 (A); x (B)"),
        ({"scale": 2}, "differ in scale: 4 (A); 2 (B)"),
        ({"val__metrics__psnr__crop_border": 0}, "differ in val: metrics: psnr: crop_border: 4 (A); 0 (B)"),
    ],
)
def test_unfair_options_are_named(tmp_path, capsys, change, text):
    make(tmp_path, whole_run(tmp_path), whole_run(tmp_path, "B", options=changed(OPTIONS, **change)))
    assert text in capsys.readouterr().out


def test_fair_options_are_not_named(tmp_path, capsys):
    options = changed(OPTIONS, datasets__train__num_worker_per_gpu=9, network_g__type="HATLight", name="other")
    make(tmp_path, whole_run(tmp_path), whole_run(tmp_path, "B", options=options))
    assert "differ in" not in capsys.readouterr().out


def test_text_log_and_option_file_agree(tmp_path, capsys):
    """The same options, read from a log and from an option file that writes a number as text."""
    folders = whole_run(tmp_path), whole_run(tmp_path, "B", options=changed(OPTIONS, train__optim_g__lr="2e-4"))
    next(folders[1].glob("*.log")).unlink()
    make(tmp_path, *folders)
    assert "differ" not in capsys.readouterr().out


def test_experiments_of_the_same_name(tmp_path, capsys):
    folders = [whole_run(tmp_path / root, "A") for root in ("one", "two")]
    out = make(tmp_path, *folders)
    assert [line["experiment"] for line in rows(out / "summary.csv")] == ["A (one)", "A (two)"]
    notes = everywhere(out, capsys.readouterr().out)
    assert notes[0] == f"{folders[0]}: another experiment has this name; shown as A (one)"
