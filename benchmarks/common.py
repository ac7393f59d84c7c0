"""What the benchmarks share: networks and their checks, the machine, ratios, result files."""

import json
import os
import platform
import statistics
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import safe_open

import contrast_arch.archs.contrast_arch as archs
from contrast_arch.layers.upsample import PixelShuffleDirect

HERE = Path(__file__).parent
BASE = "HAT (upstream)"
RESULTS = HERE / "results"
NETWORKS = ("HATLight", "Contrast", "ContrastNoPE", "ContrastNoPENoCA", "MambaLight")


def upstream_hat(upscale: int = 4, dims: int = 60, depths=(6, 6, 6, 6), heads=(6, 6, 6, 6), window_size: int = 16):
    """HAT as spandrel ships it, at the sizes of HATLight and with its upsampler; no stochastic depth.

    Raises:
        ImportError: spandrel is not installed.
    """
    from spandrel.architectures.HAT.__arch.HAT import HAT

    net = HAT(
        img_size=4 * window_size,
        embed_dim=dims,
        depths=depths,
        num_heads=heads,
        window_size=window_size,
        mlp_ratio=2,
        drop_path_rate=0.0,
        upscale=upscale,
    )
    net.conv_before_upsample = torch.nn.Identity()
    net.upsample = PixelShuffleDirect(upscale, dims, 3)
    net.conv_last = torch.nn.Identity()
    return net


def reference_error(name: str, device: str = "cpu") -> float:
    """How far the network is from its recorded reference, tests/reference/NAME.safetensors, relative to the largest
    value of the output."""
    with safe_open(HERE.parent / "tests" / "reference" / f"{name}.safetensors", "pt") as file:
        net = getattr(archs, name)(**json.loads(file.metadata()["config"]))
        keys = list(file.keys())
        net.load_state_dict({k.removeprefix("state."): file.get_tensor(k) for k in keys if k.startswith("state.")})
        expected = file.get_tensor("output")
        with torch.no_grad():
            out = net.to(device)(file.get_tensor("input").to(device)).cpu()
    return float((out - expected).abs().max() / expected.abs().max())


def upstream_error(ours, theirs, lq) -> float:
    """How far upstream HAT with the weights of HATLight is from HATLight, relative, on the image ``lq``."""
    theirs.load_state_dict(ours.state_dict(), strict=False)
    with torch.no_grad():
        return relative([theirs.eval()(lq)], [ours.eval()(lq).double()])


def processor() -> str:
    """Name of the CPU."""
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def first_line(*command: str) -> str | None:
    """First line that a program prints, None where it cannot be run."""
    try:
        output = subprocess.run(command, cwd=HERE, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return output.splitlines()[0] if output else None


def machine(threads: int) -> dict:
    """CPU, GPU where there is one, versions, commit."""
    found = {
        "cpu": processor(),
        "threads": threads,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.system(),
        "commit": first_line("git", "rev-parse", "--short", "HEAD") or os.environ.get("COMMIT"),
    }
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
        found["driver"] = first_line("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
        found["cuda"] = torch.version.cuda or torch.version.hip
    return found


def ratio(times: list[float], base: list[float]) -> float:
    """Median over the rounds of the ratio within a round."""
    return statistics.median(a / b for a, b in zip(times, base, strict=True))


def save(target: Path, text: str, data: dict) -> None:
    """Write TARGET.md and TARGET.json."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.with_suffix(".md").write_text(text)
    target.with_suffix(".json").write_text(json.dumps(data, indent=1) + "\n")


def relative(values, expected):
    """Largest error of any tensor, by norms; infinite where a value is not finite."""
    errors = [
        float((a.double() - b).norm() / b.norm()) if a.isfinite().all() else float("inf")
        for a, b in zip(values, expected, strict=True)
    ]
    return max(errors)


@dataclass
class Run:
    """One run of the benchmark: where, how large, how long, and what has been found."""

    device: torch.device
    deadline: float
    patch: int
    batch: int
    rounds: int
    notes: list = field(default_factory=list)
    checks: list = field(default_factory=list)

    @property
    def on_gpu(self):
        return self.device.type == "cuda"

    def sync(self):
        if self.on_gpu:
            torch.cuda.synchronize()

    def left(self):
        return self.deadline - time.perf_counter()

    def check(self, name, error, limit):
        """Record a check and say whether it passed."""
        passed = bool(error <= limit)
        self.checks.append({"check": name, "error": float(error), "limit": limit, "passed": passed})
        if not passed:
            self.notes.append(f"{name} failed its check ({error:.1e} > {limit:.0e}): not timed")
        return passed

    def holds(self, name, passed):
        """A check that has no size."""
        return self.check(name, 0.0 if passed else 1.0, 0.5)

    def milliseconds(self, function):
        """Time of one call, by events on a GPU."""
        if not self.on_gpu:
            start = time.perf_counter()
            function()
            return 1e3 * (time.perf_counter() - start)
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        function()
        end.record()
        end.synchronize()
        return start.elapsed_time(end)

    def peak(self, function):
        """GiB that a call takes at its peak beyond what is allocated before it; None on the CPU."""
        if not self.on_gpu:
            function()
            return None
        self.sync()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        self.sync()
        return (torch.cuda.max_memory_allocated() - before) / 2**30
