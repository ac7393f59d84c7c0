"""Option files with a mistake in each: the trainer has to refuse them with a message, or to train.

    python benchmarks/mutations.py [--count 200] [--seed 0] [--output benchmarks/results]

Each file is run in a process of its own as ``contrast-train`` would run it, for at most two iterations of a tiny
network on the CPU. What ends with a traceback is printed, and makes the exit code 1.
"""

import argparse
import contextlib
import multiprocessing
import os
import random
import re
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import yaml
from PIL import Image
from tqdm import tqdm

from contrast_arch import compat
from contrast_arch.experiments.bench.machine import machine
from contrast_arch.experiments.markdown import save, table
from contrast_arch.files import option_files

NETWORKS = ("Contrast", "ContrastNoPE", "HATLight", "MambaLight")
# What makes a shipped file one of two iterations of a tiny network; lines that a file does not have are passed over.
TINY = {
    "depths": "[1, 1]",
    "num_heads": "[2, 2]",
    "dims": "12",
    "window_size": "4",
    "img_size": "8",
    "gt_size": "32",
    "num_worker_per_gpu": "0",
    "batch_size_per_gpu": "2",
    "dataset_enlarge_ratio": "4",
    "total_iter": "2",
    "val_freq": "2",
    "save_checkpoint_freq": "2",
    "print_freq": "1",
    "use_tb_logger": "false",
    "meta_info_file": "~",
}
# What ContrastModel adds, by section.
OURS = {
    "train": "  amp: bf16\n  accumulate: 2\n  clip_grad_norm: 1.0\n  ema_decay: 0.9\n  max_nonfinite: 3",
    "val": "  tile: {size: 8, overlap: 4}",
    "logger": "  keep_last: 1\n  save_format: safetensors",
}
VALUES = {
    "text": ["abc", "", "yes please", "~", "../..", "a/b"],
    "number as text": ["2e-4", "4", "1e5"],
    "list": [[], [1, 2], ["a"], [[1]], [None]],
    "nothing": [None],
    "negative": [-1, -0.5, -(10**6)],
    "zero": [0, 0.0],
    "huge": [10**9, 10**30, 1e300, 10**400],
    "not finite": [float("inf"), float("nan")],
    "nested": [{"a": 1}, {"type": "Adam"}, {"a": {"b": [1]}}, {}],
    "flag": [True, False],
    "fraction": [1.5, 0.1],
}
NAMES = ("SRModle", "Contrast2", "SRGANModel", "ESRGANModel", "VideoTestDUFDataset", "L1", "Adm", "calculate_pnsr")
LINES = (
    "  <<: *nowhere",
    "  <<: *scale",
    "extra: *nowhere",
    "extra: [1, 2",
    "- item",
    "extra: {a: 1",
    "? [a, b]\n: 1",
    "1: 2",
    "extra: !!python/object/apply:os.getcwd []",
    "extra: !!int abc",
    "extra: &loop {a: *loop}",
    "extra: &loop [*loop]",
    "extra: 2024-99-99",
    "---",
    "%YAML 9.9",
    "extra: " + "[" * 5000,
)
BYTES = (b"\x00", b"\xff\xfe", b"\x80abc", b"\xef\xbb\xbf", b"\x07", b"\x1b[31m", b"\r\n")


class Mutation(NamedTuple):
    """An option file with a mistake.

    Attributes:
        kind: of the mistake.
        what: was done, in words.
        content: of the file.
    """

    kind: str
    what: str
    content: bytes


def base_files(root: Path) -> list[str]:
    """Shipped option files, for the pairs that ``write_pairs`` makes in ``root``; each once more for ContrastModel."""
    texts = []
    for network in NETWORKS:
        text = (option_files() / "train" / f"train_{network}_SRx4_from_scratch.yml").read_text()
        for key, value in TINY.items():
            text = re.sub(rf"^( +{key}:) .*$", rf"\1 {value}", text, flags=re.MULTILINE)
        text = re.sub(r"(dataroot_gt:) .*$", rf"\1 {root / 'HR'}", text, flags=re.MULTILINE)
        text = re.sub(r"(dataroot_lq:) .*$", rf"\1 {root / 'LR'}", text, flags=re.MULTILINE)
        text = text.replace("num_gpu: auto", "num_gpu: 0")
        ours = text.replace("model_type: SRModel", "model_type: ContrastModel")
        for section, keys in OURS.items():
            ours = re.sub(rf"^{section}:$", f"{section}:\n{keys}", ours, flags=re.MULTILINE)
        texts += [text, ours]
    return texts


def write_pairs(root: Path, count: int = 2, size: tuple[int, int] = (24, 20)) -> None:
    """Pairs of noise root/LR/Nx4.png of a size (width, height), and root/HR/N.png of four times that."""
    rng = np.random.default_rng(0)
    for folder in ("HR", "LR"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for number in range(count):
        small = Image.fromarray(rng.integers(0, 256, (*size[::-1], 3), dtype=np.uint8))
        small.save(root / "LR" / f"{number}x4.png")
        small.resize((4 * size[0], 4 * size[1]), Image.Resampling.BICUBIC).save(root / "HR" / f"{number}.png")


def paths(options: dict, at: tuple = ()) -> Iterator[tuple]:
    """The path of every key."""
    for key, value in options.items():
        yield (*at, key)
        if isinstance(value, dict):
            yield from paths(value, (*at, key))


def _parent(options, path):
    for key in path[:-1]:
        options = options[key]
    return options


def _misspelt(rng, name):
    at = rng.randrange(max(1, len(name) - 1))
    return rng.choice(
        [name[:at] + name[at + 1 :], name[: at + 1] + name[at:], f"{name[:at]}{name[at:][::-1]}", name + "s"]
    )


def _of_options(rng, text):
    """A mistake in keys or values."""
    options = yaml.safe_load(text)
    every = list(paths(options))
    path = rng.choice(every)
    section, where = _parent(options, path), ": ".join(path)
    kind = rng.choice(["delete", "misspell", "swap", "move", "unknown", "name", *["value"] * 8])
    if kind == "delete":
        del section[path[-1]]
    elif kind == "misspell":
        name = _misspelt(rng, path[-1])
        section[name] = section.pop(path[-1])
        where += f" as {name}"
    elif kind == "swap":
        other = rng.choice([key for key in options if key != path[0]])
        options[path[0]], options[other] = options[other], options[path[0]]
        where = f"{path[0]} and {other}"
    elif kind == "move":
        options[path[-1]] = section.pop(path[-1])
    elif kind == "unknown":
        section[rng.choice(["extra", "use_shuffle", "crop_border", "type", "lr", "scale"])] = rng.choice([1, "a", None])
    elif kind == "name":
        path = rng.choice([path for path in every if path[-1] in ("type", "model_type")])
        _parent(options, path)[path[-1]] = name = rng.choice(NAMES)
        where = f"{': '.join(path)}: {name}"
    else:
        kind = rng.choice(list(VALUES))
        section[path[-1]] = value = deepcopy(rng.choice(VALUES[kind]))
        where += f": {str(value)[:30]}"
    return Mutation(kind, where, yaml.safe_dump(options, sort_keys=False).encode())


def _of_text(rng, text):
    """A mistake in what is written."""
    lines = text.splitlines()
    at = rng.randrange(len(lines))
    kind = rng.choice(["truncate", "duplicate", "tab", "indent", "colon", "line", "bytes", "empty"])
    what = f"line {at + 1}"
    if kind == "truncate":
        cut = rng.randrange(len(text))
        return Mutation(kind, f"after {cut} characters", text[:cut].encode())
    if kind == "empty":
        return Mutation(kind, "nothing is left", rng.choice([b"", b"# nothing\n", b"~\n", b"[]\n", b"text\n", b"{}\n"]))
    if kind == "bytes":
        content, position = rng.choice(BYTES), rng.randrange(len(text))
        return Mutation(
            kind, f"{content!r} at {position}", text[:position].encode() + content + text[position:].encode()
        )
    if kind == "duplicate":
        lines.insert(rng.randrange(len(lines)), lines[at])
    elif kind == "tab":
        lines[at] = "\t" + lines[at].lstrip()
    elif kind == "indent":
        lines[at] = rng.choice([" " + lines[at], lines[at][1:], lines[at].lstrip(), "    " + lines[at]])
    elif kind == "colon":
        lines[at] = lines[at].replace(":", "", 1)
    else:
        line = rng.choice(LINES)
        lines.insert(at, line)
        what = f"{line[:30]!r} as line {at + 1}"
    return Mutation(kind, what, "\n".join(lines).encode())


def mutations(bases: list[str], count: int = 200, seed: int = 0) -> list[Mutation]:
    """Option files with a mistake in each, the same for the same seed.

    Args:
        bases: texts of option files that train.
        count: of them, the first half with mistakes in keys and values, the second with mistakes in the text.
    """
    rng = random.Random(seed)
    makers = [_of_options] * (count - count // 3) + [_of_text] * (count // 3)
    return [make(rng, rng.choice(bases)) for make in makers]


class EnoughError(Exception):
    """Two iterations have been trained."""


def _train(content, folder, sender):
    """In a process of its own: what BasicSR's trainer makes of a file, sent as outcome and output."""
    os.chdir(folder)
    Path("options.yml").write_bytes(content)
    # The threads of the process that was forked are not there.
    torch.set_num_threads(1)
    sys.argv = ["contrast-train", "-opt", "options.yml"]
    with open("output.txt", "w") as output, contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        os.dup2(output.fileno(), 2)  # what is not written by Python
        found, iterations = _run()
    text = Path("output.txt").read_text(errors="replace")
    if found == "refused":
        left = {path.name for path in Path().iterdir()} - {"options.yml", "output.txt"}
        if "error: " not in text or "Traceback" in text or left:
            found = "refused badly"
    elif found == "trained" and not iterations:
        found = "trained nothing"
    sender.send((found, text))


def _run():
    """Outcome, and how many iterations were trained."""
    from basicsr.models.sr_model import SRModel

    from contrast_arch.models.contrast_model import ContrastModel
    from contrast_arch.pipeline import run

    iterations = []

    def counted(step):
        def optimize(model, iteration):
            if len(iterations) == 2:
                raise EnoughError
            iterations.append(iteration)
            return step(model, iteration)

        return optimize

    for model in (SRModel, ContrastModel):
        model.optimize_parameters = counted(model.optimize_parameters)
    try:
        found = "refused" if run(is_train=True) else "trained"
    except EnoughError:
        found = "trained"
    except BaseException:  # SystemExit too, which is none of a trainer's answers to an option file
        traceback.print_exc()
        found = "traceback"
    return found, len(iterations)


def outcome(mutation: Mutation, seconds: float = 120) -> tuple[str, str]:
    """Outcome of a file, and what was printed.

    Returns:
        "trained" or "refused", which are well; else "traceback", "trained nothing", "refused badly" (without a
        message, or with something left on disk), "killed" or "too long".
    """
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    with tempfile.TemporaryDirectory() as folder:
        process = context.Process(target=_train, args=(mutation.content, folder, sender))
        process.start()
        sender.close()
        try:
            found = receiver.recv() if receiver.poll(seconds) else ("too long", "")
        except EOFError:
            found = "killed", ""
        # Training may have taken SIGTERM for a request.
        process.kill()
        process.join()
    return found


def tables(found: dict) -> str:
    """Write the figures in Markdown."""
    counts = found["outcomes"]
    names = sorted({name for row in counts.values() for name in row})
    total = Counter()
    rows = []
    for kind, row in sorted(counts.items()):
        total.update(row)
        rows.append([kind, *(str(row.get(name, 0)) for name in names)])
    rows.append(["all", *(str(total[name]) for name in names)])
    lines = [
        f"{found['count']} option files with a mistake in each, seed {found['seed']}; {found['machine']['cpu']}, torch "
        f"{found['machine']['torch']}.",
        "",
        *table(["mistake", *names], rows),
        "",
        '"Refused": a message and exit code 1 before anything is written. "Trained": two iterations, since what was',
        "changed is no mistake, or BasicSR passes over it.",
        "",
    ]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="a folder for mutations.json and mutations.md (default: none)")
    args = parser.parse_args()
    compat.require_basicsr()
    counts, bad = {}, 0
    with tempfile.TemporaryDirectory() as root:
        write_pairs(Path(root))
        for mutation in tqdm(mutations(base_files(Path(root)), args.count, args.seed), unit="file", disable=None):
            name, text = outcome(mutation)
            counts.setdefault(mutation.kind, Counter())[name] += 1
            if name not in ("trained", "refused"):
                bad += 1
                print(f"{name}: {mutation.kind}: {mutation.what}\n{text[-2000:]}", flush=True)
    found = {"count": args.count, "seed": args.seed, "machine": machine(1), "outcomes": counts}
    print(tables(found))
    if args.output is not None:
        save(args.output / "mutations", tables(found), found)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
