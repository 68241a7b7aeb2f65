"""Heads that look at regions of interest: what class a box holds, where exactly it is, and its mask."""
