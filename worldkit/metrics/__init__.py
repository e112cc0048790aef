"""Measures of predicted video: images, whole sets of videos, objects, tracks; scores with baselines, and reports.

All functions are pure: tensors in, one number per image, frame or clip out, range and reduction stated. piqa,
torchvision, scipy and rich are imported on first use. Which metric means what: docs/evaluation.md.
"""

from ..lazy import lazy_exports

_EXPORTS = {
    "action_search": ("cem_search", "gradient_search", "grid_search"),
    "agreement": ("Agreement", "agreement", "normalized_mutual_information"),
    "control": ("bootstrap_interval", "interquartile_mean", "success_rate"),
    "runs": ("aggregate", "performance_profile", "probability_of_improvement"),
    "factors": ("FactorScores", "change_inside", "factor_agent_scores"),
    "generation": ("count_spots", "histogram_distance", "pooled_features"),
    "image": ("lpips", "psnr", "ssim"),
    "objects": ("adjusted_rand_index", "labels_from_masks", "labels_from_objects", "mean_iou"),
    "perceptual": ("VGGPerceptual", "load_lpips"),
    "points": ("MatchTracker", "coverage", "flat_ssim", "level_psnr", "point_pck", "query_grid"),
    "prediction": ("copy_last_frame", "mean_frame", "score_predictions"),
    "protocols": ("PROTOCOLS", "Protocol"),
    "report": ("Report", "confidence_interval", "paired_difference"),
    "things": ("painted", "plain_ground", "track_things"),
    "tracking": ("med10", "pck", "to_unit_xy", "track", "track_tokens", "tracked_pck", "tracking_error"),
    "video": ("ImageFeatures", "VideoFeatures", "fid", "frechet_distance", "fvd", "load_i3d", "load_inception"),
}
__getattr__ = lazy_exports(__name__, _EXPORTS)
__all__ = sorted(name for names in _EXPORTS.values() for name in names)
