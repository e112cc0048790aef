"""Pictures of world models: decomposition panels, rollout animations, and a self-contained HTML report.

Pictures are uint8 tensors ``[3, h, w]`` in RGB, animations ``[T, 3, h, w]``. Everything takes plain tensors (and
`Particles`), so that any model can fill it. Pillow and PyAV are imported on first use; there is no matplotlib.
"""

from .animation import animate_rollout, rollout_strip, save_animation
from .boxes import PALETTE, boxes_from_masks, boxes_from_particles, draw_boxes, draw_keypoints, nms
from .images import gif_bytes, grid, png_bytes, save_gif, save_png, to_uint8
from .panel import PanelInputs, decomposition_panel
from .report_html import HtmlReport
from .samples import animate_samples, samples_strip

__all__ = [
    "PALETTE",
    "HtmlReport",
    "PanelInputs",
    "animate_rollout",
    "animate_samples",
    "boxes_from_masks",
    "boxes_from_particles",
    "decomposition_panel",
    "draw_boxes",
    "draw_keypoints",
    "gif_bytes",
    "grid",
    "nms",
    "png_bytes",
    "rollout_strip",
    "samples_strip",
    "save_animation",
    "save_gif",
    "save_png",
    "to_uint8",
]
