"""Mistakes for mutations.py, from a grammar over the schema, the data, the checkpoints and the commands."""

import argparse
import itertools
import random
import re
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import damage
import numpy as np
import yaml
from PIL import Image

from contrast_arch import cli, pipeline
from contrast_arch.files import option_files
from contrast_arch.options.validation import KEYS, json_schema

NETWORKS = ("Contrast", "ContrastNoPE", "HATLight", "MambaLight")
# Changes of a shipped file to two iterations of a tiny network; lines that a file does not have are passed over.
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
# Keys of ContrastModel, by section.
CONTRAST_MODEL_KEYS = {
    "train": "  amp: bf16\n  accumulate: 2\n  clip_grad_norm: 1.0\n  ema_decay: 0.9\n  max_nonfinite: 3",
    "val": "  tile: {size: 8, overlap: 4}",
    "logger": "  keep_last: 1\n  save_format: safetensors",
}
# Of keys and arguments, one after the other.
VALUES = [
    "abc",
    True,
    1.5,
    [1],
    {"a": 1},
    "2e-4",
    -1,
    float("nan"),
    [],
    10**400,
    "../..",
    0,
    "a\0b",
    [[None]],
    {},
    1e300,
]
NAMES = ("SRModle", "SRGANModel", "VideoTestDUFDataset", "L1", "Contrast2", "calculate_pnsr", "Adm", "ESRGANModel")
LINES = (
    "  <<: *nowhere",
    "extra: *nowhere",
    "extra: [1, 2",
    "- item",
    "? [a, b]\n: 1",
    "1: 2",
    "extra: !!python/object/apply:os.getcwd []",
    "extra: !!int abc",
    "extra: &loop {a: *loop}",
    "extra: 2024-99-99",
    "---",
    "%YAML 9.9",
    "extra: " + "[" * 5000,
)
BYTES = (b"\x00", b"\xff\xfe", b"\x80abc", b"\xef\xbb\xbf", b"\x07", b"\x1b[31m", b"\r\n")
TRAIN = ("contrast-train", "-opt", "options.yml")
# A command that ends well, for each subcommand; its arguments are changed one by one.
COMMANDS = {
    "contrast-train": "-opt options.yml",
    "contrast-test": "-opt test.yml",
    "check": "-opt options.yml",
    "prepare": "HR --output prepared --scales 2 --gt-size 8 --processes 1",
    "upscale": "LR/0x4.png --output out --model tiny.pth",
    "export": "experiments/tiny --output exported",
    "report": "experiments/tiny --output report",
    "onnx": "tiny.pth --output tiny.onnx",
    "options": "--network Contrast",
    "compare": "options.yml --images 8 --images-per-checkpoint 8 --output compared",
    "bench": "tiny.safetensors --patch 8 --rounds 1 --batch 1 --output bench",
    "receptive-field": "HR/0.png --weights tiny.pth --output field",
    "warmup": "",
    "demo": "--iterations 9",
}
CONTRADICTIONS = {
    "contrast-train": ("--trainer basicsr --override-state", "--launcher pytorch", "--force_yml a", "--import none"),
    "upscale": ("--factor 2 --out-size 8 8", "--format png --quality 5", "--output LR/0x4.png", "--tile 7"),
    "compare": ("--images 5", "--force_yml name=a"),
    "options": ("--folder a", "--size light --start finetune --scale 2", "--output missing/a.yml"),
    "export": ("--layout published --output a.safetensors", "--iteration 7", "experiments/tiny --output a.safetensors"),
    "check": ("--test",),
    "prepare": ("--output HR", "--sub-images 5", "--gt-size 7"),
    "receptive-field": ("--at 99 99",),
    "onnx": ("--output missing/a.onnx", "--opset 99"),
}


class Case(NamedTuple):
    """An input with a mistake.

    Attributes:
        kind: of the mistake.
        what: was done, in words.
        words: of the command line.
        prepare: makes the mistake in the working directory.
    """

    kind: str
    what: str
    words: tuple[str, ...]
    prepare: Callable[[], None]


def base_files(root: Path) -> list[str]:
    """Shipped option files, for the pairs that ``write_pairs`` makes in ``root``; each once more for ContrastModel."""
    texts = []
    for network in NETWORKS:
        text = (option_files() / "train" / f"train_{network}_SRx4_from_scratch.yml").read_text()
        for key, value in TINY.items():
            text = re.sub(rf"^( +{key}:) .*$", rf"\1 {value}", text, flags=re.MULTILINE)
        text = re.sub(r"(dataroot_gt:) .*$", rf"\1 {root / 'HR'}", text, flags=re.MULTILINE)
        text = re.sub(r"(dataroot_lq:) .*$", rf"\1 {root / 'LR'}", text, flags=re.MULTILINE)
        # One set of validation is enough.
        text = re.sub(r"^  val_2:\n(    .*\n|\n)*", "", text, flags=re.MULTILINE)
        text = text.replace("num_gpu: auto", "num_gpu: 0")
        ours = text.replace("model_type: SRModel", "model_type: ContrastModel")
        for section, keys in CONTRAST_MODEL_KEYS.items():
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


def write(content):
    """A function that writes an option file, of bytes or of options."""

    def prepare():
        text = content if isinstance(content, bytes) else yaml.safe_dump(content, sort_keys=False).encode()
        Path("options.yml").write_bytes(text)

    return prepare


def keys(options: dict, section: dict, path: tuple = ()) -> Iterator[tuple[tuple, dict]]:
    """Path and JSON schema of every key; a section with names of its own has those of the options."""
    open_ones = dict.fromkeys(options, section["additionalProperties"]) if _is_named(section) else {}
    for name, schema in {**open_ones, **section.get("properties", {})}.items():
        yield (*path, name), schema
        for kind in schema.get("anyOf", [schema]):
            if "$ref" in kind:
                kind = json_schema()["$defs"][kind["$ref"].rpartition("/")[2]]
            if "properties" in kind or _is_named(kind):
                yield from keys(options.get(name) or {}, kind, (*path, name))


def _is_named(section):
    return isinstance(section.get("additionalProperties"), dict)


def bounds(schema: dict) -> Iterator[tuple[str, object]]:
    """Values at and past the bounds of a key."""
    for kind in schema.get("anyOf", [schema]):
        if kind.get("type") == "array":
            yield from ((where, [value]) for where, value in bounds(kind["items"]))
        step = 1 if kind.get("type") == "integer" else 0.25
        for bound, sign in (("minimum", -1), ("maximum", 1)):
            if bound in kind:
                yield from (("at a bound", kind[bound]), ("past a bound", kind[bound] + sign * step))
        if "exclusiveMinimum" in kind:
            yield from (("past a bound", kind["exclusiveMinimum"]), ("at a bound", kind["exclusiveMinimum"] + step))


def option_cases(bases: list[str]) -> Iterator[Case]:
    """Mistakes in keys and values."""
    options, values = list(map(yaml.safe_load, bases)), itertools.cycle(VALUES)
    found = list(keys(options[1], json_schema()))
    known = {path for path, _ in found}
    arguments = [(("network_g", name), None) for base in options[1::2] for name in base["network_g"]]
    found += [one for one in dict(arguments).items() if one[0] not in known]
    for number, (path, schema) in enumerate(found):
        # Some keys are ContrastModel's.
        base = next(
            base
            for base in itertools.islice(itertools.cycle(options[1::2] if path in KEYS else options), number, None)
            if schema is not None or path[1] in base["network_g"]
        )

        def case(kind, name, value, base=base, path=path):
            changed = deepcopy(base)
            section = changed
            for key in path[:-1]:
                section[key] = section = section[key] if isinstance(section.get(key), dict) else {}
            old = section.pop(path[-1], 1)
            if name is not None:
                section[name] = old if kind == "misspelt" else value
            shown = "" if name is None else f": {str(value)[:30]!r}" if name == path[-1] else f" as {name}"
            what = f"{': '.join(path)}{shown} ({base['model_type']}, {base['network_g']['type']})"
            return Case(kind, what, TRAIN, write(changed))

        yield case("removed", None, None)
        yield case(
            "misspelt", path[-1][:-2] + path[-1][:-3:-1] if path[-1][-1] != path[-1][-2] else path[-1] + "s", None
        )
        yield case("empty", path[-1], None)
        if path[-1] in ("type", "model_type"):
            yield case("another name", path[-1], NAMES[number % len(NAMES)])
        yield from (case("another type", path[-1], value) for value in itertools.islice(values, 1))
        yield from (case(kind, path[-1], value) for kind, value in bounds(schema or {}))


def text_cases(bases: list[str], count: int = 64) -> Iterator[Case]:
    """Mistakes in the text, at random places."""
    rng = random.Random(0)
    for number in range(count):
        text = bases[number % len(bases)]
        lines, cut = text.splitlines(), rng.randrange(len(text))
        at = rng.randrange(len(lines))
        line, inserted, content = lines[at], LINES[number % len(LINES)], BYTES[number % len(BYTES)]
        changes = {
            f"after {cut} characters": text[:cut],
            f"{content!r} at {cut}": text[:cut].encode() + content + text[cut:].encode(),
            f"a tab in line {at + 1}": [*lines[:at], "\t" + line.lstrip(), *lines[at + 1 :]],
            f"line {at + 1} indented": [*lines[:at], " " + line, *lines[at + 1 :]],
            f"line {at + 1} less indented": [*lines[:at], line[1:], *lines[at + 1 :]],
            f"no colon in line {at + 1}": [*lines[:at], line.replace(":", "", 1), *lines[at + 1 :]],
            f"line {at + 1} twice": [*lines[:at], line, *lines[at:]],
            f"{inserted[:30]!r} as line {at + 1}": [*lines[:at], inserted, *lines[at:]],
        }
        what, changed = list(changes.items())[(number + number // len(bases)) % len(changes)]
        changed = "\n".join(changed) if isinstance(changed, list) else changed
        yield Case("text", what, TRAIN, write(changed if isinstance(changed, bytes) else changed.encode()))


def file_cases(bases: list[str]) -> Iterator[Case]:
    """Broken images, checkpoints and states."""

    def case(kind, what, change, files, **paths):
        def prepare():
            options = yaml.safe_load(bases[1])
            options["path"] |= paths
            if paths:
                options |= {"name": "tiny"}
            Path("options.yml").write_text(yaml.safe_dump(options))
            for file in files:
                change(Path(file))

        return Case(kind, what, TRAIN, prepare)

    for what, change in damage.IMAGES.items():
        for files in (("HR/0.png",), ("LR/0x4.png",), ("HR/0.png", "LR/0x4.png")):
            yield case("image", f"{' and '.join(files)}: {what}", change, files)
    for suffix in (".pth", ".safetensors"):
        for what, change in (damage.CHECKPOINTS if suffix == ".pth" else damage.SAFETENSORS).items():
            file = f"tiny{suffix}"
            yield case("checkpoint", f"{suffix}: {what}", change, [file], pretrain_network_g=file)
    state, network = (f"experiments/tiny/{file}" for file in ("training_states/1.state", "models/net_g_1.pth"))
    for what, change in damage.STATES.items():
        yield case("state", what, change, [state], resume_state=state)
    for what, change in damage.CHECKPOINTS.items():
        yield case("state", f"its checkpoint: {what}", change, [network], resume_state=state)


class CapturedError(Exception):
    """Carries a parser."""


def parsers() -> dict[str, argparse.ArgumentParser]:
    """Parsers of all commands."""

    def capture(parser, *_):
        raise CapturedError(parser)

    found = {f"contrast-{name}": pipeline.command_line(name == "train") for name in ("train", "test")}
    with mock.patch.object(argparse.ArgumentParser, "parse_args", capture):
        try:
            cli.main([])
        except CapturedError as captured:
            actions = captured.args[0]._actions
    return found | next(action.choices for action in actions if isinstance(action.choices, dict))


def command_cases() -> Iterator[Case]:
    """Arguments that are unknown, left out, of another type, or contradict others; files that are others."""
    for name, parser in parsers().items():
        good = COMMANDS[name].split()
        lines = {"as it should be": good, "nothing": [], "an unknown option": [*good, "--nonsense"]}
        for number, word in enumerate(good):
            if "/" in word or "." in word or word == "HR":
                for other in ("missing/a.png", "HR", "text.txt", "/dev/null", "", "caf\udce9.png", "loop"):
                    lines[f"{other!r} for {word}"] = [*good[:number], other, *good[number + 1 :]]
        for action in parser._actions:
            if not action.option_strings or isinstance(action, argparse._HelpAction):
                continue
            option = action.option_strings[-1]
            if action.nargs != 0:
                lines[f"{option} without a value"] = [*good, option]
                typed = {int: ("0", "-1", "1.5", str(10**12)), float: ("0", "-1", "nan", "inf")}.get(action.type, ())
                for value in ("nonsense", *typed):
                    lines[f"{option} {value}"] = [
                        *good,
                        option,
                        *[value] * (action.nargs or 1 if action.nargs != "+" else 1),
                    ]
            if option in ("--output", "--folder"):
                for place in ("text.txt", "text.txt/inside", "/proc/inside", "", "loop/inside", "n" * 300):
                    lines[f"{option} {place[:20]!r}"] = [*good, option, place]
            if option in good:
                at = good.index(option)
                lines[f"no {option}"] = good[:at] + good[at + 2 :]
        # By themselves these two train and measure for minutes.
        needed = {"demo": "--iterations", "bench": "--rounds"}.get(name)
        lines = {what: line for what, line in lines.items() if needed is None or needed in line}
        lines |= {more: [*good, *more.split()] for more in CONTRADICTIONS.get(name, ())}
        words = (name,) if name.startswith("contrast-") else ("contrast-arch", name)
        yield from (Case(f"command {name}", what, (*words, *line), lambda: None) for what, line in lines.items())


def cases() -> list[Case]:
    """All cases, for working directories like the template."""
    bases = base_files(Path())
    return [*option_cases(bases), *text_cases(bases), *file_cases(bases), *command_cases()]
