"""Shipped weights on an image, by function and by command, where the wheel alone is installed: ``make smoke``."""

import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

import contrast_arch
from contrast_arch.weights import pretrained_names

image = Image.fromarray(np.arange(24 * 16 * 3, dtype=np.uint8).reshape(16, 24, 3))
for name in pretrained_names():
    network = contrast_arch.load_pretrained(name)
    large = contrast_arch.upscale(image, network)
    assert large.size == (24 * network.upscale, 16 * network.upscale), (name, large.size)
image.save("small.png")
subprocess.run([Path(sys.executable).with_name("contrast-arch"), "upscale", "small.png", "-o", "large"], check=True)
assert Image.open("large/small.png").size == (96, 64)
print(f"{contrast_arch.__version__} in {Path(contrast_arch.__file__).parent} on Python {sys.version.split()[0]}: works")
