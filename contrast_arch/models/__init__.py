"""What BasicSR's SRModel lacks: contrast_model.py is the model, each file beside it one thing it does."""
