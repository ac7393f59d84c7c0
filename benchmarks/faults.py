"""Training runs that are killed, run out of disk, or meet broken images; what is left must load, and go on.

    python benchmarks/faults.py --images FOLDER [--kills 50] [--output benchmarks/results] [--name faults]

FOLDER holds photographs. A small Contrast is trained with ContrastModel, and for the kills with SRModel too, on the
CPU, always by ``python -m contrast_arch.train -opt FILE --auto_resume``, with one worker process that loads images:

- kills: a run is killed with SIGKILL at random moments, those of imports and checks among them, and started again.
  After every kill all files of ``models`` and ``training_states`` are read. In the end the weights must be, bit for
  bit, those of a run that nobody disturbed.
- full disk: the run's folder is a small tmpfs (needs root) from which nothing is removed. All that is on it must load;
  once there is room, the run goes on and ends with the weights of an undisturbed one.
- broken images: one is truncated, one goes away during the run, in the middle of the training set. The run must end
  with the name of the file, or pass it over with ``skip_unreadable``.

Results go to NAME.json and NAME.md. With 50 kills about a quarter of an hour on two cores.
"""

import contextlib
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import yaml
from common import parser_of

from contrast_arch.check import read_options
from contrast_arch.experiments.bench.machine import machine
from contrast_arch.experiments.markdown import save, table
from contrast_arch.files import option_files
from contrast_arch.prepare import run as prepare
from contrast_arch.prepare.plan import make_settings
from contrast_arch.weights.files import read

SMALL = {"dims": 12, "depths": [1, 1], "num_heads": [2, 2], "window_size": 8}
ROOT = Path(__file__).parents[1]


def write_options(
    folder: Path,
    name: str,
    images: Path,
    iterations: int,
    validation_images: Path | None = None,
    skip_unreadable: bool = False,
    model_type: str = "ContrastModel",
    **changes: dict,
) -> Path:
    """The shipped option file of Contrast, made small; FOLDER/NAME.yml.

    Args:
        images: of ``contrast-arch prepare``.
        iterations: of the run.
        validation_images: likewise; by default ``images``.
        changes: sections that are changed.
    """
    file = option_files() / "train" / "train_Contrast_light_SRx4_from_scratch.yml"
    options = read_options(str(file))
    options |= {"name": name, "model_type": model_type, "num_gpu": 0}
    options["network_g"] |= SMALL
    training = options["datasets"]["train"]
    training |= _roots(images) | {"meta_info_file": str(images / "meta_info.txt"), "gt_size": 64}
    training |= {"batch_size_per_gpu": 2, "num_worker_per_gpu": 1, "dataset_enlarge_ratio": 5}
    validation = options["datasets"]["val_1"] | _roots(validation_images or images)
    options["datasets"] = {"train": training, "val": validation}
    options["train"] |= {"total_iter": iterations, "ema_decay": 0.99}
    if model_type == "ContrastModel":
        options["train"]["accumulate"] = 2
    options["train"]["scheduler"]["milestones"] = [iterations // 2]
    options["val"] |= {"val_freq": max(1, iterations // 4)}
    options["logger"] |= {"save_checkpoint_freq": 5, "keep_last": 3, "print_freq": 1, "use_tb_logger": False}
    for section, values in changes.items():
        options[section] |= values
    training["skip_unreadable"] = skip_unreadable
    path = folder / f"{name}.yml"
    path.write_text(yaml.safe_dump(options, sort_keys=False))
    return path


def _roots(images):
    return {"dataroot_gt": str(images / "HR"), "dataroot_lq": str(images / "LR_bicubic" / "X4")}


def start(options: Path, working: Path | None = None) -> subprocess.Popen:
    """The training run; what it prints goes to a file NAME.out beside its option file.

    Args:
        working: the folder it works in, by default that of the option file.
    """
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "contrast_arch.train", "-opt", str(options), "--auto_resume"]
    with open(options.with_suffix(".out"), "a") as out:
        return subprocess.Popen(
            command, cwd=working or options.parent, env=environment, stdout=out, stderr=subprocess.STDOUT
        )


def finish(options: Path, working: Path | None = None) -> tuple[int, str]:
    """Start it, wait until it ends, and return its exit code and what it printed this time."""
    out = options.with_suffix(".out")
    before = out.stat().st_size if out.exists() else 0
    return start(options, working).wait(), out.read_text()[before:]


def good(options: Path) -> dict:
    """The weights of a run that nobody disturbs.

    Raises:
        RuntimeError: it ended with an error.
    """
    code, text = finish(options)
    if code != 0:
        raise RuntimeError(f"{options} ended with {code}:\n{text[-3000:]}")
    return weights(options.parent, options.stem)


def weights(folder: Path, name: str) -> dict:
    """The last weights of a finished run, averaged ones too: key -> tensor."""
    content = read(folder / "experiments" / name / "models" / "net_g_latest.pth")
    kinds = ("params", "params_ema")
    return {f"{kind}.{key}": value for kind in kinds for key, value in content.get(kind, {}).items()}


def same(a: dict, b: dict) -> bool:
    return set(a) == set(b) and all(torch.equal(a[key], b[key]) for key in a)


def read_everything(folder: Path, name: str) -> tuple[int, bool]:
    """Read all checkpoints and states of a run.

    Returns:
        How many there are, and whether one was being written when the run ended.

    Raises:
        InputError: one does not load.
    """
    experiment = folder / "experiments" / name
    files = [*experiment.glob("models/net_g_*"), *experiment.glob("training_states/*.state")]
    for file in files:
        read(file)
    return len(files), any(experiment.rglob(".*.tmp"))


def iteration(options: Path) -> int:
    """The last one that a run has logged."""
    found = re.findall(r"iter:\s*([\d,]+), lr", options.with_suffix(".out").read_text())
    return int(found[-1].replace(",", "")) if found else 0


def kills(
    folder: Path,
    images: Path,
    count: int,
    iterations: int,
    seconds: float,
    seed: int = 0,
    model_type: str = "ContrastModel",
) -> dict:
    """Kill a run ``count`` times and let it end.

    Args:
        model_type: of the run.
        seconds: it lives for a random time up to this, counted from its start and, every second time, from its first
            iteration.
    """
    undisturbed, killed = f"undisturbed_{model_type}", f"killed_{model_type}"
    expected = good(write_options(folder, undisturbed, images, iterations, model_type=model_type))
    options = write_options(folder, killed, images, iterations, model_type=model_type)
    generator = random.Random(seed)
    found = dict.fromkeys(("kills", "killed_in_training", "killed_while_writing", "files_read"), 0)
    done = 0
    for number in range(count):
        process = start(options)
        while number % 2 and process.poll() is None and iteration(options) == done:
            time.sleep(0.05)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(generator.uniform(0, seconds))
        found["kills"] += process.poll() is None
        process.kill()
        process.wait()
        files, unfinished = read_everything(folder, killed)
        found["files_read"] += files
        found["killed_while_writing"] += unfinished
        found["killed_in_training"] += iteration(options) != done
        done = iteration(options)
    code, _ = finish(options)
    equal = code == 0 and same(expected, weights(folder, killed))
    settings = {"model_type": model_type, "seconds": seconds, "iterations": iterations, "seed": seed}
    return settings | found | {"exit_code": code, "weights_equal": equal}


@contextlib.contextmanager
def small_disk(folder: Path, kib: int):
    """A tmpfs of this size, or None where none can be mounted."""
    folder.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True).returncode == 0
    except OSError:
        mounted = False
    try:
        yield folder if mounted else None
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=True)


def full_disk(folder: Path, images: Path, iterations: int, kib: int) -> dict | None:
    """Run out of disk, make room, go on; None where no small disk can be had."""
    with small_disk(folder / "disk", kib) as disk:
        if disk is None:
            return None
        expected = good(write_options(folder, "roomy", images, iterations))
        # The option file and what is printed are elsewhere: only what the run itself writes meets the disk's end.
        options = write_options(folder, "full", images, iterations, logger={"keep_last": None})
        code, text = finish(options, disk)
        files, _ = read_everything(disk, "full")
        experiment = disk / "experiments" / "full"
        states = sorted(int(path.stem) for path in experiment.glob("training_states/*.state"))
        # As a user would make room.
        for number in states[:-1]:
            (experiment / "training_states" / f"{number}.state").unlink()
            (experiment / "models" / f"net_g_{number}.pth").unlink()
        write_options(folder, "full", images, iterations)
        again, _ = finish(options, disk)
        equal = again == 0 and same(expected, weights(disk, "full"))
    return {
        "disk_kib": kib,
        "iterations": iterations,
        "exit_code": code,
        "saves_that_failed": text.count("Nothing was saved at iteration"),
        "message": _error(text, disk),
        "files_read": files,
        "newest_state": states[-1],
        "exit_code_with_room": again,
        "weights_equal": equal,
    }


def _error(text, folder):
    """The message with which a run ended; paths from ``folder`` on."""
    lines = [line for line in text.splitlines() if line.startswith("error: ")]
    return lines[-1].replace(f"{folder}/", "") if lines else ""


def broken_images(folder: Path, images: Path, iterations: int) -> dict:
    """Images that break: one is truncated behind its header, one goes away while the run is under way.

    The run must end and name the file, go on once it is mended, and end with the weights of a run that met no broken
    one; and with ``skip_unreadable`` it must pass them over.
    """
    expected = good(write_options(folder, "whole", images, iterations))
    copy = folder / "images_that_break"
    shutil.copytree(images, copy)
    lq = sorted((copy / "LR_bicubic" / "X4").glob("*.png"))
    truncated, missing = lq[len(lq) // 3], lq[len(lq) // 2]
    whole = {path: path.read_bytes() for path in (truncated, missing)}
    options = write_options(folder, "stops", copy, iterations, images)

    truncated.write_bytes(whole[truncated][: len(whole[truncated]) // 2])
    found = [_stopped(*finish(options), truncated, folder)]
    truncated.write_bytes(whole[truncated])

    process, before = start(options), len(options.with_suffix(".out").read_text())
    begun = iteration(options) + 2
    while process.poll() is None and iteration(options) < begun:
        time.sleep(0.05)
    missing.unlink()
    found.append(_stopped(process.wait(), options.with_suffix(".out").read_text()[before:], missing, folder))
    missing.write_bytes(whole[missing])
    code, _ = finish(options)
    equal = code == 0 and same(expected, weights(folder, "stops"))

    truncated.write_bytes(whole[truncated][: len(whole[truncated]) // 2])
    passing = write_options(folder, "skips", copy, iterations, images, skip_unreadable=True)
    skipped, text = finish(passing)
    return {
        "iterations": iterations,
        "stops": found,
        "exit_code_mended": code,
        "weights_equal": equal,
        "exit_code_skipping": skipped,
        "named_skipping": f"{truncated.name} cannot be read as an image" in text,
    }


def _stopped(code, text, path, folder):
    message = _error(text, folder)
    return {"exit_code": code, "file": path.name, "named": path.name in message, "message": message}


def _kills(found):
    return [found[key] for key in ("kills", "kills_of_srmodel") if key in found]


def markdown(found: dict) -> str:
    machine, d, b = found["machine"], found["full_disk"], found["broken_images"]
    yes, rows = {True: "yes", False: "NO"}, []
    for k in _kills(found):
        what = "{model}kills by SIGKILL, after 0 to {seconds:g} s each, {iterations} iterations"
        model = f"{k['model_type']}: " if "model_type" in k else ""
        rows += [
            [what.format(model=model, **k), str(k["kills"])],
            ["- of them in training", str(k["killed_in_training"])],
            [
                "- of them before the first iteration (imports, checks, resuming)",
                str(k["kills"] - k["killed_in_training"]),
            ],
            ["- of them while a file was being written", str(k["killed_while_writing"])],
            ["checkpoints and states read after the kills, all of which load", str(k["files_read"])],
            ["weights at the end those of an undisturbed run, bit for bit", yes[k["weights_equal"]]],
        ]
    if d is None:
        rows.append(["full disk", "not tried: no small disk could be mounted"])
    else:
        rows += [
            [f"full disk ({d['disk_kib']} KiB): saves that failed", str(d["saves_that_failed"])],
            ["- checkpoints and states on it afterwards, all of which load", str(d["files_read"])],
            ["- exit code, and once there was room", f"{d['exit_code']}, {d['exit_code_with_room']}"],
            ["- weights at the end those of an undisturbed run, bit for bit", yes[d["weights_equal"]]],
        ]
    rows += [
        *(
            [f"image broken ({one['file']}): exit code, named", f"{one['exit_code']}, {yes[one['named']]}"]
            for one in b["stops"]
        ),
        ["- mended: weights at the end those of an undisturbed run, bit for bit", yes[b["weights_equal"]]],
        ["- skip_unreadable: exit code, named", f"{b['exit_code_skipping']}, {yes[b['named_skipping']]}"],
    ]
    about = f"{machine['cpu']}, torch {machine['torch']}, Python {machine['python']}, commit {machine['commit']}."
    return "\n".join([about, "", *table(["what was tried", "found"], rows)]) + "\n"


def held(found: dict) -> bool:
    """True if everything is as it must be."""
    d, b = found["full_disk"], found["broken_images"]
    stops = all(one["exit_code"] == 1 and one["named"] for one in b["stops"])
    disk = d is None or (d["exit_code"] == 1 and d["saves_that_failed"] > 0 and d["weights_equal"])
    skips = b["exit_code_skipping"] == 0 and b["named_skipping"]
    killed = all(k["weights_equal"] for k in _kills(found))
    return killed and disk and stops and b["weights_equal"] and skips


def main() -> int:
    parser = parser_of(__doc__, "faults")
    parser.add_argument("--images", type=Path, required=True, help="a folder of photographs")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--iterations", type=int, default=2500, help="of the run that is killed (default: 2500)")
    parser.add_argument("--seconds", type=float, default=8, help="that it lives at most (default: 8)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images = folder / "images"
        of_kills = args.kills, args.iterations, args.seconds, args.seed
        prepare([args.images], images, make_settings([4], "training", 64, None, None), processes=1)
        found = {
            "machine": machine(1),
            "kills": kills(folder, images, *of_kills),
            "kills_of_srmodel": kills(folder, images, *of_kills, model_type="SRModel"),
            "full_disk": full_disk(folder, images, iterations=60, kib=3000),
            "broken_images": broken_images(folder, images, iterations=150),
        }
    text = markdown(found)
    save(args.output / args.name, text, found)
    print(text)
    return 0 if held(found) else 1


if __name__ == "__main__":
    sys.exit(main())
