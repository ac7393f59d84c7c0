"""Experiment folders as BasicSR 1.4.2 leaves them: option file and text logs, of any run one likes."""

import copy
from pathlib import Path

import yaml

OPTIONS = {
    "model_type": "SRModel",
    "scale": 4,
    "num_gpu": 0,
    "datasets": {
        "train": {"name": "DF2K", "type": "PairedImageDataset", "gt_size": 64, "batch_size_per_gpu": 4},
        "val_1": {"name": "Set5", "dataroot_gt": "data/Set5"},
    },
    "network_g": {"type": "Contrast", "upscale": 4},
    "train": {
        "optim_g": {"type": "Adam", "lr": 2e-4},
        "total_iter": 60,
        "pixel_opt": {"type": "MSELoss", "loss_weight": 1.0},
    },
    "val": {"val_freq": 20, "metrics": {"psnr": {"type": "calculate_psnr", "crop_border": 4}}},
    "logger": {"print_freq": 10, "save_checkpoint_freq": 20, "use_tb_logger": True},
}


def changed(options: dict, **changes) -> dict:
    """A copy with other values: ``train__optim_g__lr=1e-4``; None removes the key."""
    options = copy.deepcopy(options)
    for path, value in changes.items():
        *parents, key = path.split("__")
        section = options
        for parent in parents:
            section = section[parent]
        if value is None:
            del section[key]
        else:
            section[key] = value
    return options


def in_text(options: dict, level=1) -> str:
    """The format of basicsr.utils.options.dict2str."""
    text = "\n"
    for key, value in options.items():
        indent = "  " * level
        if isinstance(value, dict):
            text += f"{indent}{key}:[{in_text(value, level + 1)}{indent}]\n"
        else:
            text += f"{indent}{key}: {value}\n"
    return text


class Start:
    """One start of a training: a text log."""

    def __init__(self, root: Path, name="A", options=OPTIONS, start=0, time="000000", world_size=1):
        self.folder = root / "experiments" / name
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / f"{name}.yml").write_text(f"# GENERATE TIME\n\n{yaml.safe_dump({'name': name, **options})}")
        self.name, self.options, self.start = name, options, start
        self.log = self.folder / f"train_{name}_20250101_{time}.log"
        self.log.write_text("")
        used = {"name": name, **options, "dist": world_size > 1, "rank": 0, "world_size": world_size}
        self.say("\n    ____                _       _____  ____\nVersion Information: \n\tBasicSR: 1.4.2")
        self.say(in_text(used))
        self.say(
            "Training statistics:\n\tNumber of train images: 800\n\tDataset enlarge ratio: 1"
            f"\n\tBatch size per gpu: {options['datasets']['train']['batch_size_per_gpu']}"
            f"\n\tWorld size (gpu number): {world_size}\n\tRequire iter number per epoch: 200"
            f"\n\tTotal epochs: 1; iters: {options['train']['total_iter']}."
        )
        self.say("Network: Contrast, with parameters: 1,491,300")
        self.say("Contrast(\n  (conv_first): Conv2d(3, 60)\n)")
        self.say(f"Start training from epoch: 0, iter: {start}")

    def say(self, message, clock="00:00:00"):
        with self.log.open("a") as file:
            file.write(f"2025-01-01 {clock},123 INFO: {message}\n")

    def train(self, values: dict[int, float], seconds=0.5, clock="00:00:00"):
        """Losses by iteration."""
        for iteration, value in values.items():
            self.say(
                f"[{self.name[:5]}..][epoch:  0, iter:{iteration:8,d}, lr:(2.000e-04,)] "
                f"[eta: 1 day, 0:00:10, time (data): {seconds:.3f} (0.002)] l_pix: {value:.4e} ",
                clock,
            )

    def validate(self, iteration, dataset="Set5", **metrics):
        lines = [f"\t # {name}: {value:.4f}\tBest: {value:.4f} @ {iteration} iter\n" for name, value in metrics.items()]
        self.say(f"Validation {dataset}\n{''.join(lines)}")

    def end(self, memory=None, **metrics):
        """The end of training, with BasicSR's last validation beyond the last iteration."""
        self.say("End of training. Time consumed: 0:00:10")
        self.say("Save the latest model.")
        if metrics:
            self.validate(self.options["train"]["total_iter"] + 2, **metrics)
        if memory:
            self.say(f"Peak memory: {memory}")


def whole_run(root, name="A", psnr=30.0, **more) -> Path:
    """60 iterations with three checkpoints; the folder."""
    start = Start(root, name, **more)
    for checkpoint in (20, 40, 60):
        start.train({checkpoint - 10: 3 / checkpoint, checkpoint: 1 / checkpoint})
        start.validate(checkpoint, psnr=psnr + checkpoint / 100, ssim=0.8 + checkpoint / 1000)
    start.end("1234 MiB (resident, CPU)", psnr=psnr + 0.6, ssim=0.86)
    return start.folder
