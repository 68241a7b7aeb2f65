"""The sub-policies that AutoAugment found: two operations each, with their probabilities and magnitudes.

The figures are those of Cubuk et al., AutoAugment: Learning Augmentation Strategies from Data (2019), tables 7 to 9, as
torchvision 0.29 has them. A magnitude is one of ten, 0..9; None is for operations that have none.
"""

from typing import NamedTuple

from jaxft.data.operations import (
    Operation,
    autocontrast,
    brightness,
    color,
    contrast,
    equalize,
    invert,
    posterize,
    rotate,
    sharpness,
    shear_x,
    shear_y,
    solarize,
    translate_x,
    translate_y,
)


class Choice(NamedTuple):
    """An operation of a sub-policy: it is done with a probability, with one of ten magnitudes."""

    operation: Operation
    probability: float
    magnitude: int | None = None


IMAGENET = (
    (Choice(posterize, 0.4, 8), Choice(rotate, 0.6, 9)),
    (Choice(solarize, 0.6, 5), Choice(autocontrast, 0.6)),
    (Choice(equalize, 0.8), Choice(equalize, 0.6)),
    (Choice(posterize, 0.6, 7), Choice(posterize, 0.6, 6)),
    (Choice(equalize, 0.4), Choice(solarize, 0.2, 4)),
    (Choice(equalize, 0.4), Choice(rotate, 0.8, 8)),
    (Choice(solarize, 0.6, 3), Choice(equalize, 0.6)),
    (Choice(posterize, 0.8, 5), Choice(equalize, 1.0)),
    (Choice(rotate, 0.2, 3), Choice(solarize, 0.6, 8)),
    (Choice(equalize, 0.6), Choice(posterize, 0.4, 6)),
    (Choice(rotate, 0.8, 8), Choice(color, 0.4, 0)),
    (Choice(rotate, 0.4, 9), Choice(equalize, 0.6)),
    (Choice(equalize, 0.0), Choice(equalize, 0.8)),
    (Choice(invert, 0.6), Choice(equalize, 1.0)),
    (Choice(color, 0.6, 4), Choice(contrast, 1.0, 8)),
    (Choice(rotate, 0.8, 8), Choice(color, 1.0, 2)),
    (Choice(color, 0.8, 8), Choice(solarize, 0.8, 7)),
    (Choice(sharpness, 0.4, 7), Choice(invert, 0.6)),
    (Choice(shear_x, 0.6, 5), Choice(equalize, 1.0)),
    (Choice(color, 0.4, 0), Choice(equalize, 0.6)),
    (Choice(equalize, 0.4), Choice(solarize, 0.2, 4)),
    (Choice(solarize, 0.6, 5), Choice(autocontrast, 0.6)),
    (Choice(invert, 0.6), Choice(equalize, 1.0)),
    (Choice(color, 0.6, 4), Choice(contrast, 1.0, 8)),
    (Choice(equalize, 0.8), Choice(equalize, 0.6)),
)
CIFAR10 = (
    (Choice(invert, 0.1), Choice(contrast, 0.2, 6)),
    (Choice(rotate, 0.7, 2), Choice(translate_x, 0.3, 9)),
    (Choice(sharpness, 0.8, 1), Choice(sharpness, 0.9, 3)),
    (Choice(shear_y, 0.5, 8), Choice(translate_y, 0.7, 9)),
    (Choice(autocontrast, 0.5), Choice(equalize, 0.9)),
    (Choice(shear_y, 0.2, 7), Choice(posterize, 0.3, 7)),
    (Choice(color, 0.4, 3), Choice(brightness, 0.6, 7)),
    (Choice(sharpness, 0.3, 9), Choice(brightness, 0.7, 9)),
    (Choice(equalize, 0.6), Choice(equalize, 0.5)),
    (Choice(contrast, 0.6, 7), Choice(sharpness, 0.6, 5)),
    (Choice(color, 0.7, 7), Choice(translate_x, 0.5, 8)),
    (Choice(equalize, 0.3), Choice(autocontrast, 0.4)),
    (Choice(translate_y, 0.4, 3), Choice(sharpness, 0.2, 6)),
    (Choice(brightness, 0.9, 6), Choice(color, 0.2, 8)),
    (Choice(solarize, 0.5, 2), Choice(invert, 0.0)),
    (Choice(equalize, 0.2), Choice(autocontrast, 0.6)),
    (Choice(equalize, 0.2), Choice(equalize, 0.6)),
    (Choice(color, 0.9, 9), Choice(equalize, 0.6)),
    (Choice(autocontrast, 0.8), Choice(solarize, 0.2, 8)),
    (Choice(brightness, 0.1, 3), Choice(color, 0.7, 0)),
    (Choice(solarize, 0.4, 5), Choice(autocontrast, 0.9)),
    (Choice(translate_y, 0.9, 9), Choice(translate_y, 0.7, 9)),
    (Choice(autocontrast, 0.9), Choice(solarize, 0.8, 3)),
    (Choice(equalize, 0.8), Choice(invert, 0.1)),
    (Choice(translate_y, 0.7, 9), Choice(autocontrast, 0.9)),
)
SVHN = (
    (Choice(shear_x, 0.9, 4), Choice(invert, 0.2)),
    (Choice(shear_y, 0.9, 8), Choice(invert, 0.7)),
    (Choice(equalize, 0.6), Choice(solarize, 0.6, 6)),
    (Choice(invert, 0.9), Choice(equalize, 0.6)),
    (Choice(equalize, 0.6), Choice(rotate, 0.9, 3)),
    (Choice(shear_x, 0.9, 4), Choice(autocontrast, 0.8)),
    (Choice(shear_y, 0.9, 8), Choice(invert, 0.4)),
    (Choice(shear_y, 0.9, 5), Choice(solarize, 0.2, 6)),
    (Choice(invert, 0.9), Choice(autocontrast, 0.8)),
    (Choice(equalize, 0.6), Choice(rotate, 0.9, 3)),
    (Choice(shear_x, 0.9, 4), Choice(solarize, 0.3, 3)),
    (Choice(shear_y, 0.8, 8), Choice(invert, 0.7)),
    (Choice(equalize, 0.9), Choice(translate_y, 0.6, 6)),
    (Choice(invert, 0.9), Choice(equalize, 0.6)),
    (Choice(contrast, 0.3, 3), Choice(rotate, 0.8, 4)),
    (Choice(invert, 0.8), Choice(translate_y, 0.0, 2)),
    (Choice(shear_y, 0.7, 6), Choice(solarize, 0.4, 8)),
    (Choice(invert, 0.6), Choice(rotate, 0.8, 4)),
    (Choice(shear_y, 0.3, 7), Choice(translate_x, 0.9, 3)),
    (Choice(shear_x, 0.1, 6), Choice(invert, 0.6)),
    (Choice(solarize, 0.7, 2), Choice(translate_y, 0.6, 7)),
    (Choice(shear_y, 0.8, 4), Choice(invert, 0.8)),
    (Choice(shear_x, 0.7, 9), Choice(translate_y, 0.8, 3)),
    (Choice(shear_y, 0.8, 5), Choice(autocontrast, 0.7)),
    (Choice(shear_x, 0.7, 2), Choice(invert, 0.1)),
)
