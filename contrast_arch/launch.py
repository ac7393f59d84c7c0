"""BasicSR's pipelines in processes of their own."""

import os
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path

from contrast_arch.errors import InputError


def launch(
    folder: Path, module: str, options: Path, *arguments: str, on_line: Callable[[str], None], processes: int = 1
) -> None:
    """Run ``python -m module -opt options ...`` in a folder.

    Args:
        on_line: called with each line of stdout and stderr.
        processes: above 1, that many under torchrun, one for each GPU.

    Raises:
        InputError: it ended with an error, or by a signal.
    """
    command = [sys.executable]
    if processes > 1:
        # A free port, so that two such runs on a machine do not meet.
        command += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        arguments = (*arguments, "--launcher", "pytorch")
    command += ["-m", module, "-opt", str(options), *arguments]
    # The package may be importable here only because of the working directory, which is another one there.
    path = os.pathsep.join(filter(None, (str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH"))))
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "errors": "replace"}
    last = deque(maxlen=15)
    with subprocess.Popen(command, cwd=folder, env={**os.environ, "PYTHONPATH": path}, **streams) as process:
        try:
            for line in process.stdout:
                last.append(line)
                on_line(line)
        except BaseException:
            # Where the caller is interrupted, training must not go on unseen.
            process.terminate()
            process.wait()
            raise
    if process.returncode:
        raise InputError(f"{' '.join(command)} failed:\n{''.join(last)}")
