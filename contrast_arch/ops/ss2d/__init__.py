"""SS2D's core: a definition, and a file for each way to compute it."""
