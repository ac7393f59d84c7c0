"""The model: contrast_model.py extends BasicSR's SRModel, and each file beside it is one of its tasks."""
