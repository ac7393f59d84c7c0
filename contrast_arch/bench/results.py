"""From what was measured to tables and files."""

import json
import statistics
from pathlib import Path

from contrast_arch.bench.measure import ratio
from contrast_arch.files import replacing

EPOCH = 11_056  # batches of eight, LSDIR + DF2K


def table(header: list[str], rows: list[list[str]]) -> list[str]:
    """Lines of a Markdown table."""
    return [f"| {' | '.join(header)} |", "|" + "---|" * len(header), *(f"| {' | '.join(row)} |" for row in rows)]


def save(target: Path, text: str, data: dict) -> None:
    """Write TARGET.md and TARGET.json."""
    target.parent.mkdir(parents=True, exist_ok=True)
    for suffix, content in ((".md", text), (".json", json.dumps(data, indent=1) + "\n")):
        with replacing(target.with_suffix(suffix)) as temporary:
            temporary.write_text(content)


def summary(found: dict) -> list[dict]:
    """What the table and the figure show of each network; None where nothing was measured.

    ``iteration_over`` and ``peak_over`` are ratios to the networks of ``found["bases"]``, by their names: the first is
    the median over the rounds of the ratio within a round.
    """
    networks = {network["name"]: network for network in found["networks"]}
    bases = [networks[name] for name in found["bases"]]
    return [_summary(network, bases) for network in networks.values()]


def _summary(network, bases):
    steps, inferences = (network["seconds"][kind] for kind in ("step", "inference"))
    iteration, peak = statistics.median(steps) if steps else None, network["peak_mib"]
    return {
        "name": network["name"],
        "parameters": network["parameters"],
        "multiply_adds": network["multiply_adds"],
        "iteration_s": iteration,
        "iteration_over": {
            b["name"]: ratio(steps, b["seconds"]["step"]) for b in bases if steps and b["seconds"]["step"]
        },
        "epoch_min": iteration and iteration * EPOCH / 60,
        "peak_mib": peak,
        "peak_over": {b["name"]: peak / b["peak_mib"] for b in bases if peak and b["peak_mib"]},
        "inference_s": statistics.median(inferences) if inferences else None,
    }


def _cell(value, form):
    return "" if value is None else format(value, form)


def _row(summary, bases):
    cells = [summary["name"], f"{summary['parameters']:,}"]
    cells += [_cell(value and value / 1e9, ".2f") for value in summary["multiply_adds"].values()]
    cells.append(_cell(summary["iteration_s"], ".3f"))
    cells += [_cell(summary["iteration_over"].get(base), ".2f") for base in bases]
    cells += [_cell(summary["epoch_min"], ".1f"), _cell(summary["peak_mib"], ".0f")]
    cells += [_cell(summary["peak_over"].get(base), ".2f") for base in bases]
    return [*cells, _cell(summary["inference_s"], ".3f")]


def report(found: dict) -> str:
    """Machine, setting, table, checks and notes, in Markdown."""
    over = [f"over {base}" for base in found["bases"]]
    header = ["network", "parameters", "G multiply-adds, 64x64 LQ", "G multiply-adds, 1280x720 output"]
    header += ["iteration, s", *over, f"{EPOCH:,} iterations, min", "peak, MiB", *over, "inference, s"]
    rows = [_row(row, found["bases"]) for row in found["summary"]]
    passed = sum(check["passed"] for check in found["checks"])
    lines = [describe(found), "", *table(header, rows), "", f"{passed} of {len(found['checks'])} checks passed."]
    return "\n".join([*lines, *([""] if found["notes"] else []), *(f"- {note}" for note in found["notes"])]) + "\n"


def describe(found: dict) -> str:
    """Machine and setting in sentences."""
    here, setting = found["machine"], found["setting"]
    batch, patch, scale = setting["batch"], setting["patch"], setting["scale"]
    on_gpu = setting["device"] != "cpu"
    where = f"{here['gpu']}, CUDA {here['cuda']}" if on_gpu else f"{here['cpu']}, {here['threads']} threads"
    images = f"{batch} LQ image{'s' if batch > 1 else ''} of {patch}x{patch}"
    what = "allocated in one iteration" if on_gpu else "of an iteration in a process of its own"
    precision = "float32 (TF32 in convolutions)" if on_gpu and setting["tf32"]["convolutions"] else "float32"
    setting_is = (
        "the published setting" if setting["published"] else "NOT the published setting (batch 8, 64x64 LQ, X4)"
    )
    return (
        f"{where}, torch {here['torch']}, backend {setting['backend']}, Python {here['python']}.\n\n"
        f"An iteration is a training step, X{scale}, {images}, MSE and Adam with lr 2e-4, {precision}: {setting_is}. "
        f"Inference is the same images without gradient. Medians of {setting['rounds']} rounds, the networks "
        f"interleaved; ratios of times are medians of the ratio within a round. The peak is that {what}, above what "
        f"the network takes at rest. Multiply-adds are those of one image, the scan counted."
    )
