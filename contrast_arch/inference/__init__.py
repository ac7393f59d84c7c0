"""Use of a trained network: tiles, upscaling of arrays, images and files."""
