"""The stand-in for `mmcv.ops` must be there before a test imports anything of MMDetection."""

import tests.mmdet_live  # noqa: F401
