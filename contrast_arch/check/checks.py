"""All checks of an option file, in the order in which one needs the other, and ``contrast-arch check``."""

import os
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from contrast_arch.check import checkpoint, context, data, parts, schedule
from contrast_arch.check.context import Run, RunContext, Section, completed
from contrast_arch.errors import InputError
from contrast_arch.options.document import ERROR, WARNING, Problem, UnreadableError, forced, raise_errors, read_document
from contrast_arch.options.validation import missing_problems, own_key, value_problems, without

CHECKS = (
    context.device_problems,
    parts.model_problems,
    parts.network_problems,
    data.dataset_problems,
    schedule.size_problems,
    parts.metric_problems,
    schedule.log_problems,
)
# Of a file with a section train.
TRAINING = (parts.optimizer_problems, parts.loss_problems, schedule.schedule_problems, schedule.length_problems)


def find_problems(file: str, context: RunContext) -> list[Problem]:
    """Find all errors and warnings of an option file, by line; InputError where it cannot be read at all."""
    document, problems = read_document(file), []
    options = document.options
    try:
        options = forced(options, context.force_yml)
    except InputError as failure:
        problems.append(Problem(str(failure)))
    values = list(value_problems(options))
    problems += [*values, *document.problems, *missing_problems(options, context.is_train, file)]
    # Checks across keys skip keys that already failed on their own.
    unfit = {own_key(problem.path) or problem.path for problem in values if problem.fatal}
    sound = without(options, unfit)
    absent = list(parts.import_problems([*context.imports, *sound.get("imports", ())]))
    problems += absent
    if not absent:
        # Names that these modules register would be unknown without them.
        run = Run(Section(completed(sound, context)), context, unfit)
        training = TRAINING if context.is_train and "train" in run.opt else ()
        across = [found for check in (*CHECKS, *training, checkpoint.checkpoint_problems) for found in check(run)]
        problems += [found for found in across if not any((found.path or ())[: len(path)] == path for path in unfit)]
    found = {}
    for problem in problems:
        line = document.line(problem.path) if problem.line is None and problem.path is not None else problem.line
        found.setdefault(problem.message, replace(problem, line=line))
    return sorted(found.values(), key=lambda problem: problem.line or 0)


def check_file(file: str, context: RunContext) -> None:
    """Raise an InputError with all errors with which a run would fail or do other than written, a line each.

    The first process prints warnings, and errors that BasicSR ignores, to stderr.
    """
    problems = find_problems(file, context)
    raise_errors(problems, file)
    if os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) == "0":
        for problem in problems:
            print(f"{WARNING}: {problem.message}", file=sys.stderr)


def run(files: Sequence[str], testing: bool | None = None, **context) -> int:
    """Print the errors and warnings of option files, by line, and their numbers; return 1 if there is an error.

    Args:
        testing: True if the files are for testing; None takes those without ``train`` and ``datasets: train`` for that.
        context: see :class:`RunContext`.
    """
    found = Counter()
    for file in files:
        try:
            options = read_document(file).options
            datasets = options.get("datasets", {"train"})
            # Training data without a section train is a file for training in which that is missing.
            trains = "train" in options or (isinstance(datasets, (dict, set)) and "train" in datasets)
            problems = find_problems(file, RunContext(trains if testing is None else not testing, **context))
        except UnreadableError as failure:
            problems = [failure.problem]
        for problem in problems:
            print(problem.in_file(file))
            found[problem.severity] += 1
    counts = [f"{found[kind]} {kind}{'s' if found[kind] > 1 else ''}" for kind in (ERROR, WARNING) if found[kind]]
    print(", ".join(counts) or "no problems")
    return 1 if found[ERROR] else 0
