"""Data sets: clips of video as uint8, from files, folders, HDF5 or a generator.

`open_dataset` opens anything by name or path; `make_loader` turns it into batches. What hands out tensors (and so needs
PyTorch) loads on first use: looking at data does without.
"""

from __future__ import annotations

from ..lazy import lazy_exports
from .base import EpisodeSource
from .describe import describe, open_splits
from .formats.balls import BallEpisodes, generate_balls
from .formats.catch import CatchEpisodes, generate_catch
from .formats.clip_check import npz_parts, video_parts
from .formats.clip_writers import FramesWriter, VideoWriter
from .formats.columns import ColumnsWriter, hdf5_writer, is_columns, open_columns
from .formats.columns_check import columns_parts
from .formats.generated import (
    is_generated,
    open_balls,
    open_catch,
    open_maze,
    open_multigrid,
    open_pendulum,
    open_push,
    open_shapes,
    open_single_ball,
)
from .formats.hdf5 import is_hdf5, open_hdf5, write_balls_hdf5
from .formats.lerobot import is_lerobot, open_lerobot, peek_lerobot
from .formats.lerobot_check import lerobot_parts
from .formats.lerobot_write import LeRobotWriter
from .formats.lerobot_write_v21 import LeRobot21Writer
from .formats.maze import MazeEpisodes, generate_maze
from .formats.multigrid import MultiGridEpisodes, generate_multigrid
from .formats.npz import NpzWriter, is_npz, open_npz, peek_npz
from .formats.pendulum import PendulumEpisodes, generate_pendulum
from .formats.push import PushEpisodes, generate_push
from .formats.shapes import generate_shapes
from .formats.single_ball import SingleBallEpisodes, generate_single_ball
from .formats.swm import is_lance, is_swm, open_lance, open_swm, peek_swm, swm_parts
from .formats.video import is_clip_path, open_video, peek_video
from .layouts import register_layouts
from .registry import list_formats, open_dataset, open_source, register_format
from .statistics import ActionStatistics, action_statistics
from .validate import Validation, validate
from .video_io import write_video
from .writers import list_writers, register_writer, write_dataset

register_format(
    "video",
    matches=is_clip_path,
    opener=open_video,
    peek=peek_video,
    parts=video_parts,
    description="a video file (mp4, webm, avi, gif, ...) or a folder of videos, of images or of image folders",
    whole=True,
)
register_format(
    "hdf5",
    matches=is_hdf5,
    opener=open_hdf5,
    description="an HDF5 file (*.hdf5, *.h5) with imgs [N, T, H, W, 3], or a folder with train.hdf5 and so on",
    whole=True,
)
register_format(
    "columns",
    matches=is_columns,
    opener=open_columns,
    parts=columns_parts,
    description="an HDF5 file of columns with ep_len and ep_offset (stable-worldmodel)",
    whole=True,
)
register_format(
    "npz",
    matches=is_npz,
    opener=open_npz,
    peek=peek_npz,
    parts=npz_parts,
    description="an .npz episode, rows of many (OGBench), or a folder of them: video [T, H, W, 3], action [T, A]",
    whole=True,
)
register_format(
    "lerobot",
    matches=is_lerobot,
    opener=open_lerobot,
    peek=peek_lerobot,
    parts=lerobot_parts,
    description="a LeRobot data set, v2.0, v2.1 or v3.0: a folder with meta/info.json",
    whole=True,
)
register_format(
    "swm",
    matches=is_swm,
    opener=open_swm,
    peek=peek_swm,
    parts=swm_parts,
    description="a folder of stable-worldmodel: ep_len.npz, COLUMN.npz, pixels/ with images or videos",
    whole=True,
)
register_format(
    "lance",
    matches=is_lance,
    opener=open_lance,
    description="a Lance table of stable-worldmodel; told how to convert, not read",
)
register_layouts()
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
register_format(
    "push",
    matches=lambda target: is_generated(target, "push"),
    opener=open_push,
    description="'push': generated discs that one pushes as its actions say; 'push-32' for another size",
)

register_format(
    "catch-play",
    matches=lambda target: is_generated(target, "catch-play"),
    opener=open_catch,
    description="'catch-play': generated play of a small game, with actions, rewards, ends; 'catch-play-32' for a size",
)

register_format(
    "pendulum-play",
    matches=lambda target: is_generated(target, "pendulum-play"),
    opener=open_pendulum,
    description="'pendulum-play': generated play of a pendulum, with actions, rewards; 'pendulum-play-32' for a size",
)

register_format(
    "multigrid",
    matches=lambda target: is_generated(target, "multigrid"),
    opener=open_multigrid,
    description="'multigrid': generated agents that move by themselves, num_agents of them; 'multigrid-32' for a size",
)

register_format(
    "single-ball",
    matches=lambda target: is_generated(target, "single-ball"),
    opener=open_single_ball,
    description="'single-ball': a generated disc that goes left or right (G-SWM); 'single-ball-32' for another size",
)
register_format(
    "maze",
    matches=lambda target: is_generated(target, "maze"),
    opener=open_maze,
    description="'maze': generated discs that walk in a maze (after G-SWM's); 'maze-32' for another size",
)

register_writer(
    "lerobot", LeRobotWriter, joint=True, description="a LeRobot v3.0 data set; lossless=True keeps PNGs, not H.264"
)
register_writer(
    "lerobot-v2.1", LeRobot21Writer, joint=True, description="a LeRobot v2.1 data set, a file per episode and camera"
)
register_writer("npz", NpzWriter, description="a folder of .npz episodes, bit for bit")
register_writer(
    "hdf5",
    hdf5_writer,
    suffixes=(".hdf5", ".h5"),
    description="an HDF5 file: the Balls layout for episodes of one length with positions, else columns",
)
register_writer(
    "columns",
    ColumnsWriter,
    suffixes=(".hdf5", ".h5"),
    description="an HDF5 file of columns with ep_len and ep_offset (stable-worldmodel), bit for bit",
)
register_writer(
    "video", VideoWriter, description="a folder of mp4 files, and .npz beside them; lossless=True writes FFV1 (.mkv)"
)
register_writer("frames", FramesWriter, description="a folder of folders of PNG images, and entries.npz in them")

__all__ = [
    "ActionStatistics",
    "ArraySource",
    "BallEpisodes",
    "CatchEpisodes",
    "ClipDataset",
    "EpisodeSource",
    "MazeEpisodes",
    "MultiGridEpisodes",
    "PendulumEpisodes",
    "PushEpisodes",
    "ResumableSampler",
    "SingleBallEpisodes",
    "Validation",
    "action_statistics",
    "collate",
    "describe",
    "generate_balls",
    "generate_catch",
    "generate_maze",
    "generate_multigrid",
    "generate_pendulum",
    "generate_push",
    "generate_shapes",
    "generate_single_ball",
    "list_formats",
    "list_writers",
    "make_loader",
    "open_dataset",
    "open_source",
    "open_splits",
    "register_format",
    "register_writer",
    "validate",
    "write_balls_hdf5",
    "write_dataset",
    "write_video",
]

__getattr__ = lazy_exports(__name__, {"clips": ("ArraySource", "ClipDataset", "collate"),
                                      "loader": ("ResumableSampler", "make_loader")})
