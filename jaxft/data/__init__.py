"""The data side: sources, photo decoding, augmentation, the loader. NumPy in, NumPy out; no JAX, no torch."""
