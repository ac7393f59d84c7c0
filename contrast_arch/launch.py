"""BasicSR's pipelines in processes of their own."""

import os
import subprocess
import sys
from pathlib import Path

from contrast_arch.errors import InputError


def launch(folder: Path, module: str, options: Path, *arguments: str, on_line=lambda line: None, processes=1) -> str:
    """Run ``python -m module -opt options ...`` in a folder; return its stdout and stderr as one text.

    Args:
        on_line: called with each line of the output; the process is ended where it returns True.
        processes: above 1, that many under torchrun, one for each GPU.

    Raises:
        InputError: it ended with an error, or by a signal that ``on_line`` did not ask for.
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
    process = subprocess.Popen(command, cwd=folder, env={**os.environ, "PYTHONPATH": path}, **streams)
    lines, ended = [], False
    try:
        for line in process.stdout:
            lines.append(line)
            if on_line(line):
                ended = True
                process.terminate()
        code = process.wait()
    finally:
        # Where the caller is interrupted, training must not go on unseen.
        if process.poll() is None:
            process.terminate()
            process.wait()
    if code != 0 and not ended:
        raise InputError(f"{' '.join(command)} failed:\n{''.join(lines[-15:])}")
    return "".join(lines)
