"""Option files for training and testing."""
