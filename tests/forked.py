"""Python programs in forks of one process that has torch imported, in place of seconds of imports for each.

A program sees neither contrast_arch nor BasicSR imported. Usage: ``python tests/forked.py FILE``, with a JSON text of
name -> {"code", "folder"}; prints one of name -> {"code", "out", "err"}, the exit code and what was written.
"""

import json
import os
import sys
import tempfile
import traceback

import cv2  # noqa: F401
import scipy.special  # noqa: F401
import torch
import torchvision  # noqa: F401
import wrapt  # noqa: F401


def run(code: str, folder: str) -> dict:
    """Run a program in a folder, which is first on its path."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        status = _status_of_fork(code, folder, out, err)
        out.seek(0)
        err.seek(0)
        return {"code": status, "out": out.read(), "err": err.read()}


def _status_of_fork(code, folder, out, err):
    child = os.fork()
    if child == 0:
        os.dup2(out.fileno(), 1)
        os.dup2(err.fileno(), 2)
        os.chdir(folder)
        sys.path[0] = folder
        status = 0
        try:
            exec(compile(code, "<program>", "exec"), vars(sys.modules["__main__"]))
        except SystemExit as end:
            status = end.code or 0
        except BaseException:
            traceback.print_exc()
            status = 1
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    torch.set_num_threads(1)
    with open(sys.argv[1]) as file:
        programs = json.load(file)
    print(json.dumps({name: run(**program) for name, program in programs.items()}))
