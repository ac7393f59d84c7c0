"""All checks of an option file, in the order in which one needs the other."""

import os
import sys
from collections.abc import Iterator
from dataclasses import replace

import torch

from contrast_arch.check import checkpoint, data, memory, parts, schedule
from contrast_arch.check.document import Document, forced, read_document
from contrast_arch.check.keys import is_unread, missing_problems, value_problems, without
from contrast_arch.check.network import check_backend, check_network, network_problems
from contrast_arch.check.problems import NOTE, WARNING, Path, Problem, error, raise_errors
from contrast_arch.check.registered import import_problems, registered
from contrast_arch.check.situation import Situation, completed, device_problems
from contrast_arch.errors import InputError


def find_problems(file: str, situation: Situation) -> list[Problem]:
    """Everything that is wrong with an option file, by line; nothing on disk is touched.

    Args:
        file: its path.
        situation: how it is to be run.

    Raises:
        InputError: the file cannot be read at all.
    """
    document = read_document(file)
    try:
        options = forced(document.options, situation.force_yml)
    except InputError as failure:
        options, problems = document.options, [error(None, str(failure))]
    else:
        problems = []
    values = list(value_problems(options))
    said = (
        replace(problem, ignored=True) if is_unread(problem.path, options, situation.is_train) else problem
        for problem in values
    )
    problems += [*document.problems, *said, *missing_problems(options, situation.is_train, file)]
    # What is wrong by itself is left out where keys are held against each other, and not called missing then.
    unfit = {problem.path for problem in values if problem.fatal}
    sound = without(options, unfit)
    absent = list(import_problems([*situation.imports, *sound.get("imports", ())]))
    problems += absent
    # Without what they register, names that are right would be called unknown.
    more = _of_options(completed(sound, situation), situation, unfit) if not absent else ()
    problems += [problem for problem in more if problem.path is None or not _within(problem.path, unfit)]
    return sorted(_distinct(document, problems), key=lambda problem: problem.line or 0)


def _within(path, unfit):
    return any(path[: len(other)] == other for other in unfit)


def _distinct(document: Document, problems) -> Iterator[Problem]:
    """With lines, each message once."""
    seen = set()
    for problem in problems:
        if problem.message not in seen:
            seen.add(problem.message)
            located = problem.line is not None or problem.path is None
            yield problem if located else replace(problem, line=document.line(problem.path))


def _of_options(opt: dict, situation: Situation, unfit: set[Path]) -> Iterator[Problem]:
    """
    Args:
        opt: see :func:`~contrast_arch.check.situation.completed`.
        unfit: keys that have been left out.
    """
    problems = list(device_problems(opt, situation))
    yield from problems
    if "model_type" in opt:
        yield from _caught(("model_type",), registered, "model_type", opt["model_type"], "MODEL_REGISTRY")
    on_gpu = bool(opt.get("num_gpu")) and torch.cuda.is_available()
    yield from _caught(None, check_backend, situation.device if on_gpu else torch.device("cpu"))
    network, sound = None, False
    if "type" in opt.get("network_g", ()) and not any(path[0] == "network_g" for path in unfit):
        try:
            network = check_network(opt["network_g"])
            sound = True
        except InputError as failure:
            yield error(_place_in_network(failure, opt["network_g"]), str(failure))
    if sound:
        yield from network_problems(opt, network)
    yield from data.folder_problems(opt)
    pairs = {}
    for phase in opt["datasets"]:
        complete = not any(path[:2] == ("datasets", phase) for path in unfit)
        yield from data.dataset_problems(opt, phase, complete, situation.every_pair, pairs)
    yield from schedule.size_problems(opt, network, pairs)
    yield from parts.metric_problems(opt)
    yield from schedule.log_problems(opt, situation)
    if situation.is_train and "train" in opt:
        yield from parts.optimizer_problems(opt, network)
        yield from parts.scheduler_problems(opt)
        yield from parts.loss_problems(opt)
        yield from schedule.schedule_problems(opt)
        yield from schedule.interval_problems(opt, situation)
        if "train" in pairs:
            yield from schedule.length_problems(opt, situation, len(pairs["train"]))
        if network is not None and not any(problem.fatal for problem in problems):
            yield from memory.memory_problems(opt, network, situation)
    if "name" in opt and (not situation.is_train or "train" in opt):
        yield from checkpoint.checkpoint_problems(opt, network)


def _caught(path, call, *arguments):
    try:
        call(*arguments)
    except InputError as failure:
        yield error(path, str(failure))


def _place_in_network(failure, network_g):
    """The key that a network's message names first."""
    named = [(str(failure).find(key), key) for key in network_g if key != "type" and key in str(failure)]
    return ("network_g", min(named)[1]) if named else ("network_g", "type")


def check_file(file: str, situation: Situation) -> None:
    """Look at everything before BasicSR's pipelines start, but for every single image.

    What BasicSR passes over is said on stderr, by the first of several processes.

    Args:
        file: an option file.
        situation: how it is to be run.

    Raises:
        InputError: all with which the run would fail or do other than written, a line each.
    """
    problems = find_problems(file, situation)
    raise_errors(problems, file)
    if os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) == "0":
        for problem in problems:
            if problem.severity != NOTE:
                print(f"{WARNING}: {problem.in_words(file)}", file=sys.stderr)
