"""Heads that put out boxes at every cell of every level.

All share three steps: `head(maps)` gives the raw outputs of each level, `head.loss(outputs, ...)` its losses,
`head.predict(outputs, ...)` its boxes.
"""
