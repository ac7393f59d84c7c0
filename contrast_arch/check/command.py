"""``contrast-arch check``."""

from collections import Counter
from collections.abc import Sequence

from contrast_arch.check.checks import find_problems
from contrast_arch.check.context import RunContext
from contrast_arch.check.document import UnreadableError, read_document
from contrast_arch.check.problems import ERROR, NOTE, WARNING


def run(
    files: Sequence[str],
    every_pair: bool = False,
    force_yml: Sequence[str] = (),
    launcher: str = "none",
    processes: int | None = None,
    testing: bool | None = None,
    imports: Sequence[str] = (),
) -> int:
    """Print what is wrong with option files, by line, and how much that is.

    Args:
        files: option files.
        every_pair: read all images completely.
        force_yml: changes of all of them, ``key:key=value``.
        launcher: "none", "pytorch" or "slurm".
        processes: that are to train together; see :class:`RunContext`.
        testing: whether they are for testing; None looks whether they have a section ``train``.
        imports: modules that register what the files name; see :class:`RunContext`.

    Returns:
        1 where there is an error, else 0.
    """
    found = Counter()
    for file in files:
        try:
            training = "train" in read_document(file).options if testing is None else not testing
            context = RunContext(
                training,
                launcher,
                force_yml,
                launched=False,
                processes=processes,
                every_pair=every_pair,
                imports=imports,
            )
            problems = find_problems(file, context)
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
