"""2-D convolution, its gradients, pooling and windows on NumPy arrays, as fast as a CPU allows."""

from fastconv.config import clear_caches, show_config
from fastconv.errors import ShapeError, UnsupportedError
from fastconv.machine import set_workers
from fastconv.ops.conv import (
    conv2d,
    conv2d_backward,
    conv2d_input_grad,
    conv2d_weight_grad,
    conv_transpose2d,
    plan_conv2d,
)
from fastconv.ops.image import (
    box_kernel,
    convolve2d,
    correlate2d,
    correlate2d_input_grad,
    correlate2d_kernel_grad,
    gaussian_kernel,
    laplacian_kernel,
    plan_correlate2d,
    separate,
    sobel_kernel,
)
from fastconv.ops.pool import (
    avg_pool2d,
    avg_pool2d_grad,
    global_avg_pool2d,
    global_max_pool2d,
    max_pool2d,
    max_pool2d_grad,
    max_unpool2d,
)
from fastconv.ops.windows import col2im, extract_windows, im2col, upsample_zeros
from fastconv.planner import METHODS, Plan, set_method
from fastconv.tuning import export_tuning, import_tuning, tune
from fastconv.version import __version__

__all__ = [
    "METHODS",
    "Plan",
    "ShapeError",
    "UnsupportedError",
    "__version__",
    "avg_pool2d",
    "avg_pool2d_grad",
    "box_kernel",
    "clear_caches",
    "col2im",
    "conv2d",
    "conv2d_backward",
    "conv2d_input_grad",
    "conv2d_weight_grad",
    "conv_transpose2d",
    "convolve2d",
    "correlate2d",
    "correlate2d_input_grad",
    "correlate2d_kernel_grad",
    "export_tuning",
    "extract_windows",
    "gaussian_kernel",
    "global_avg_pool2d",
    "global_max_pool2d",
    "im2col",
    "import_tuning",
    "laplacian_kernel",
    "max_pool2d",
    "max_pool2d_grad",
    "max_unpool2d",
    "plan_conv2d",
    "plan_correlate2d",
    "separate",
    "set_method",
    "set_workers",
    "show_config",
    "sobel_kernel",
    "tune",
    "upsample_zeros",
]
