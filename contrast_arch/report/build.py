"""The files of a report, made from experiments."""

from pathlib import Path

from contrast_arch.errors import InputError
from contrast_arch.report import events, figures, tables
from contrast_arch.report.charts import charts
from contrast_arch.report.differences import differences, set_labels, without_repeats
from contrast_arch.report.page import page
from contrast_arch.report.records import looks_like_experiment, read_experiment


def build(folders: list[Path]) -> tuple[dict[str, bytes], list[str]]:
    """Read experiments and make every file of their report.

    Args:
        folders: ``experiments/NAME``.

    Returns:
        File name -> content, and notes on what was missing, broken or different.

    Raises:
        InputError: see :func:`contrast_arch.report.run`.
    """
    for folder in folders:
        _check(folder)
    folders, notes = without_repeats(folders)
    experiments = [read_experiment(folder) for folder in folders]
    drawable = [e for e in experiments if e.values and e.images_per_iteration]
    if not drawable:
        reasons = "\n  ".join(note for experiment in experiments for note in experiment.notes)
        raise InputError(f"nothing to report in any experiment:\n  {reasons}")
    if not events.available():
        notes.append(
            "TensorBoard is not installed, so that everything is read from the text logs, which round losses to five "
            "digits and metrics to four decimals; to read its events: pip install tensorboard"
        )
    notes += set_labels(experiments)
    notes += [note for experiment in experiments for note in experiment.notes]
    notes += differences(experiments)
    drawn = charts(drawable)
    texts = {
        "index.html": page(experiments, drawn, notes),
        "report.md": tables.markdown(experiments, drawn, notes),
        "curves.csv": tables.curves_csv(experiments),
        "summary.csv": tables.summary_csv(experiments),
    }
    files = {name: text.encode() for name, text in texts.items()}
    return files | {f"{chart.name}.png": figures.png(chart) for chart in drawn}, notes


def _check(folder):
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise InputError(f"{folder} {what}; expected the folder of an experiment, experiments/NAME")
    if looks_like_experiment(folder):
        return
    inside = sorted(path for path in folder.iterdir() if path.is_dir() and looks_like_experiment(path))
    if inside:
        raise InputError(f"{folder} holds experiments; name them: {' '.join(map(str, inside))}")
    raise InputError(
        f"{folder} holds no experiment; expected a folder experiments/NAME with BasicSR's option file (*.yml) and text "
        "logs (train_NAME_TIMESTAMP.log), and its events in tb_logger/NAME beside experiments"
    )
