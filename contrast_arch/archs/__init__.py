"""The networks."""

import torch

if not hasattr(torch.library, "custom_op"):
    raise ImportError(
        f"contrast_arch needs PyTorch 2.4 or later, and this is {torch.__version__}: "
        "pip install --upgrade torch torchvision"
    )
