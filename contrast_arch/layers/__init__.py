"""The layers of the networks: plain PyTorch modules on channels-last features (B, H, W, C)."""
