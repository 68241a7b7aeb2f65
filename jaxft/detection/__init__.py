"""Pieces of detectors as pure functions on fixed shapes: boxes, coders, anchors, assignment, sampling, NMS, RoIAlign,
losses, masks.

Each works on one image unless it says otherwise; callers `vmap`. What is padding is marked by a `valid` array and
influences nothing. Boxes are xyxy in pixels, sizes are (height, width). Imports `jax` and `numpy` only.
"""
