"""Metadata and options are in pyproject.toml."""

from setuptools import setup

setup()
