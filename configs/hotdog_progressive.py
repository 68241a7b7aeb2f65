"""`hotdog_lite0.py` step by step: the head alone, then the last third of the network with it, then all of it.

    python -m jaxft.train --config configs/hotdog_progressive.py

Rates fall from phase to phase, and within the last one towards the input.
"""

from configs.hotdog_lite0 import config as base
from jaxft.config import Phase, Rule, Schedule, replace

HEAD = Rule(pattern="@head", lr_scale=50.0)
LAST = (Rule(pattern="_blocks.1[1-5]"), Rule(pattern="_conv_head"), Rule(pattern="_bn1"))
REST = Rule(pattern="*", frozen=True)
COSINE = Schedule(decay="cosine")

config = replace(
    base,
    {
        "phases": (
            Phase(epochs=1, rules=(HEAD, REST), schedule=COSINE, batch_norm="running"),
            Phase(epochs=2, rules=(HEAD, *LAST, REST), schedule=COSINE, batch_norm="running"),
            Phase(
                epochs=2,
                lr_scale=0.5,
                rules=(HEAD, *LAST, Rule(pattern="*", lr_scale=0.2)),
                schedule=COSINE,
                batch_norm="running",
            ),
        ),
    },
)
