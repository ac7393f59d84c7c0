"""Write the ratios of training steps into README.md, from benchmarks/results/cpu.json.

python docs/speed.py
"""

import json
from pathlib import Path

from contrast_arch.experiments.bench.measure import ratio
from contrast_arch.experiments.bench.networks import BASE
from contrast_arch.experiments.markdown import fill, table

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "README.md"
NETWORKS = (BASE, "HATLight", "Contrast", "ContrastNoPE", "ContrastNoPENoCA", "MambaLight")


def page(text: str) -> str:
    """Fill the page with time and memory of a training step, over upstream HAT in the same run."""
    found = json.loads((ROOT / "benchmarks" / "results" / "cpu.json").read_text())
    header, rows = ["network"], {name: [name] for name in NETWORKS}
    for batch, seconds in found["seconds"].items():
        header += [f"time, batch {batch}", f"memory, batch {batch}"]
        peaks = found["peak_mib"][batch]
        for name, row in rows.items():
            row += [f"{ratio(seconds['step'][name], seconds['step'][BASE]):.2f}", f"{peaks[name] / peaks[BASE]:.2f}"]
    return fill(text, "docs/speed.py", table(header, list(rows.values())))


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))
