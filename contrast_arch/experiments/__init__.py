"""Experiments: records, report, comparison, benchmark and receptive fields."""
