"""The version, where a build can read it without importing the package."""

__version__ = "1.0.0"
