"""Values that dense heads have in common where a configuration does not say otherwise."""

from jaxft.models.detectors.types import AnchorGenerator, BoxLoss, ClassLoss, DeltaCoder, DistanceCoder, Norm

GROUP_NORM = Norm("GN")
ONE_ANCHOR = AnchorGenerator(strides=(8, 16, 32, 64, 128), ratios=(1.0,), octave_base_scale=8, scales_per_octave=1)
DISTANCES = DistanceCoder()
FOCAL = ClassLoss("focal")
GIOU = BoxLoss("giou", loss_weight=2.0)
DELTAS = DeltaCoder()
L1 = BoxLoss("l1")
