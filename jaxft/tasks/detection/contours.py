"""Masks as polygons."""

from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco_mask


def outline(code: dict[str, Any]) -> tuple[tuple[float, ...], ...]:
    """The outer contours of COCO's run-length code, x and y in turn, simplified to half a pixel, without specks."""
    inside = np.ascontiguousarray(coco_mask.decode(code))
    contours, _ = cv2.findContours(inside, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    simple = (cv2.approxPolyDP(contour, 0.5, closed=True)[:, 0] for contour in contours)
    return tuple(tuple(map(float, polygon.ravel())) for polygon in simple if len(polygon) > 2)
