"""Option files, from one table of networks: those that ship, and one for a user's own choice.

In a checkout, ``rm -r options && contrast-arch options`` writes the committed files anew.
"""

import json
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from string import Template

from contrast_arch.errors import InputError
from contrast_arch.files import option_files, replacing
from contrast_arch.networks import ARGUMENTS, NETWORKS

SCALES = (2, 3, 4)
# Of the published comparison.
DATA, BATCH, IMAGES_PER_CHECKPOINT = "datasets/LSDIR_DF2K", 8, 48_000
# Rate, milestones and the comment on them, by Network.paper and Choice.start.
KEPT = "rate stays as it is until a milestone (an iteration) is given."
OF_HAT = "The paper is silent about fine-tuning: rate, milestones and length are those of HAT."
RECIPES = {
    (False, "scratch"): ("2e-4", [], f"The published comparison names no schedule: the {KEPT}"),
    (False, "finetune"): ("2e-4", [], f"The {KEPT}"),
    (True, "scratch"): ("2e-4", [250_000, 400_000, 450_000, 475_000], "The paper's."),
    (True, "finetune"): ("1e-4", [125_000, 200_000, 225_000, 240_000], OF_HAT),
}
# In names of files, by the value of --start.
STARTS = {"scratch": "from_scratch", "finetune": "finetune_from_SRx2"}
# Of the files that ship, as they name it.
SCHEMA = "../schema.json"
LARGE = "147 million parameters: for several GPUs, see docs/cluster.md; batch_size_per_gpu is that of each."
ALIKE = "The files of this folder differ in name, network_g, the scale and what it entails, and where they start; see "
ALIKE += "docs/options.md."


@dataclass(frozen=True)
class Choice:
    """A network to be trained, as ``contrast-arch options`` takes it; InputError where there is none such."""

    network: str
    size: str | None = None  # the network's first
    scale: int = 4
    start: str = "scratch"  # a key of STARTS
    data: str = DATA  # a folder as ``contrast-arch prepare`` makes it
    batch: int = BATCH  # images of an iteration, of each process
    model: str = "SRModel"

    def __post_init__(self):
        self._expect("network", NETWORKS)
        sizes = NETWORKS[self.network].sizes
        if self.size is None:
            object.__setattr__(self, "size", next(iter(sizes)))
        self._expect("size", sizes)
        # Fine-tuning starts from the weights of X2.
        self._expect("scale", SCALES[1:] if self.start == "finetune" else SCALES, f" for --start {self.start}")
        if self.batch < 1:
            raise InputError(f"--batch {self.batch}: expected 1 or more")

    def _expect(self, option, known, where=""):
        if (value := getattr(self, option)) not in known:
            raise InputError(f"--{option} {value}: expected one of {', '.join(str(k) for k in known if k)}{where}")

    @property
    def stem(self) -> str:
        """Network, size and scale, as names of files have them."""
        return "_".join(filter(None, (self.network, self.size, f"SRx{self.scale}")))

    @property
    def name(self) -> str:
        """Name of the experiment and of its file."""
        return f"train_{self.stem}_{STARTS[self.start]}"

    @property
    def title(self) -> str:
        """Network, size and scale in words."""
        return ", ".join(filter(None, (NETWORKS[self.network].title, self.size))) + f": X{self.scale}"

    @property
    def checkpoint(self) -> str:
        """Weights of its training from scratch."""
        return f"experiments/{replace(self, start='scratch').name}/models/net_g_latest.pth"


def _fill(template, **values):
    text = (Path(__file__).parent / "templates" / f"{template}.yml").read_text(encoding="utf-8")
    return Template(text).substitute(values)


def _text(value):
    """Write text in YAML: as it stands where that reads as text, otherwise quoted."""
    plain = re.fullmatch(r"(?!(null|true|false|yes|no|on|off)$)[a-z_/][\w./-]*", value, re.ASCII | re.IGNORECASE)
    return value if plain else json.dumps(value, ensure_ascii=not value.isprintable())


def _pairs(key, name, folder, scale, meta_info=""):
    hr, lq = _text(f"{folder}/HR"), _text(f"{folder}/LR_bicubic/X{scale}")
    return _fill("pairs", key=key, name=_text(name), hr=hr, lq=lq, scale=scale, meta_info=meta_info)


def _file(template, choice, key, benchmarks, **values):
    """Fill a template; ``benchmarks`` are names of sets, each under ``key`` and a number."""
    network, scale = NETWORKS[choice.network], choice.scale
    arguments = ARGUMENTS | {"type": choice.network} | network.arguments | network.sizes[choice.size]
    if arguments["overlap_ratio"] is not None:
        arguments["num_heads"] = [6] * len(arguments["depths"])
    written = {k: v if isinstance(v, str) else json.dumps(v) for k, v in arguments.items() if v is not None}
    sets = [_pairs(f"{key}_{n}", name, f"datasets/{name}", scale) for n, name in enumerate(benchmarks, 1)]
    network_g = "".join(f"  {key}: {value}\n" for key, value in written.items())
    own = {"scale": scale, "benchmarks": "".join(sets), "network_g": network_g, "metrics": _fill("metrics")}
    return _fill(template, **own, **values)


def _training(choice, name, schema=SCHEMA):
    network, scale, fresh = NETWORKS[choice.network], choice.scale, choice.start == "scratch"
    folder = Path(choice.data).as_posix()
    published = (scale, choice.size, folder, choice.batch) == (4, "", DATA, BATCH)
    how = ", by the paper's recipe" if network.paper else ", as the published comparison ran it" if published else ""
    data = "LSDIR + DF2K" if folder == DATA else _text(folder)
    comments = [choice.title + (f" from scratch on {data}{how}." if fresh else f" on {data}, from the weights of X2.")]
    comments += [LARGE] if choice.size == "L" else []
    comments.append(ALIKE if schema == SCHEMA else "Keys that differ from BasicSR's defaults: docs/options.md.")
    data_name = os.path.basename(os.path.abspath(folder)) or "data"
    meta_info = f"    meta_info_file: {_text(f'{folder}/meta_info.txt')}  # of contrast-arch prepare\n"
    lr, milestones, schedule = RECIPES[network.paper, choice.start]
    interval = max(1, round(IMAGES_PER_CHECKPOINT / choice.batch))
    return _file(
        "train",
        choice,
        "val",
        ("Set5", "Set14"),
        schema=schema,
        comments="".join(f"# {comment}\n" for comment in comments),
        name=_text(name),
        model=choice.model + ("" if choice.model == "SRModel" else "  # its further keys: docs/training.md"),
        training_pairs=_pairs("train", data_name, folder, scale, meta_info),
        gt_size=64 * scale,
        batch=choice.batch,
        checkpoint="~" if fresh else replace(choice, scale=2, start="scratch").checkpoint,
        strict="true" if fresh else "false  # the upsampler of another scale has another shape and starts anew",
        lr=lr,
        milestones=milestones,
        schedule=schedule,
        betas="    betas: [0.9, 0.99]\n" if network.paper else "",
        total=500_000 if fresh else 250_000,
        loss="L1Loss" if network.paper else "MSELoss",
        interval=interval,
        images=f"{interval * choice.batch:,}",
    )


def shipped_files() -> dict[str, str]:
    """Return the text of all files that ship, by their path in the folder of option files."""
    from contrast_arch.options.editor import editor_schema

    files = {"schema.json": editor_schema()}
    for network, size in [(key, size) for key in NETWORKS for size in NETWORKS[key].sizes]:
        # The comparison's light family is for X4 from scratch alone.
        alone = size == "light" and not NETWORKS[network].paper
        for scale in (4,) if alone else SCALES:
            for start in ("scratch",) if alone or scale == 2 else STARTS:
                choice = Choice(network, size, scale, start)
                files[f"train/{choice.name}.yml"] = _training(choice, choice.name)
            files[f"test/test_{choice.stem}.yml"] = _file(
                "test",
                choice,
                "test",
                ("Set5", "Set14", "BSD100", "Urban100", "Manga109"),
                schema=SCHEMA,
                title=f"{choice.title} on the five benchmark sets.",
                name=f"test_{choice.stem}",
                checkpoint=choice.checkpoint,
            )
    return files


def write_all(folder: Path) -> None:
    """Write the files that ship into a folder; InputError where it exists already."""
    if folder.exists():
        raise InputError(f"{folder} exists already; name a new folder with --folder")
    for name, text in shipped_files().items():
        _write(folder / name, text)


def _write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_one(output: str | None = None, **given) -> Path:
    """Write an option file for training and return its path; InputError where it exists already.

    Args:
        output: None is ``train_NETWORK_SIZE_SRxN_START.yml`` here. The experiment is named after it.
        given: see :class:`Choice`.
    """
    choice = Choice(**given)
    path = Path(output or f"{choice.name}.yml")
    if path.exists():
        raise InputError(f"{path} exists already; name another file with --output")
    schema = Path(os.path.relpath(option_files() / "schema.json", path.parent)).as_posix()
    _write(path, _training(choice, path.stem, schema))
    return path
