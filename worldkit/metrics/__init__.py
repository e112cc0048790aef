"""Measures of predicted video: images, whole sets of videos, objects, tracks; scores with baselines, and reports.

All functions are pure: tensors in, one number per image, frame or clip out, range and reduction stated. piqa,
torchvision, scipy and rich are imported on first use. Which metric means what: docs/evaluation.md.
"""

from .image import lpips, psnr, ssim
from .objects import adjusted_rand_index, labels_from_masks, labels_from_objects, mean_iou
from .perceptual import VGGPerceptual, load_lpips
from .prediction import copy_last_frame, mean_frame, score_predictions
from .protocols import PROTOCOLS, Protocol
from .report import Report, confidence_interval, paired_difference
from .tracking import med10, pck, to_unit_xy, track, tracked_pck, tracking_error
from .video import ImageFeatures, VideoFeatures, fid, frechet_distance, fvd, load_i3d, load_inception

__all__ = [
    "PROTOCOLS",
    "ImageFeatures",
    "Protocol",
    "Report",
    "VGGPerceptual",
    "VideoFeatures",
    "adjusted_rand_index",
    "confidence_interval",
    "copy_last_frame",
    "fid",
    "frechet_distance",
    "fvd",
    "labels_from_masks",
    "labels_from_objects",
    "load_i3d",
    "load_inception",
    "load_lpips",
    "lpips",
    "mean_frame",
    "mean_iou",
    "med10",
    "paired_difference",
    "pck",
    "psnr",
    "score_predictions",
    "ssim",
    "to_unit_xy",
    "track",
    "tracked_pck",
    "tracking_error",
]
