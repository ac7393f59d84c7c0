"""Projects without BasicSR: traiNNer-redux, neosr, KAIR and Omni-SR; ``run.py`` tries them.

Each is tried with light networks on a copy in which nothing asks for a GPU: four iterations, validation, two more after
a resume, a test; its checkpoint in this package, and this package's files in it.
"""

import json
import math
import os
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import torch
import yaml
from PIL import Image
from safetensors.torch import save_file

from contrast_arch import load_pretrained
from contrast_arch.weights.files import ABOUT, as_metadata, description
from tests.conftest import ROOT, SET5

LIGHT = {"dims": 48, "depths": [6, 6, 6], "num_heads": [6, 6, 6], "ssm_conv_bias": True}
NETWORKS = ("Contrast", "ContrastNoPE")
SCALES = (2, 4)
IMAGES = ("baby", "bird", "head")


class FailedError(Exception):
    """A run of a project that did not do what it should."""


def write_pairs(root: Path, scale: int, hr: str = "HR/{}.png", lr: str = "LR/{}.png") -> None:
    """Corners of three photographs of Set5, GT 96x96, made smaller by Pillow's bicubic filter."""
    for name in IMAGES:
        image = Image.open(SET5 / "HR" / f"{name}.png").convert("RGB").crop((0, 0, 96, 96))
        small = image.resize((96 // scale, 96 // scale), Image.Resampling.BICUBIC)
        for path, picture in ((root / hr.format(name), image), (root / lr.format(name), small)):
            path.parent.mkdir(parents=True, exist_ok=True)
            picture.save(path)


class Other:
    """A copy of a project with a network in it.

    Attributes:
        edits: (files, text, replacement), what keeps the project from a CPU; every text must be there.
        losses: pattern of a line of training, iteration and loss.
        psnr: pattern of a line of validation.
    """

    edits: tuple[tuple[str, str, str], ...] = ()
    losses = r"iter:\s+(\d+)[^\d\n].*?l_g_total: (\S+)"
    psnr = r"psnr ?:\s+(\d+\.\d+)"

    def __init__(self, source: Path, root: Path, network: str, scale: int, path: tuple[str, ...] = ()):
        self.root, self.network, self.scale, self.path = root, network, scale, path
        ignored = shutil.ignore_patterns(".git", "__pycache__", "*.pth", "experiments", "results", "figs", "testsets")
        shutil.copytree(source, root, ignore=ignored)
        for files, text, replacement in self.edits:
            found = [file for file in root.glob(files) if text in file.read_text()]
            if not found:
                raise FailedError(f"{text!r} is not in {files}: this is another version of the project")
            for file in found:
                file.write_text(file.read_text().replace(text, replacement))
        self.register()

    def register(self) -> None:
        """Put the network into the project, and write the images."""
        write_pairs(self.root, self.scale)

    def whole(self) -> None:
        """Train, validate, resume and test, as far as the project can, and load the checkpoints.

        Raises:
            FailedError: names what went wrong.
        """
        raise NotImplementedError

    def run(self, *command: str) -> str:
        """Run a script of the project; what it wrote.

        Raises:
            FailedError: it did not end with 0; the message is its last line.
        """
        folders = (str(ROOT), str(self.root), *self.path)
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "COLUMNS": "400"}
        result = subprocess.run(
            [sys.executable, str(ROOT / "tests" / "compat" / "without_gpu.py"), *command],
            cwd=self.root,
            env=environment | {"PYTHONPATH": os.pathsep.join(folders)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        lines = [line for line in result.stdout.splitlines() if line.strip()]
        if result.returncode or "Traceback" in result.stdout:
            raise FailedError(f"{command[0]}: {lines[-1] if lines else result.returncode}")
        return re.sub(r"\x1b\[[\d;]*m", "", result.stdout)

    def trained(self, log: str, iterations: set[int]) -> None:
        """Check what a training wrote: its iterations, finite losses, a PSNR."""
        losses = {int(number): float(loss) for number, loss in re.findall(self.losses, log)}
        if set(losses) != iterations or not all(map(math.isfinite, losses.values())):
            raise FailedError(f"losses {losses}, expected of iterations {sorted(iterations)}")
        self.measured(log)

    def measured(self, log: str) -> float:
        """The last PSNR of a log."""
        values = [float(value) for value in re.findall(self.psnr, log)]
        if not values or not all(5 < value < 60 for value in values):
            raise FailedError(f"PSNR: {values}")
        return values[-1]

    def loaded(self, checkpoint: Path) -> torch.nn.Module:
        """Load a checkpoint of the project in this package, from its folder and from elsewhere."""
        elsewhere = shutil.copy(checkpoint, self.root / f"elsewhere{checkpoint.suffix}")
        for file in (elsewhere, checkpoint):
            with warnings.catch_warnings():
                # Of what shapes do not say; the sizes of LIGHT are the defaults.
                warnings.simplefilter("ignore")
                network = load_pretrained(file)
            if (type(network).__name__, network.upscale) != (self.network, self.scale):
                raise FailedError(f"{file} was loaded as {type(network).__name__} X{network.upscale}")
        return network

    def ours(self, network: torch.nn.Module, suffix: str) -> Path:
        """Write a network as this package does."""
        file = self.root / f"ours{suffix}"
        about = description({"type": self.network, "upscale": self.scale, **LIGHT}, 6)
        if suffix == ".pth":
            torch.save({"params": network.state_dict(), ABOUT: about}, file)
        else:
            save_file(network.state_dict(), file, as_metadata(about))
        return file


class TraiNNer(Other):
    """traiNNer-redux, with its drop-in file."""

    edits = (("train.py", "if not torch.cuda.is_available():", "if False:"),)
    way = "traiNNer/archs/contrast_arch.py"
    suffixes = (".pth", ".safetensors")

    def register(self):
        super().register()
        (self.root / self.way).write_text("import contrast_arch.adapters.trainner\n")

    def dataset(self, **more):
        roots = {"dataroot_gt": str(self.root / "HR"), "dataroot_lq": str(self.root / "LR")}
        return {"type": "PairedImageDataset", **roots, "io_backend": {"type": "disk"}, **more}

    def options(self, **changes):
        metric = {"type": "calculate_psnr", "crop_border": 4, "test_y_channel": True}
        val = {"val_enabled": True, "val_freq": 2, "metrics_enabled": True, "metrics": {"psnr": metric}}
        network = {"type": self.network.lower(), **LIGHT}
        common = {"name": "a", "scale": self.scale, "num_gpu": 0, "manual_seed": 1, "network_g": network}
        return {**common, "path": {}, "val": val | {"save_img": False}, **changes}

    def train(self, total):
        train = {"name": "train", "lq_size": 16, "num_worker_per_gpu": 1, "batch_size_per_gpu": 2, "accum_iter": 1}
        options = self.options(
            datasets={"train": self.dataset(**train), "val": self.dataset(name="val")},
            train={
                "ema_decay": 0.9,
                "optim_g": {"type": "AdamW", "lr": 1e-3},
                "scheduler": {"type": "MultiStepLR", "milestones": [3], "gamma": 0.5},
                "total_iter": total,
                "losses": [{"type": "L1Loss", "loss_weight": 1.0}],
            },
            logger={"print_freq": 1, "save_checkpoint_freq": 2, "use_tb_logger": False},
        )
        return self.started("train.py", "a.yml", options, "--auto_resume")

    def started(self, script, name, options, *more):
        (self.root / name).write_text(yaml.safe_dump(options))
        self.run(script, "-opt", name, *more)
        kind = script.removesuffix(".py")
        return max(self.root.rglob(f"{kind}_*.log"), key=lambda file: file.stat().st_mtime).read_text()

    def test(self, checkpoint):
        dataset = {"test_1": self.dataset(name="test")}
        options = self.options(name="t", datasets=dataset, path={"pretrain_network_g": str(checkpoint)})
        return self.measured(self.started("test.py", "t.yml", options))

    def checkpoint(self):
        return self.root / "experiments" / "a" / "models" / "net_g_ema_6.safetensors"

    def whole(self):
        self.trained(self.train(4), {1, 2, 3, 4})
        self.trained(self.train(6), {5, 6})
        network = self.loaded(self.checkpoint())
        expected = self.test(self.checkpoint())
        for suffix in self.suffixes:
            found = self.test(self.ours(network, suffix))
            if found != expected:
                raise FailedError(f"PSNR {found} with this package's {suffix}, {expected} with its own checkpoint")


class Neosr(TraiNNer):
    """neosr, whose options are those of traiNNer-redux under other names, in TOML."""

    # Python 3.12 is what it asks for; no syntax of it is in its files.
    edits = (
        ("train.py", "minor != 12", "minor < 11"),
        ("train.py", "if not torch.cuda.is_available():", "if False:"),
        ("**/*.py", '"cuda"', '"cpu"'),
        ("**/*.py", ".cuda()", ".cpu()"),
    )
    way = "neosr/archs/contrast_arch.py"
    suffixes = (".pth",)

    def register(self):
        super().register()
        (self.root / self.way).write_text("import contrast_arch.adapters.neosr\n")

    def dataset(self, **more):
        return super().dataset(**more) | {"type": "paired"}

    def options(self, **changes):
        common = super().options(**changes)
        val = {"val_freq": 2, "save_img": False, "save_lq": False, "metrics": {"psnr": {"type": "calculate_psnr"}}}
        return {**common, "model_type": "image", "val": val}

    def train(self, total):
        train = {"patch_size": 16, "batch_size": 2, "num_worker_per_gpu": 1, "dataset_enlarge_ratio": 4}
        options = self.options(
            datasets={"train": self.dataset(**train), "val": self.dataset(name="val", save_img=False)},
            train={
                "ema": 0.9,
                "optim_g": {"type": "adamw", "lr": 1e-3},
                "scheduler": {"type": "multisteplr", "milestones": [3], "gamma": 0.5},
                "pixel_opt": {"type": "L1Loss", "loss_weight": 1.0},
            },
            logger={"total_iter": total, "print_freq": 1, "save_checkpoint_freq": 2, "use_tb_logger": False},
        )
        return self.started("train.py", "a.toml", options, "--auto_resume")

    def started(self, script, name, options, *more):
        name = Path(name).with_suffix(".toml").name
        (self.root / name).write_text(_toml(options))
        return self.run(script, "-opt", name, *more)

    def checkpoint(self):
        return self.root / "experiments" / "a" / "models" / "net_g_6.pth"


def _toml(options, prefix=""):
    """Options as TOML; the standard library only reads it."""
    values = {key: value for key, value in options.items() if not isinstance(value, dict)}
    text = "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())
    for key in options.keys() - values.keys():
        text += f"[{prefix}{key}]\n{_toml(options[key], f'{prefix}{key}.')}"
    return text


class Kair(Other):
    """KAIR, with lines in its define_G."""

    losses = r"iter:\s*([\d,]+), .*?G_loss: (\S+)"
    psnr = r"Average PSNR : (\d+\.\d+)"
    # Those of docs/deployment.md.
    lines = """\
    elif net_type == '{name}':
        from contrast_arch import {network}
        names = ('dims', 'depths', 'num_heads', 'ssm_conv_bias')
        netG = {network}(upscale=opt_net['scale'], **{{name: opt_net[name] for name in names}})
"""
    end = "    # ----------------------------------------\n    # others\n"
    edits = (
        ("main_train_psnr.py", "range(1000000)", "range(EPOCHS)"),
        ("models/model_base.py", "'cuda' if opt['gpu_ids'] is not None else 'cpu'", "'cpu'"),
        ("models/model_base.py", "lambda storage, loc: storage.cuda(torch.cuda.current_device())", "'cpu'"),
    )

    def register(self):
        super().register()
        file = self.root / "models" / "select_network.py"
        lines = self.lines.format(name=self.network.lower(), network=self.network)
        file.write_text(file.read_text().replace(self.end, lines + "\n" + self.end, 1))

    def train(self, epochs):
        text = (self.root / "options" / "train_msrresnet_psnr.json").read_text()
        options = json.loads(re.sub(r"//.*", "", text))
        options |= {"task": "a", "scale": self.scale, "gpu_ids": [], "dist": False}
        # Its own initialization would replace the networks'.
        options["netG"] = {"net_type": self.network.lower(), "init_type": "default", **LIGHT}
        options["netG"] |= {"init_bn_type": "uniform", "init_gain": 1}
        train, test = options["datasets"]["train"], options["datasets"]["test"]
        for dataset in (train, test):
            dataset |= {"dataroot_H": str(self.root / "HR"), "dataroot_L": str(self.root / "LR")}
        train |= {"H_size": 16 * self.scale, "dataloader_batch_size": 2, "dataloader_num_workers": 1}
        options["train"] |= {"checkpoint_test": 2, "checkpoint_save": 2, "checkpoint_print": 1, "manual_seed": 1}
        options["train"] |= {"G_optimizer_betas": [0.9, 0.999], "G_optimizer_reuse": True}
        (self.root / "a.json").write_text(json.dumps(options))
        script = self.root / "main_train_psnr.py"
        (self.root / "a.py").write_text(script.read_text().replace("EPOCHS", str(epochs)))
        return self.run("a.py", "--opt", "a.json")

    def whole(self):
        # An epoch is one iteration, of two of the three images; a second start goes on where the first ended.
        self.trained(self.train(4), {1, 2, 3, 4})
        self.trained(self.train(2), {5, 6})
        for label in "GE":
            self.loaded(self.root / "superresolution" / "a" / "models" / f"6_{label}.pth")


class OmniSR(Other):
    """Omni-SR, with a component."""

    losses = r"Epoch \[\d+/\d+\], Step \[(\d+)/\d+\].*?loss: (\S+?),"
    psnr = r"Dataset: Set5, PSNR: (\d+\.\d+)"
    component = """\
from contrast_arch import {network}


class Contrast({network}):
    def __init__(self, in_chans, num_out_ch, dims, upsampling, **arguments):
        super().__init__(in_chans=in_chans, num_out_ch=num_out_ch, dims=dims, upscale=upsampling, **arguments)

    def forward(self, x):
        return super().forward((x + 1) / 2) * 2 - 1
"""
    edits = (
        ("**/*.py", ".cuda(non_blocking=True)", ""),
        ("train_scripts/*.py", ")).cuda()", "))"),
    )

    def register(self):
        hr, lr = "DIV2K/DIV2K_train_HR/{}.png", f"DIV2K/DIV2K_train_LR_bicubic/X{self.scale}/{{}}x{self.scale}.png"
        write_pairs(self.root, self.scale, hr, lr)
        for name in ("Urban100", "B100", "Set14", "Set5"):
            write_pairs(
                self.root / "benchmark",
                self.scale,
                f"HR/{name}/x{self.scale}/{{}}_HR.png",
                f"LR/LRBI/{name}/x{self.scale}/{{}}_LRBI.png",
            )
        (self.root / "components" / "Contrast.py").write_text(self.component.format(network=self.network))
        environment = json.loads((self.root / "env" / "env.json").read_text())
        environment["path"]["dataset_paths"]["DIV2K"] = str(self.root / "DIV2K")
        (self.root / "env" / "env.json").write_text(json.dumps(environment))
        # Of its dependencies only these two are not for the network: FLOPs, and events.
        (self.root / "thop.py").write_text(
            "profile = lambda network, inputs: (0, 0)\nclever_format = lambda numbers, form: ('-', '-')\n"
        )
        (self.root / "tensorboardX.py").write_text("from torch.utils.tensorboard import SummaryWriter\n")

    def train(self, steps):
        options = yaml.safe_load((self.root / "train_yamls" / "train_OmniSR_X4_DIV2K.yaml").read_text())
        sizes = {key: value for key, value in LIGHT.items() if key != "dims"}
        options |= {"module_script_name": "Contrast", "class_name": "Contrast", "feature_num": LIGHT["dims"]}
        options |= {"module_params": {"upsampling": self.scale, **sizes}, "total_epoch": 1, "batch_size": 2}
        options["dataset_params"] |= {"lr_patch_size": 16, "image_scale": self.scale, "dataloader_workers": 0}
        options["dataset_params"] |= {"dataset_enlarge": 3}
        options |= {"log_step": 1}
        (self.root / "train_yamls" / "a.yaml").write_text(yaml.safe_dump(options))
        return self.run("train.py", "-v", "a", "-p", "train", "--train_yaml", "a.yaml", "-c", "-1")

    def whole(self):
        # Three images thrice are four steps of two. It cannot resume.
        self.trained(self.train(4), {1, 2, 3, 4})
        self.loaded(self.root / "train_logs" / "a" / "checkpoints" / "epoch1_OmniSR.pth")


# By the name of the folder.
OTHERS = {"traiNNer-redux": TraiNNer, "neosr": Neosr, "KAIR": Kair, "Omni-SR": OmniSR}
COLUMNS = [f"{network} X{scale}" for network in NETWORKS for scale in SCALES]
HEADER = ["project", "commit", *COLUMNS]


def try_other(source: Path, root: Path, column: str, path: tuple[str, ...] = ()) -> str:
    """Try one network at one scale; "yes" or what is wrong."""
    network, scale = column.split(" X")
    try:
        OTHERS[source.resolve().name](source, root, network, int(scale), path).whole()
    except FailedError as failure:
        return str(failure)
    return "yes"
