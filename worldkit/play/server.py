"""The browser's side of a game: one page, and a socket that frames come and commands go through.

Served to this machine alone: it listens on 127.0.0.1, answers only requests that were sent to that name, opens its
socket only to its own page, and asks for a token that is new every time. Work is done in one thread beside the event
loop. Who looks on slowly gets fewer frames; when nobody looks on, nothing is computed, and whoever comes back finds the
game as it was.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import math
import secrets
import struct
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import ConfigError, WorldkitError, require_extra
from ..files import reason
from .session import Session

HOST = "127.0.0.1"
PAGE = Path(__file__).parent / "page"
_FILES = {"play.js": "text/javascript", "play.css": "text/css"}
_AHEAD = 2  # frames that may be on their way to a browser
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; connect-src 'self'; frame-ancestors "
                               "'none'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class Server:
    """A game in the browser.

    Args:
        session: The game.
        about: What the page says of it: ``"model"``, ``"data"``.
        port: Where to listen; 0: any free port.
        fps: Steps per second at most.
        token: What the address must carry; default: a new one.
    Example: ``asyncio.run(Server(session, {"model": "lpwm-balls-mini"}).run(print))``
    """

    def __init__(self, session: Session, about: Mapping[str, str], *, port: int = 0, fps: float = 10.0,
                 token: str | None = None):
        self._web = require_extra("aiohttp.web", "play", "worldkit play --web")
        self.session, self.about, self.port, self.fps = session, dict(about), port, fps
        self.token = token or secrets.token_urlsafe(16)
        self.playing, self.speed = False, 0.0
        self._viewers: dict[Any, int] = {}  # socket -> frames on their way
        self._behind: set[Any] = set()  # sockets that had no room for the newest frame
        self._worker = ThreadPoolExecutor(1, "worldkit-play")
        self._turn = asyncio.Lock()
        self._go = asyncio.Event()
        self._number = 0

    @property
    def address(self) -> str:
        """What to open in a browser."""
        return f"http://{HOST}:{self.port}/?token={self.token}"

    async def run(self, ready: Callable[[str], None]) -> None:
        """Serve until cancelled; ``ready`` is called with the address.

        Raises:
            ConfigError: the port is in use, or may not be used.
        """
        web = self._web

        @web.middleware
        async def guard(request: Any, handler: Any) -> Any:
            return await self._guard(request, handler)

        app = web.Application(middlewares=[guard])
        app.add_routes([web.get("/", self._page), web.get("/socket", self._socket),
                        web.get("/recording.gif", self._gif), web.get("/{name}", self._file)])
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        try:
            site = web.TCPSite(runner, HOST, self.port)
            try:
                await site.start()
            except OSError as error:
                raise ConfigError(_taken(self.port, error)) from error
            self.port = runner.addresses[0][1]
            ready(self.address)
            await self._play()
        finally:
            for viewer in list(self._viewers):
                await viewer.close()
            await runner.cleanup()
            self._worker.shutdown(wait=False, cancel_futures=True)

    # -- who may ask

    async def _guard(self, request: Any, handler: Any) -> Any:
        """Only requests to this machine's own name, from our own page, with the token."""
        names = {f"{name}:{self.port}" for name in (HOST, "localhost")}
        origin = request.headers.get("Origin")
        asked = request.path.lstrip("/")
        if request.headers.get("Host") not in names:
            return self._no("this address is served as 127.0.0.1 and localhost only")
        if (origin is not None and origin not in {f"http://{name}" for name in names}) or (
                asked == "socket" and origin is None):
            return self._no("another page may not play this game")
        if asked not in _FILES and not secrets.compare_digest(request.query.get("token", ""), self.token):
            return self._no("open the address that worldkit play printed: it ends with a token")
        response = await handler(request)
        if not response.prepared:
            response.headers.update(_HEADERS)
        return response

    def _no(self, why: str) -> Any:
        return self._web.Response(status=403, text=f"refused: {why}\n", headers=_HEADERS)

    # -- files

    async def _page(self, request: Any) -> Any:
        return self._web.Response(text=(PAGE / "index.html").read_text(encoding="utf-8"), content_type="text/html")

    async def _file(self, request: Any) -> Any:
        name = request.match_info["name"]
        if name not in _FILES:
            raise self._web.HTTPNotFound
        return self._web.Response(text=(PAGE / name).read_text(encoding="utf-8"), content_type=_FILES[name])

    async def _gif(self, request: Any) -> Any:
        try:
            data = await self._do(partial(self.session.gif, fps=max(2.0, min(self.fps or 25.0, 25.0))))
        except WorldkitError as error:
            return self._web.Response(status=404, text=f"{error}\n")
        return self._web.Response(body=data, content_type="image/gif",
                                  headers={"Content-Disposition": 'attachment; filename="dream.gif"'})

    # -- the game

    async def _do(self, work: Callable[[], Any]) -> Any:
        """Something with the session, in its thread, after whatever it is doing."""
        async with self._turn:
            return await asyncio.get_running_loop().run_in_executor(self._worker, work)

    async def _play(self) -> None:
        """Step for ever, while it is playing and somebody looks on."""
        while True:
            await self._go.wait()
            if not self.playing or not any(n < _AHEAD for n in self._viewers.values()):
                self._go.clear()
                continue
            started = time.perf_counter()
            try:
                await self._do(self.session.step)
            except (WorldkitError, RuntimeError) as error:  # memory that is out, for one: the game waits as it was
                self.playing = False
                await self._tell({"error": str(error)})
            await self._show()
            if self.fps:
                await asyncio.sleep(max(0.0, 1 / self.fps - (time.perf_counter() - started)))
            else:
                await asyncio.sleep(0)
            self.speed = 0.9 * self.speed + 0.1 / max(1e-6, time.perf_counter() - started)

    async def _show(self) -> None:
        """Send what is to be seen to everybody who has room for it."""
        packet = await self._do(self._packet)
        for viewer, waiting in list(self._viewers.items()):
            if waiting >= _AHEAD:
                self._behind.add(viewer)
                continue
            self._viewers[viewer] = waiting + 1
            self._behind.discard(viewer)
            await self._send(viewer, packet)

    def _packet(self) -> bytes:
        """Length of a header, the header (JSON), then pictures, and who painted their pixels."""
        frames, truth = self.session.frames(), self.session.truth()
        height, width = frames[0].picture.shape[:2]
        head = {
            "height": height, "width": width, "truth": truth is not None, "speed": round(self.speed, 1),
            "number": self._number,
            "futures": [{"t": f.t, "span": f.span, "boxes": f.boxes, "owners": f.owners is not None,
                         "frozen": f.frozen, "said": f.predictions} for f in frames],
        }
        self._number += 1
        parts = [part for f in frames for part in (f.picture, f.owners)] + [truth]
        text = json.dumps(head).encode()
        return struct.pack("<I", len(text)) + text + b"".join(part.tobytes() for part in parts if part is not None)

    def _state(self) -> dict[str, Any]:
        """What the page's controls show."""
        session, steering = self.session, self.session.steering
        spec, views = session.model.spec, session.model.config.obs.views
        return {"state": {
            **self.about, "playing": self.playing, "fps": self.fps, "modes": session.modes, "mode": session.mode,
            "steering": {"name": steering.name, "dim": steering.dim, "choices": steering.choices,
                         "factors": steering.factors, "factor": session.factor},
            "clip": session.clip, "clips": len(session.clips), "owners": session.show_owners,
            "recording": session.recording is not None, "recorded": len(session.recorded),
            "picks": views == 1, "moves": spec.find("position") is not None,
        }}

    async def _tell(self, message: Mapping[str, Any]) -> None:
        for viewer in list(self._viewers):
            await self._send(viewer, json.dumps(message))

    async def _send(self, viewer: Any, data: bytes | str) -> None:
        """A browser that is gone is forgotten; the game stays."""
        try:
            await (viewer.send_bytes(data) if isinstance(data, bytes) else viewer.send_str(data))
        except (ConnectionError, RuntimeError):
            self._viewers.pop(viewer, None)

    async def _socket(self, request: Any) -> Any:
        viewer = self._web.WebSocketResponse(heartbeat=20.0, max_msg_size=1 << 16)
        await viewer.prepare(request)
        self._viewers[viewer] = 0
        try:
            await self._send(viewer, json.dumps(self._state()))
            await self._show()
            self._go.set()
            async for message in viewer:
                if message.type is not self._web.WSMsgType.TEXT:
                    continue
                await self._hear(viewer, message.data)
        finally:
            self._viewers.pop(viewer, None)
            self._behind.discard(viewer)
            if not self._viewers:
                self.session.steer(None)  # nobody is there to let go of a key
        return viewer

    async def _hear(self, viewer: Any, text: str) -> None:
        """One message of a browser: that a frame has come, or a command."""
        try:
            said = json.loads(text)
            if "got" in said:
                self._viewers[viewer] = max(0, self._viewers[viewer] - 1)
                if viewer in self._behind and not self.playing:
                    await self._show()
                self._go.set()
                return
            answer = await self._obey(said)
        except WorldkitError as error:
            await self._send(viewer, json.dumps({"error": str(error)}))
            return
        except (ValueError, KeyError, TypeError, IndexError) as error:
            await self._send(viewer, json.dumps({"error": f"not understood: {reason_of(error)}"}))
            return
        if answer is not None:
            await self._send(viewer, json.dumps(answer))

    async def _obey(self, said: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """Do what a command says; see `COMMANDS`."""
        name = said["do"]
        if name == "play":
            self.playing = bool(said["on"])
        elif name == "fps":
            fps = float(said["fps"])
            if not math.isfinite(fps):
                raise ValueError("fps is no number")
            self.fps = min(max(fps, 0.0), 100.0)
        elif name == "outline":
            box = await self._do(partial(self.session.outline, int(said["future"]), said["at"]))
            return {"outline": box, "future": said["future"], "at": said["at"], "serial": said.get("serial")}
        elif name in COMMANDS:
            done = await self._do(partial(COMMANDS[name], self.session, said))
            if done is False:
                return {"error": "nothing is there"}
        else:
            raise ConfigError(f"unknown command {name!r}")
        await self._tell(self._state())
        await self._show()
        self._go.set()
        return None


def _owners(session: Session, said: Mapping[str, Any]) -> None:
    session.show_owners = bool(said["on"])


COMMANDS: dict[str, Callable[[Session, Mapping[str, Any]], Any]] = {
    "step": lambda s, said: s.step(),
    "look": lambda s, said: s.look(int(said["t"])),
    "begin": lambda s, said: s.begin(None if said.get("clip") is None else int(said["clip"])),
    "branch": lambda s, said: s.branch(),
    "drop": lambda s, said: s.drop(int(said.get("future", 1))),
    "move": lambda s, said: s.move(int(said["future"]), said["at"], said["by"]),
    "remove": lambda s, said: s.remove(int(said["future"]), said["at"]),
    "freeze": lambda s, said: s.freeze(int(said["future"]), said["at"]),
    "steer": lambda s, said: s.steer(said["action"]),
    "aim": lambda s, said: s.aim(int(said["factor"])),
    "mode": lambda s, said: s.follow(said["mode"]),
    "owners": _owners,
    "record": lambda s, said: s.record(bool(said["on"])),
}
"""What a browser can ask for, besides "play", "fps" and "outline"."""


def _taken(port: int, error: OSError) -> str:
    """Why a port cannot be had, and what to do."""
    if error.errno == errno.EADDRINUSE:
        return f"--port {port} is in use by another program (another worldkit play?): --port 0 takes a free one"
    return f"--port {port} cannot be used: {reason(error)}. --port 0 takes a free one"


def reason_of(error: Exception) -> str:
    """An error in a few words."""
    return f"{type(error).__name__} {error}"


def serve(session: Session, about: Mapping[str, str], *, port: int, fps: float, ready: Callable[[str], None]) -> None:
    """Serve a game until Ctrl-C; errors as `Server.run`."""
    async def main() -> None:
        await Server(session, about, port=port, fps=fps).run(ready)

    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main())
