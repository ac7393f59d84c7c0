"""Write the tables of the pages between their marks: ``<!-- docs/tables.py: NAME -->`` and ``<!-- end -->``.

python docs/tables.py

Where a mark names a Markdown file, its content stands there. A test holds all of them equal.
"""

import inspect
import json
import re
from pathlib import Path

from contrast_arch.archs.config import DEFAULTS, Config
from contrast_arch.check import build_on_meta, read_options
from contrast_arch.experiments.bench.measure import ratio
from contrast_arch.experiments.bench.networks import BASE, parameters
from contrast_arch.experiments.markdown import fill, table
from contrast_arch.files import option_files
from contrast_arch.options.schema import ALWAYS, TESTING
from contrast_arch.options.validation import ANYTHING, SECTION, allowed, json_schema, section_schema
from contrast_arch.registration import networks
from contrast_arch.weights import describe_pretrained, pretrained_names

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGES = [ROOT / "README.md", ROOT / "weights" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
MARK = re.compile(r"^<!-- (?:docs/tables\.py: (\w+)|(\S+\.md)) -->$", re.MULTILINE)
STEPS = (BASE, "HATLight", "Contrast", "ContrastNoPE", "ContrastNoPENoCA", "MambaLight")


def speed() -> list[str]:
    """Time and memory of a training step over upstream HAT in the same run."""
    found = json.loads((RESULTS / "cpu.json").read_text())
    rows = {name: {"network": name} for name in STEPS}
    for batch, seconds in found["seconds"].items():
        peaks = found["peak_mib"][batch]
        for name, row in rows.items():
            row[f"time, batch {batch}"] = f"{ratio(seconds['step'][name], seconds['step'][BASE]):.2f}"
            row[f"memory, batch {batch}"] = f"{peaks[name] / peaks[BASE]:.2f}"
    return _table(rows.values())


def gpu() -> list[str]:
    """Training steps on a GPU: the table of networks of its results."""
    tables = (RESULTS / "gpu.md").read_text().split("\n\n")
    return next(lines for lines in tables if lines.startswith("| network")).splitlines()


def tiles() -> list[str]:
    """Accuracy lost to tiles by the weights that ship for X4."""
    ((_, found),) = json.loads((RESULTS / "tiles.json").read_text())["networks"].items()
    columns = {
        "largest": ("largest", "{:.1f}"),
        "mean": ("mean", "{:.3f}"),
        "step at borders": ("step_border", "{:.3f}"),
        "step elsewhere": ("step_elsewhere", "{:.3f}"),
        "PSNR change, dB": ("psnr_change", "{:+.4f}"),
        "worst image, dB": ("psnr_worst", "{:+.4f}"),
    }
    return _table(
        {"tiles": kind, "images cut": str(values["images"])}
        | {heading: form.format(values[key]) for heading, (key, form) in columns.items()}
        for kind, values in found["tiles"].items()
    )


def weights() -> list[str]:
    """The weights that ship, by what they say of themselves, each after bicubic enlargement of its scale."""
    rows, bicubic = [], json.loads((RESULTS / "bicubic.json").read_text())
    for name in pretrained_names():
        about = describe_pretrained(name)
        scale = f"X{about['network_g']['upscale']}"
        size = f"{parameters(build_on_meta(about['network_g'])):,}"
        for label, count, metrics in ((f"bicubic, {scale}", "", bicubic[scale]), (f"`{name}`", size, about["metrics"])):
            row = {"weights": label, "parameters": count}
            for dataset, values in metrics.items():
                row |= {f"{dataset} PSNR": f"{values['psnr']:.2f}", f"{dataset} SSIM": f"{values['ssim']:.4f}"}
            rows.append(row)
    return _table(rows)


def contrast_v2() -> list[str]:
    """Sizes of ContrastV2 by its option files."""
    rows = {}
    for scale in (2, 3, 4):
        for file in sorted(option_files().glob(f"train/train_ContrastV2_*_SRx{scale}_from_scratch.yml")):
            arguments = read_options(str(file))["network_g"]
            row = rows.setdefault(file.stem.split("_")[2], {})
            for name in ("dims", "depths", "window_size", "upsampler"):
                row[name] = f"`{arguments[name]}`"
            row[f"parameters X{scale}"] = f"{parameters(build_on_meta(arguments)):,}"
    columns = max(rows.values(), key=len)
    return _table({"size": size} | dict.fromkeys(columns, "") | row for size, row in rows.items())


def arguments() -> list[str]:
    """The arguments as :class:`~contrast_arch.archs.config.Config` has them, and networks with other defaults."""
    rows = [
        {
            "argument": f"`{name}`",
            "meaning": argument["description"],
            "allowed": allowed(argument).removesuffix(", or ~"),
            # Empty where it follows from another argument.
            "default": "" if argument["default"] is None else f"`{json.dumps(argument['default'])}`",
        }
        for name, argument in Config.model_json_schema()["properties"].items()
    ]
    others = []
    for name, network in networks().items():
        defaults = {key: parameter.default for key, parameter in inspect.signature(network).parameters.items()}
        own = [f"`{key}: {json.dumps(value)}`" for key, value in defaults.items() if value != DEFAULTS[key]]
        others += [{"network": f"`{name}`", "defaults": ", ".join(own)}] if own else []
    return [*_table(rows), "", "Networks with other defaults:", "", *_table(others)]


def keys() -> list[str]:
    """The keys as :class:`~contrast_arch.options.schema.OptionFile` has them."""
    lines = []
    for title, found in _sections(json_schema(), ()).items():
        rows = [_key(name, key) for name, key in found.items()]
        lines += [f"### {title or 'On top'}", "", *_table(rows), ""]
    return lines


def _sections(schema, path):
    """Keys of a section and of those below it, by path; those that are alike, as those of both losses, together."""
    found = {": ".join(path): schema.get("properties", {})}
    below = list(schema.get("properties", {}).items())
    below += [("NAME", kind) for kind in (schema.get("additionalProperties"),) if isinstance(kind, dict)]
    for name, kind in below:
        section = section_schema(kind)
        if "properties" not in section and not isinstance(section.get("additionalProperties"), dict):
            continue
        for title, own in _sections(section, (*path, name)).items():
            same = next((other for other, known in found.items() if own.items() <= known.items()), None)
            if same is None:
                found[title] = own
            elif title == ": ".join((*path, name)):
                found = {f"{other}, {name}" if other == same else other: known for other, known in found.items()}
    return {title: own for title, own in found.items() if own}


def _key(name, key):
    words = allowed(key)
    default = "" if key.get("default") is None else f"`{json.dumps(key['default'])}`"
    if "needed" in key:
        default = {ALWAYS: "needed", TESTING: "needed in a test"}.get(tuple(key["needed"]), "needed for training")
    return {
        "key": f"`{name}`",
        "meaning": key["description"],
        "allowed": "" if words in (ANYTHING, SECTION) else words,
        "unit": key.get("unit", ""),
        "default": default,
        "read by": key.get("of", "BasicSR"),
    }


def _table(rows):
    rows = list(rows)
    return table(list(rows[0]), [list(row.values()) for row in rows])


def page(path: Path, text: str) -> str:
    """Fill the tables of a page; ``text`` is its content."""
    for name, file in MARK.findall(text):
        if file:
            beside = path.parent / file
            lines = (beside if beside.exists() else ROOT / file).read_text().splitlines()
            text = fill(text, file, lines)
        else:
            text = fill(text, f"docs/tables.py: {name}", globals()[name]())
    return text


if __name__ == "__main__":
    for path in PAGES:
        path.write_text(page(path, path.read_text()))
