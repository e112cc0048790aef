"""Data sets: clips of video as uint8, from files, folders, HDF5 or a generator.

`open_dataset` opens anything by name or path; `make_loader` turns it into batches.
"""

from .balls import BallEpisodes, generate_balls
from .base import ArraySource, ClipDataset, EpisodeSource, collate
from .generated import is_generated, open_balls, open_shapes
from .hdf5 import is_hdf5, open_hdf5, write_balls_hdf5
from .loader import ResumableSampler, make_loader
from .registry import list_formats, open_dataset, register_format
from .shapes import generate_shapes
from .video import is_clip_path, open_video
from .video_io import write_video

register_format(
    "video",
    matches=is_clip_path,
    opener=open_video,
    description="a video file (mp4, webm, avi, gif, ...) or a folder of videos, of images or of image folders",
)
register_format(
    "hdf5",
    matches=is_hdf5,
    opener=open_hdf5,
    description="an HDF5 file (*.hdf5, *.h5) with imgs [N, T, H, W, 3], or a folder with train.hdf5 and so on",
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
    "BallEpisodes",
    "ClipDataset",
    "EpisodeSource",
    "ResumableSampler",
    "collate",
    "generate_balls",
    "generate_shapes",
    "list_formats",
    "make_loader",
    "open_dataset",
    "register_format",
    "write_balls_hdf5",
    "write_video",
]
