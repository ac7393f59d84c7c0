"""Tables of what was measured."""

import statistics

from contrast_arch.experiments.bench.measure import ratio
from contrast_arch.experiments.markdown import table

EPOCH = 11_056  # batches of eight, LSDIR + DF2K
COUNTS = {"lq_64x64": "G multiply-adds, 64x64 LQ", "output_1280x720": "G multiply-adds, 1280x720 output"}


def summary(found: dict, batch: str) -> list[dict]:
    """Figures of each network at a batch; None where nothing was measured.

    ``..._over`` are ratios to ``found["base"]``: of times, the median over the rounds of the ratio within a round.
    """
    seconds, peaks, base = found["seconds"][batch], found["peak_mib"][batch], found["base"]
    rows = []
    for name in seconds["step"]:
        row = {"name": name, "peak_mib": peaks.get(name), "peak_over": None}
        for kind, all_times in seconds.items():
            times, of_base = all_times[name], all_times.get(base)
            row[f"{kind}_s"] = statistics.median(times) if times else None
            row[f"{kind}_over"] = ratio(times, of_base) if times and of_base else None
        if row["peak_mib"] and peaks.get(base):
            row["peak_over"] = row["peak_mib"] / peaks[base]
        rows.append(row)
    return rows


def _cell(value, form):
    return "" if value is None else format(value, form)


def _networks(found, batch):
    """The table of a batch; columns of which nothing is known are left out."""
    base, on_gpu = found["base"], found["setting"]["device"] != "cpu"
    over = [f"over {base.removesuffix(' (upstream)')}"] if base else []
    counts = COUNTS if found["multiply_adds"] else {}
    datasets = list(dict.fromkeys(name for values in found["psnr"].values() for name in values))
    header = ["network", "parameters", *counts.values(), "inference, s", *over, "training step, s", *over]
    header += [f"{EPOCH:,} steps, min"] * on_gpu + ["peak of a step", *(f"PSNR on {name}" for name in datasets)]
    rows = []
    for row in summary(found, batch):
        name = row["name"]
        cells = [name, f"{found['thousands'][name]:.0f}K"]
        cells += [_cell(n and n / 1e9, ".2f") for n in (found["multiply_adds"][name][key] for key in counts)]
        for kind in ("inference", "step"):
            cells += [_cell(row[f"{kind}_s"], ".3f"), *([_cell(row[f"{kind}_over"], ".2f")] if base else [])]
        cells += [_cell(row["step_s"] and row["step_s"] * EPOCH / 60, ".1f")] * on_gpu
        cells.append(_cell(row["peak_mib"], ".0f") and f"{row['peak_mib']:.0f} MiB")
        cells[-1] += "" if row["peak_over"] is None else f" ({row['peak_over']:.2f})"
        rows.append([*cells, *(_cell(found["psnr"].get(name, {}).get(dataset), ".2f") for dataset in datasets)])
    return table(header, rows)


def _sizes(rows):
    base = {row["size"]: row["seconds"] / row["size"] ** 2 for row in rows}
    cells = []
    for row in rows:
        side, own = row["size"], base[row["size"]]
        over = f"{own / base[256]:.2f}" if 256 in base else "-"
        cells.append(
            [f"{side}x{side}", f"{row['seconds']:.2f}", f"{1e6 * own:.1f}", over, f"{row['peak_mib']:.0f} MiB"]
        )
    return table(["LQ", "s", "µs a pixel", "over 256x256", "peak"], cells)


def _core(rows):
    cells = [
        [str(row["threads"]), str(row["batch"]), row["backend"], f"{row['forward_ms']:.1f}", f"{row['both_ms']:.1f}"]
        for row in rows
    ]
    return table(["threads", "batch", "backend", "forward", "forward and backward"], cells)


def tables(found: dict) -> str:
    """Write machine, setting, all figures so far and notes in Markdown."""
    here, setting = found["machine"], found["setting"]
    on_gpu, size = setting["device"] != "cpu", found["size"]
    where = f"{here['gpu']}, CUDA {here['cuda']}" if on_gpu else f"{here['cpu']}, {here['threads']} threads"
    precision = "float32 (TF32 in convolutions)" if on_gpu and setting["tf32"]["convolutions"] else "float32"
    lines = [
        f"{where}, torch {here['torch']}, numba {here['numba']}, Python {here['python']}; X{setting['scale']}, "
        f"{size}x{size} LQ, {precision}, MSE and Adam."
    ]
    for batch, seconds in found["seconds"].items():
        rounds = max((len(times) for own in seconds.values() for times in own.values()), default=0)
        lines += ["", f"Batch {batch}, median of {rounds} rounds:", "", *_networks(found, batch)]
    if found["sizes"]:
        lines += ["", "Contrast on one image of other sizes, inference, each in a process of its own:", ""]
        lines += _sizes(found["sizes"])
    if found["core"]:
        lines += ["", "SS2D's core (D 60, d_state 1, dt_rank 4), ms:", "", *_core(found["core"])]
    if found["checks"]:
        passed = sum(check["passed"] for check in found["checks"])
        lines += ["", f"{passed} of {len(found['checks'])} checks passed."]
    return "\n".join([*lines, *([""] if found["notes"] else []), *found["notes"]]) + "\n"
