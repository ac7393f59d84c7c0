"""All checks of an option file, in the order in which one needs the other."""

import os
import sys
from collections.abc import Iterator
from dataclasses import replace

import torch

from contrast_arch.check import checkpoint, data, memory, parts, schedule
from contrast_arch.check.context import RunContext, completed, device_problems
from contrast_arch.check.network import build_on_meta, check_backend, network_problems
from contrast_arch.check.registry import error_of, import_problems, registered
from contrast_arch.check.section import Section
from contrast_arch.errors import InputError
from contrast_arch.options.document import forced, read_document
from contrast_arch.options.problems import NOTE, WARNING, Path, Problem, error, raise_errors
from contrast_arch.options.validation import is_unread, missing_problems, own_key, value_problems, without


def find_problems(file: str, context: RunContext) -> list[Problem]:
    """Find everything that is wrong with an option file, by line; nothing on disk is touched.

    Args:
        file: its path.
        context: of the run.

    Raises:
        InputError: the file cannot be read at all.
    """
    document, problems = read_document(file), []
    try:
        options = forced(document.options, context.force_yml)
    except InputError as failure:
        options = document.options
        problems.append(error(None, str(failure)))
    values = list(value_problems(options))
    unread = [problem for problem in values if is_unread(problem.path, options, context.is_train)]
    problems += [replace(problem, ignored=True) if problem in unread else problem for problem in values]
    problems += [*document.problems, *missing_problems(options, context.is_train, file)]
    # Checks across keys skip keys that already failed on their own.
    unfit = {own_key(problem.path) or problem.path for problem in values if problem.fatal}
    sound = without(options, unfit)
    absent = list(import_problems([*context.imports, *sound.get("imports", ())]))
    problems += absent
    # Without what the modules register, right names would be unknown.
    across = _problems_across(Section(completed(sound, context)), context, unfit) if not absent else ()
    problems += [problem for problem in across if not _within(problem.path, unfit)]
    found = {}
    for problem in problems:
        line = document.line(problem.path) if problem.line is None and problem.path is not None else problem.line
        found.setdefault(problem.message, replace(problem, line=line))
    return sorted(found.values(), key=lambda problem: problem.line or 0)


def _within(path, unfit):
    return path is not None and any(path[: len(other)] == other for other in unfit)


def _problems_across(opt: Section, context: RunContext, unfit: set[Path]) -> Iterator[Problem]:
    """Find what does not fit together, or what BasicSR and PyTorch refuse.

    Args:
        opt: see :func:`~contrast_arch.check.context.completed`.
        unfit: keys that have been left out.
    """
    problems = list(device_problems(opt, context))
    yield from problems
    device = context.device if opt["num_gpu"] and torch.cuda.is_available() else torch.device("cpu")
    faults = [(None, error_of(check_backend, device))]
    if "model_type" in opt:
        faults.append((("model_type",), error_of(registered, "model_type", opt["model_type"], "MODEL_REGISTRY")))
        faults.append((("model_type",), error_of(_check_discriminator, opt)))
    yield from (error(path, fault) for path, fault in faults if fault)
    network = None
    if opt.section("network_g")["type"] and not any(path[0] == "network_g" for path in unfit):
        try:
            network = build_on_meta(opt["network_g"])
            yield from network_problems(opt, network)
        except InputError as failure:
            yield error(_place_in_network(str(failure), opt["network_g"]), str(failure))
    yield from data.folder_problems(opt)
    pairs = {}
    for phase in opt["datasets"]:
        complete = not any(path[:2] == ("datasets", phase) for path in unfit)
        yield from data.dataset_problems(opt, phase, complete, context.every_pair, pairs)
    yield from schedule.size_problems(opt, network, pairs)
    yield from parts.metric_problems(opt)
    yield from schedule.log_problems(opt, context)
    if context.is_train and "train" in opt:
        yield from parts.optimizer_problems(opt, network)
        yield from parts.scheduler_problems(opt)
        yield from parts.loss_problems(opt)
        yield from schedule.schedule_problems(opt)
        yield from schedule.interval_problems(opt, context)
        if "train" in pairs:
            yield from schedule.length_problems(opt, context, len(pairs["train"].lq))
        if network is not None and not any(problem.fatal for problem in problems):
            yield from memory.memory_problems(opt, network, context)
    if "name" in opt and (not context.is_train or "train" in opt):
        yield from checkpoint.checkpoint_problems(opt, network, context)


def _check_discriminator(opt):
    from basicsr.models.srgan_model import SRGANModel

    model = registered("model_type", opt["model_type"], "MODEL_REGISTRY")
    if opt["is_train"] and "network_d" not in opt and isinstance(model, type) and issubclass(model, SRGANModel):
        raise InputError(f"model_type: {opt['model_type']}: has a discriminator; expected a section network_d")


def _place_in_network(message, network_g):
    """Find the key that a network's message names first."""
    named = [(message.find(key), key) for key in network_g if key != "type" and key in message]
    return "network_g", min(named)[1] if named else "type"


def check_file(file: str, context: RunContext) -> None:
    """Check everything but every single image before BasicSR's pipelines start.

    What BasicSR ignores is printed to stderr, by the first of several processes.

    Args:
        file: an option file.
        context: of the run.

    Raises:
        InputError: all with which the run would fail or do other than written, a line each.
    """
    problems = find_problems(file, context)
    raise_errors(problems, file)
    if os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) == "0":
        for problem in problems:
            if problem.severity != NOTE:
                print(f"{WARNING}: {problem.in_words(file)}", file=sys.stderr)
