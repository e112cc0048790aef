"""Measures of predicted video: per-frame image metrics, LPIPS, prediction scores with baselines, and reports.

All functions are pure: tensors in, one number per image or per frame out, range and reduction stated. piqa, torchvision
and rich are imported on first use.
"""

from .image import lpips, psnr, ssim
from .perceptual import VGGPerceptual, load_lpips
from .prediction import copy_last_frame, mean_frame, score_predictions
from .report import Report, confidence_interval

__all__ = [
    "Report",
    "VGGPerceptual",
    "confidence_interval",
    "copy_last_frame",
    "load_lpips",
    "lpips",
    "mean_frame",
    "psnr",
    "score_predictions",
    "ssim",
]
