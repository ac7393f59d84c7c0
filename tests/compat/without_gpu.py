"""Runs a script that asks for a GPU's properties and streams where there is none: ``without_gpu.py SCRIPT ...``."""

import contextlib
import runpy
import sys
import types

import torch

NO_GPU = types.SimpleNamespace(
    name="no GPU", total_memory=0, major=0, minor=0, multi_processor_count=0, wait_stream=lambda stream: None
)
STAND_INS = {
    "current_device": lambda: 0,
    "current_stream": lambda: NO_GPU,
    "get_device_capability": lambda: (8, 0),
    "get_device_name": lambda: NO_GPU.name,
    "get_device_properties": lambda device: NO_GPU,
    "set_device": lambda device: None,
    "set_per_process_memory_fraction": lambda fraction: None,
    "stream": lambda stream: contextlib.nullcontext(),
    "Stream": lambda: NO_GPU,
}

if __name__ == "__main__":
    for name, stand_in in STAND_INS.items():
        setattr(torch.cuda, name, stand_in)
    torch.set_num_threads(1)
    del sys.argv[0]
    sys.path[0] = "."
    runpy.run_path(sys.argv[0], run_name="__main__")
