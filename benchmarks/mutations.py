"""Bad inputs: option files, images, checkpoints, training states and command lines with a mistake in each.

    python benchmarks/mutations.py [--kinds KIND ...] [--minutes 30] [--output benchmarks/results]

The mistakes come from a grammar: every key of the schema removed, misspelt, empty, of another type, at and past its
bounds; the arguments of networks; the text of option files; every kind of broken image, checkpoint and state (those of
damage.py); the arguments of every command. Each runs in a process of its own, option files for two iterations of a
tiny network on the CPU. The verdict of ``contrast-arch check`` is compared with the run: a file with an error must be
refused in the same words, one without must be trained and validated, with exit code 0. A refused file is run once
more without the checks. A disagreement or a traceback is printed, and makes the exit code 1. Cases in mutations.json
whose outcome was well are not played again, so that runs add up; all take about an hour on two cores.
"""

import contextlib
import itertools
import json
import multiprocessing
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from copy import deepcopy
from pathlib import Path
from unittest import mock

import torch
import yaml
from common import parser_of
from mistakes import TRAIN, Case, base_files, cases, write, write_pairs
from tqdm import tqdm

from contrast_arch import cli, compat, test, train
from contrast_arch.experiments.bench.machine import machine
from contrast_arch.experiments.markdown import save, table

# Outcomes in which check and run agree; of the second two the words are listed.
LISTED = ("refused, would have run", "ran, with the check's errors as warnings")
GOOD = ("ran", "refused, would have failed", *LISTED, "ended at the image", "refused")
MEMORY = 16 << 30
# The parts in which messages of a kind differ: the key and its value, the keys that are near.
MESSAGE = re.compile(r"^.*?(?=no such key|expected|has no)|(?<=did you mean ).*")
# A message of the trainer, of argparse or of the check; libpng writes errors too.
ERROR = re.compile(r"^(?:.*?: )?error: (.*)$", re.MULTILINE)


class EnoughError(BaseException):
    """Two iterations have been trained; the rest of the run is not needed."""


def _printed(call, *args) -> tuple[int | str, str]:
    """Exit code of a command, or the error that it raised; and what was printed."""
    with tempfile.TemporaryFile("w+", errors="replace") as file:
        with contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
            for stream in (1, 2):  # for libraries that write past Python
                os.dup2(file.fileno(), stream)
            try:
                code = call(*args) or 0
            except EnoughError:
                code = 0
            except SystemExit as end:
                code = end.code
            except BaseException as error:
                traceback.print_exc()
                code = type(error).__name__
        file.seek(0)
        return code, file.read()


def _files():
    return sorted(path for path in Path().rglob("*") if path.name != "__pycache__")


def _play(case, folder, sender):
    """In a process of its own: make the mistake, ask for the verdict, and run; (stage, code, text, more) are sent."""
    os.setsid()
    os.chdir(folder)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    # The threads of the process that was forked are not there.
    torch.set_num_threads(1)
    case.prepare()
    verdict = 0
    if not case.kind.startswith("command"):
        verdict, text = _printed(cli.main, ["check", *case.words[1:], *(["--all"] if case.kind == "image" else [])])
        sender.send(("check", verdict, text, None))
    calls = {"contrast-train": train.main, "contrast-test": test.main}
    call = calls.get(case.words[0], lambda: cli.main(list(case.words[1:])))
    sys.argv, iterations, before = list(case.words), _count_iterations(), _files()
    code, text = _printed(call)
    records = [file.read_text() for file in Path().glob("experiments/*/metrics.jsonl")]
    validated = len(iterations) > 2 or any('"kind": "validation"' in record for record in records)
    sender.send(("run", code, text, (len(iterations) > 0 and validated, _files() == before)))
    if code == 1 and verdict == 1:
        with mock.patch("contrast_arch.check.check_file", lambda *_: None):
            sender.send(("unchecked", *_printed(call), None))


def _count_iterations():
    """List the iterations of runs from now on; the third one ends the run."""
    from basicsr.models.sr_model import SRModel

    from contrast_arch.models.contrast_model import ContrastModel

    iterations = []

    def counted(step):
        def optimize(model, iteration):
            iterations.append(iteration)
            if len(iterations) > 2:
                raise EnoughError
            return step(model, iteration)

        return optimize

    for model in (SRModel, ContrastModel):
        model.optimize_parameters = counted(model.optimize_parameters)
    return iterations


def play(case: Case, template: Path, seconds: float = 120) -> dict[str, tuple]:
    """Play a case in a copy of the template: stage -> exit code, what was printed, and more."""
    context, stages = multiprocessing.get_context("fork"), {}
    receiver, sender = context.Pipe(duplex=False)
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(template, folder, symlinks=True, dirs_exist_ok=True)
        process = context.Process(target=_play, args=(case, folder, sender))
        process.start()
        sender.close()
        with contextlib.suppress(EOFError):
            while receiver.poll(seconds):
                stage, *found = receiver.recv()
                stages[stage] = tuple(found)
        # Training may have taken SIGTERM for a request.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.join()
    return stages


def judge(stages: dict[str, tuple]) -> str:
    """Outcome of a case; those that are not in GOOD are disagreements."""
    if "run" not in stages:
        return "no end"
    if any("Traceback" in stages.get(stage, ("", ""))[1] for stage in ("check", "run")):
        return "traceback"
    code, text, (trained, untouched) = stages["run"]
    if code not in (0, 1, 2) or (code and not ERROR.search(text)):
        return f"exit code {code}"
    if "check" not in stages:
        return "refused" if code else "ran"
    verdict, found, _ = stages["check"]
    errors = ERROR.findall(found)
    if verdict == 0:
        return "ran" if code == 0 and trained else "passed by the check, and failed"
    first = ERROR.search(text)[1] if code else ""
    if code and not any(first.endswith(error) for error in errors):
        images = [set(re.findall(r"[\w/]+\.png", words)) for words in (first, found)]
        return "ended at the image" if images[0] & images[1] else "refused in other words than the check's"
    if code == 0:
        warned = any(error in text for error in errors)
        return "ran, with the check's errors as warnings" if trained and warned else "refused by the check, and ran"
    if not untouched:
        return "refused, and left something on disk"
    return "refused, would have run" if stages.get("unchecked", (1,))[0] == 0 else "refused, would have failed"


def tables(found: dict) -> str:
    """Write the figures in Markdown."""
    counts, here = {}, found["machine"]
    for name, outcome in found["cases"].items():
        counts.setdefault(name.partition(": ")[0], Counter())[outcome] += 1
    total = sum(counts.values(), Counter())
    names = [*GOOD, *sorted(set(total) - set(GOOD))]
    rows = [[kind, *(str(row[name]) for name in names)] for kind, row in sorted(counts.items())]
    rows.append(["all", *(str(total[name]) for name in names)])
    lines = [f"{total.total()} of {found['count']} inputs; {here['cpu']}, torch {here['torch']}.", ""]
    lines += [*table(["mistake", *names], rows), ""]
    lines += [
        '"Ran": two iterations and a validation, with exit code 0 (a command did what it is for). "Refused": by the',
        "check and the run in the same words, with nothing on disk; then the run was tried without the checks.",
        '"Ended at the image": named by `check --all`; the trainer reads headers first, and ends where it gets to it.',
        "",
    ]
    for outcome in LISTED:
        alike = {}
        for name, words in found["words"].items():
            if found["cases"][name] == outcome:
                alike.setdefault(MESSAGE.sub("...", words), []).append(name)
        rows = [[str(len(inputs)), inputs[0], words[:160]] for words, inputs in sorted(alike.items())]
        lines += [f"{outcome[0].upper()}{outcome[1:]}:", "", *table(["inputs", "such as", "words"], rows), ""]
    return "\n".join(lines)


def write_template(root: Path) -> None:
    """Write the files that cases change: pairs, option files, checkpoints, and an experiment of one iteration."""
    write_pairs(root, size=(10, 8))
    (root / "text.txt").write_text("text\n")
    (root / "loop").symlink_to("loop")
    options = yaml.safe_load(base_files(Path())[1]) | {"name": "tiny"}
    short = deepcopy(options)
    short["train"]["total_iter"] = short["logger"]["save_checkpoint_freq"] = 1
    case = Case("command", "", TRAIN, write(short))
    process = multiprocessing.get_context("fork").Process(target=_play, args=(case, root, mock.Mock()))
    process.start()
    process.join()
    models = root / "experiments" / "tiny" / "models"
    for suffix in (".pth", ".safetensors"):
        shutil.copy(models / f"net_g_latest{suffix}", root / f"tiny{suffix}")
    (root / "options.yml").write_text(yaml.safe_dump(options | {"name": "other"}))
    test = {key: options[key] for key in ("model_type", "scale", "num_gpu", "network_g")}
    test |= {"name": "tested", "datasets": {"test": options["datasets"]["val_1"]}}
    test |= {"path": {"pretrain_network_g": "tiny.pth"}, "val": {**options["val"], "suffix": None}}
    (root / "test.yml").write_text(yaml.safe_dump(test))


def _in_words(text):
    """Errors of a check, without numbers."""
    return re.sub(r"\d+", "N", "; ".join(ERROR.findall(text)))


def main() -> int:
    parser = parser_of(__doc__, "mutations")
    parser.add_argument("--kinds", nargs="+", help="that are played (default: all)")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="no further case begins after so long")
    args = parser.parse_args()
    compat.require_basicsr()
    every = {f"{case.kind}: {case.what}": case for case in cases()}
    found = {"machine": machine(1), "count": len(every), "cases": {}, "words": {}}
    file = args.output / f"{args.name}.json"
    if file.exists():
        found |= {key: json.loads(file.read_text())[key] for key in ("cases", "words")}
    left = [name for name, case in every.items() if found["cases"].get(name) not in GOOD]
    left = [name for name in left if args.kinds is None or every[name].kind.split()[0] in args.kinds]
    random.Random(0).shuffle(left)  # a part of the time plays a part of every kind
    bad, end = 0, time.monotonic() + 60 * args.minutes
    with tempfile.TemporaryDirectory() as root:
        write_template(Path(root))
        for name in itertools.takewhile(lambda _: time.monotonic() < end, tqdm(left, unit="case", disable=None)):
            stages = play(every[name], Path(root))
            found["cases"][name] = outcome = judge(stages)
            if outcome in LISTED:
                found["words"][name] = _in_words(stages["check"][1])
            elif outcome not in GOOD:
                bad += 1
                print(f"## {outcome}: {name}", *(f"{stage}: {p[0]}\n{p[1][-1500:]}" for stage, p in stages.items()))
            save(args.output / args.name, tables(found), found)
    print(tables(found))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
