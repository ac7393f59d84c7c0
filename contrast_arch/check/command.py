"""``contrast-arch check``."""

from collections import Counter
from collections.abc import Sequence

from contrast_arch.check.checks import find_problems
from contrast_arch.check.context import RunContext
from contrast_arch.options.document import UnreadableError, read_document
from contrast_arch.options.problems import ERROR, NOTE, WARNING


def run(files: Sequence[str], testing: bool | None = None, **context) -> int:
    """Print what is wrong with option files, by line, and how much that is.

    Args:
        files: option files.
        testing: True if the files are for testing; None takes those without ``train`` and ``datasets: train`` for that.
        context: see :class:`RunContext`.

    Returns:
        1 where there is an error, else 0.
    """
    found = Counter()
    for file in files:
        try:
            options = read_document(file).options
            # Training data without a section train is a file for training in which that is missing.
            trains = "train" in options or "train" in (options.get("datasets", ["train"]) or ())
            training = trains if testing is None else not testing
            problems = find_problems(file, RunContext(training, launched=False, **context))
        except UnreadableError as failure:
            problems = [failure.problem]
        for problem in problems:
            print(problem.in_file(file))
            found[problem.severity] += 1
    print(_summary(found))
    return 1 if found[ERROR] else 0


def _summary(found):
    counts = [f"{found[kind]} {kind}{'s' if found[kind] > 1 else ''}" for kind in (ERROR, WARNING, NOTE) if found[kind]]
    return ", ".join(counts) or "no problems"
