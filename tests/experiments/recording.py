"""Records of training runs, ``metrics.jsonl``, as contrast-train writes them."""

import json
from pathlib import Path

import yaml

from tests.experiments.writing import OPTIONS


class Record:
    """The record of a run, written line by line; ``start`` opens a piece."""

    def __init__(self, root: Path, name="A", options=OPTIONS):
        self.folder = root / "experiments" / name
        self.folder.mkdir(parents=True, exist_ok=True)
        self.options = {"name": name, **options}
        (self.folder / f"{name}.yml").write_text(yaml.safe_dump(self.options))
        self.path = self.folder / "metrics.jsonl"

    def add(self, kind, iteration, time, **more):
        with self.path.open("a") as file:
            file.write(json.dumps({"kind": kind, "time": time, "iteration": iteration, **more}) + "\n")

    def start(self, iteration=0, time=1000.0, batch=4, total=60, device="cpu", resumed=False):
        self.began, self.from_iteration, self.batch, self.total = time, iteration, batch, total
        self.add("run", iteration, time, name="A", device=device, batch=batch, total_iter=total, resumed=resumed)

    def train(self, iteration, l_pix, seconds=None, memory=300 << 20, **more):
        """Half a second an iteration unless given."""
        seconds = (iteration - self.from_iteration) / 2 if seconds is None else seconds
        values = {"lr": 2e-4, "l_pix": l_pix}
        more = {"iteration_seconds": 0.5, "data_seconds": 0.01, "memory_bytes": memory, "epoch": 0, **more}
        images = iteration * self.batch
        self.add("train", iteration, self.began + seconds, values=values, seconds=seconds, images=images, **more)

    def validate(self, iteration, dataset="Set5", per_image=None, **values):
        more = {"values_per_image": per_image} if per_image else {}
        self.add("validation", iteration, self.began + iteration, set=dataset, values=values, **more)

    def save(self, iteration, name=None):
        path = f"models/net_g_{name or iteration}.pth"
        self.add("checkpoint", iteration, self.began + iteration, path=path, bytes=1000)


def recorded_run(root, name="A", psnr=30.0, per_image=None, options=OPTIONS) -> Path:
    """60 iterations with three checkpoints; the folder.

    Args:
        per_image: image -> PSNR beyond the mean, at every checkpoint.
    """
    record = Record(root, name, options)
    record.start()
    for checkpoint in (20, 40, 60):
        record.train(checkpoint - 10, 3 / checkpoint)
        record.train(checkpoint, 1 / checkpoint)
        record.save(checkpoint)
        mean = psnr + checkpoint / 100
        values = {key: {"psnr": mean + more, "ssim": 0.8} for key, more in (per_image or {}).items()}
        record.validate(checkpoint, per_image=values, psnr=mean, ssim=0.8 + checkpoint / 1000)
    record.save(60, "latest")
    return record.folder
