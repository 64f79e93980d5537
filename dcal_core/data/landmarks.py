"""Where the five landmarks of an aligned face lie: left eye, right eye, nose tip, left and right mouth corner.

Left and right are those of the image. InsightFace's template, which AdaFace uses too (ArcFace, Deng et al., 2019, arXiv
1801.07698).
"""

import numpy as np

TEMPLATE_SIDE = 112  # px
TEMPLATE = np.array(  # [5, 2] (x, y) in px
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
