"""MuJoCo's pictures, drawn by us: the same for the same state whatever else is alive, and fast.

Every picture makes its own OpenGL context current (and so does closing it), the camera is placed anew, and shadows,
reflections and multisampling are off: at 64 pixels they cost several times the rest and show almost nothing.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import warnings
import weakref
from typing import Any

import gymnasium
import numpy as np

from ..errors import ConfigError, require_extra

_open: weakref.WeakSet[Any] = weakref.WeakSet()


def without_screen() -> None:
    """Have MuJoCo draw without a screen where there is none; to be called before it is imported."""
    if sys.platform == "linux" and not os.environ.get("DISPLAY"):
        os.environ.setdefault("MUJOCO_GL", "egl")


def import_mujoco(extra: str, purpose: str) -> Any:
    """MuJoCo, told to draw without a screen where there is none.

    Raises:
        MissingExtraError: if it is not installed.
    """
    without_screen()
    mujoco = require_extra("mujoco", extra, purpose)
    mujoco.set_mju_user_warning(_warn)  # else they go to a file MUJOCO_LOG.TXT in the current folder
    return mujoco


def _warn(message: str) -> None:
    if "deprecated" not in message:  # of the packages' models: nothing a user can change
        warnings.warn(f"MuJoCo: {message}", RuntimeWarning, stacklevel=2)


def fast_renderer(mujoco: Any, model: Any, height: int, width: int) -> Any:
    """A ``mujoco.Renderer`` without shadows, reflections and multisampling; the model stays as it is.

    Raises:
        ConfigError: if there is no OpenGL to draw with.
    """
    quality, whole = model.vis.quality, model.vis.global_
    before = quality.shadowsize, quality.offsamples, whole.offheight, whole.offwidth
    quality.shadowsize = quality.offsamples = 0  # read when the context is made, and never again
    whole.offheight, whole.offwidth = max(height, whole.offheight), max(width, whole.offwidth)
    try:
        renderer = mujoco.Renderer(model, height=height, width=width)
    except Exception as error:  # the packages below raise what they like
        raise ConfigError(
            f"MuJoCo cannot draw here ({type(error).__name__}: {error}). Without a screen set MUJOCO_GL=egl, or "
            "MUJOCO_GL=osmesa where libosmesa6 is installed, before Python starts"
        ) from error
    finally:
        quality.shadowsize, quality.offsamples, whole.offheight, whole.offwidth = before
    for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION):
        renderer.scene.flags[flag] = 0
    close_safely(renderer)
    return renderer


def close_safely(renderer: Any) -> None:
    """From now on ``close()`` frees what is the renderer's own, and it is closed before Python ends.

    MuJoCo's own ``close()`` frees its numbers in whatever context is current: another renderer draws otherwise, or
    black, from then on. And when Python ends, OpenGL is gone before the renderers are, which complain at length.
    """
    context, close = renderer._gl_context, type(renderer).close

    def close_own() -> None:
        if renderer._gl_context is not None:
            context.make_current()
            close(renderer)

    renderer.close = close_own  # also what __del__ calls
    _open.add(renderer)
    atexit.unregister(_close_all)
    atexit.register(_close_all)  # behind MuJoCo's own, which is registered with its first context: the last goes first


class Drawer:
    """Draws the scenes of one model after the other.

    Args:
        camera: Name or number of a camera of the model, or attributes of a free one, such as ``{"distance": 4}``, or a
            ``mujoco.MjvCamera``.
    """

    def __init__(self, camera: Any = None):
        self.camera, self._model = camera, None
        self._renderers: dict[tuple[int, int], Any] = {}

    def draw(self, model: Any, data: Any, height: int, width: int) -> np.ndarray:
        """The scene of a state, uint8 ``[H, W, 3]``.

        Raises:
            ConfigError: if there is no OpenGL to draw with.
        """
        import mujoco

        if self._model is not model:
            self.close()
            self._model = model
        if (height, width) not in self._renderers:
            self._renderers[height, width] = fast_renderer(mujoco, model, height, width)
        renderer = self._renderers[height, width]
        renderer.update_scene(data, camera=self._view(mujoco, model))
        return renderer.render()

    def _view(self, mujoco: Any, model: Any) -> Any:
        if not isinstance(self.camera, dict | None):
            return self.camera
        view = mujoco.MjvCamera()
        mujoco.mjv_defaultFreeCamera(model, view)
        for name, value in (self.camera or {}).items():
            if isinstance(value, np.ndarray):
                getattr(view, name)[:] = value
            else:
                setattr(view, name, value)
        return view

    def close(self) -> None:
        """Give back the OpenGL contexts; another picture makes a new one."""
        for renderer in self._renderers.values():
            renderer.close()
        self._renderers, self._model = {}, None


def _close_all() -> None:
    for renderer in list(_open):
        with contextlib.suppress(Exception):
            renderer.close()


class Drawn(gymnasium.Wrapper):
    """A MuJoCo environment that draws itself with a `Drawer`: ``unwrapped`` has ``model`` and ``data``.

    Args:
        env: The environment.
        camera: See `Drawer`; default: what a Gymnasium environment is configured with, else MuJoCo's free camera.
    """

    draw_size = (480, 480)

    def __init__(self, env: gymnasium.Env, camera: Any = None):
        super().__init__(env)
        if camera is None:
            camera = getattr(env.unwrapped, "custom_camera", None)  # OGBench's mazes
        if camera is None:
            own = getattr(env.unwrapped, "mujoco_renderer", None)
            number = getattr(own, "camera_id", -1)
            camera = number if number is not None and number >= 0 else getattr(own, "default_cam_config", None)
        self._drawer = Drawer(camera)

    def draw(self, height: int, width: int) -> np.ndarray:
        """The scene at a size, uint8 ``[H, W, 3]``."""
        inner = self.env.unwrapped
        return self._drawer.draw(inner.model, inner.data, height, width)

    def render(self) -> np.ndarray:
        """The scene, uint8 ``[H, W, 3]``."""
        return self.draw(*self.draw_size)

    def close(self) -> None:
        """Close the environment and its pictures."""
        self._drawer.close()
        super().close()
