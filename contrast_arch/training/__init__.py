"""The loop of contrast-train, which trains any model of BasicSR: loop.py is the loop, each file beside it one part."""
