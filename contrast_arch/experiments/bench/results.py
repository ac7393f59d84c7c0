"""Tables of the measurements."""

import statistics

from contrast_arch.experiments.bench.measure import ratio
from contrast_arch.experiments.markdown import table

EPOCH = 11_056  # batches of eight, LSDIR + DF2K
KINDS = {"inference": "inference, s", "step": "training step, s"}


def _networks(found, batch):
    """The table of a batch, without columns of unknown values; unknown cells are empty.

    Ratios are to ``found["base"]``: of times, the median over the rounds of the ratio within a round.
    """
    base, psnr, seconds, peaks = found["base"], found["psnr"], found["seconds"][batch], found["peak_mib"][batch]
    over = f"over {base.removesuffix(' (upstream)')}" if base else ""
    rows = []
    for name in seconds["step"]:
        row = {"network": name, "parameters": f"{found['thousands'][name]:.0f}K"}
        if found["multiply_adds"]:
            count = found["multiply_adds"][name]
            row["G multiply-adds, 1280x720 output"] = "" if count is None else f"{count / 1e9:.2f}"
        for kind, heading in KINDS.items():
            times, of_base = seconds[kind][name], seconds[kind].get(base)
            spread = f" ({min(times):.3f} to {max(times):.3f})" if times else ""
            row[heading] = f"{statistics.median(times):.3f}{spread}" if times else ""
            if base:
                row[f"{over}, {kind}"] = f"{ratio(times, of_base):.2f}" if times and of_base else ""
        if found["setting"]["device"] != "cpu":
            row[f"{EPOCH:,} steps, min"] = f"{statistics.median(times) * EPOCH / 60:.1f}" if times else ""
        peak, of_base = peaks.get(name), peaks.get(base)
        share = f" ({peak / of_base:.2f})" if peak and of_base else ""
        row["peak of a step"] = f"{peak:.0f} MiB{share}" if peak else ""
        for dataset in dict.fromkeys(dataset for values in psnr.values() for dataset in values):
            row[f"PSNR on {dataset}"] = f"{psnr[name][dataset]:.2f}" if dataset in psnr.get(name, {}) else ""
        rows.append(row)
    header = [over if over and heading.startswith(over) else heading for heading in rows[0]]
    return table(header, [list(row.values()) for row in rows])


def tables(found: dict) -> str:
    """Write machine, setting, all figures so far and notes in Markdown."""
    here, setting = found["machine"], found["setting"]
    on_gpu, size = setting["device"] != "cpu", found["size"]
    where = f"{here['gpu']}, CUDA {here['cuda']}" if on_gpu else f"{here['cpu']}, {here['threads']} threads"
    precision = "float32 (TF32 in convolutions)" if on_gpu and setting["tf32"]["convolutions"] else "float32"
    versions = f"torch {here['torch']}, numba {here['numba']}, Python {here['python']}"
    lines = [f"{where}, {versions}; X{setting['scale']}, {size}x{size} LQ, {precision}, MSE and Adam."]
    for batch, seconds in found["seconds"].items():
        rounds = max(len(times) for own in seconds.values() for times in own.values())
        lines += ["", f"Batch {batch}, median (lowest to highest) of {rounds} rounds:", "", *_networks(found, batch)]
    if found["sizes"]:
        rows = []
        for row in found["sizes"]:
            side, seconds, peak = row["size"], row["seconds"], f"{row['peak_mib']:.0f} MiB"
            rows.append([f"{side}x{side}", f"{seconds:.2f}", f"{1e6 * seconds / side**2:.1f}", peak])
        lines += ["", "Contrast on one image of other sizes, inference, each in a process of its own:", ""]
        lines += table(["LQ", "s", "µs a pixel", "peak"], rows)
    if found["core"]:
        keys = ("threads", "batch", "backend", "forward_ms", "both_ms")
        rows = [[f"{row[key]:.1f}" if key.endswith("_ms") else str(row[key]) for key in keys] for row in found["core"]]
        lines += ["", "SS2D's core (D 60, d_state 1, dt_rank 4), ms:", ""]
        lines += table(["threads", "batch", "backend", "forward", "forward and backward"], rows)
    if found["checks"]:
        passed = sum(check["passed"] for check in found["checks"])
        lines += ["", f"{passed} of {len(found['checks'])} checks passed."]
    return "\n".join([*lines, *([""] if found["notes"] else []), *found["notes"]]) + "\n"
