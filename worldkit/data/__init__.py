"""Data sets: clips of video as uint8, from files, folders, HDF5 or a generator.

`open_dataset` opens anything by name or path; `make_loader` turns it into batches.
"""

from .base import ArraySource, ClipDataset, EpisodeSource, collate
from .generated import is_generated, open_balls, open_shapes
from .loader import ResumableSampler, make_loader
from .registry import list_formats, open_dataset, register_format
from .video import is_clip_path, open_video

register_format(
    "video",
    matches=is_clip_path,
    opener=open_video,
    description="a video file (mp4, webm, avi, gif, ...) or a folder of videos, of images or of image folders",
)
register_format(
    "shapes",
    matches=lambda target: is_generated(target, "shapes"),
    opener=open_shapes,
    description="'shapes': generated still images; 'shapes-32' for another size",
)
register_format(
    "balls",
    matches=lambda target: is_generated(target, "balls"),
    opener=open_balls,
    description="'balls': generated bouncing balls (Balls-Interaction); 'balls-32' for another size",
)

__all__ = [
    "ArraySource",
    "ClipDataset",
    "EpisodeSource",
    "ResumableSampler",
    "collate",
    "list_formats",
    "make_loader",
    "open_dataset",
    "register_format",
]
