"""Softmax attention in windows with a position bias: a definition, and a file for each way to compute it."""
