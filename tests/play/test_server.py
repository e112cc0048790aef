"""The browser's side, asked as a browser would and as a stranger would: harmless requests, on this machine."""

import asyncio
import json
import socket
import struct

import numpy as np
import pytest
import torch

from worldkit.assembly import build
from worldkit.data import ArraySource, ClipDataset
from worldkit.errors import ConfigError
from worldkit.play.session import Session, Steering
from worldkit.testing.examples import small_config
from worldkit.testing.report import shake

aiohttp = pytest.importorskip("aiohttp", reason="extra 'play'")

from worldkit.play.server import Server  # noqa: E402

CLIPS = ClipDataset(ArraySource([{"video": np.random.default_rng(0).integers(0, 255, (8, 3, 32, 32), np.uint8)}] * 2),
                    num_frames=6)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return shake(build(small_config()))


def playing(model, test, **options):
    """Run ``test(server, client)`` beside a server."""
    async def main():
        server, ready = Server(Session(model, CLIPS, context_frames=3), {"model": "m", "data": "d"}, **options), \
            asyncio.Event()
        task = asyncio.create_task(server.run(lambda address: ready.set()))
        waiting = asyncio.create_task(ready.wait())
        await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
        try:
            if task.done():
                task.result()
            async with aiohttp.ClientSession() as client:
                await asyncio.wait_for(test(server, client), 60)
        finally:
            waiting.cancel()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(main())


def unpack(data):
    (length,) = struct.unpack("<I", data[:4])
    return json.loads(data[4 : 4 + length]), data[4 + length :]


class Browser:
    """A page's socket: acknowledges frames, remembers the newest of everything."""

    def __init__(self, socket):
        self.socket, self.head, self.state, self.errors, self.frames = socket, None, None, [], 0

    @classmethod
    async def open(cls, server, client, **headers):
        address = f"http://127.0.0.1:{server.port}"
        socket = await client.ws_connect(f"{address}/socket?token={server.token}",
                                         headers={"Origin": address, **headers})
        browser = cls(socket)
        await browser.until(lambda: browser.head and browser.state)
        return browser

    async def until(self, done, answer=True):
        while not done():
            message = await asyncio.wait_for(self.socket.receive(), 20)
            if message.type is aiohttp.WSMsgType.BINARY:
                self.head, self.bytes = unpack(message.data)
                self.frames += 1
                if answer:
                    await self.say(got=1)
            elif message.type is aiohttp.WSMsgType.TEXT:
                said = json.loads(message.data)
                self.state = said.get("state", self.state)
                self.outline = said.get("outline", "none yet")
                self.errors += [said["error"]] if "error" in said else []
            else:
                raise AssertionError(message)

    async def say(self, **message):
        await self.socket.send_str(json.dumps(message))

    @property
    def t(self):
        return self.head["futures"][0]["t"]


def test_a_page_its_files_and_frames(model):
    async def test(server, client):
        base = f"http://127.0.0.1:{server.port}"
        async with client.get(server.address) as page:
            assert page.status == 200 and "worldkit" in await page.text()
            assert "default-src 'self'" in page.headers["Content-Security-Policy"]
        for name in ("play.js", "play.css"):
            async with client.get(f"{base}/{name}") as file:
                assert file.status == 200 and len(await file.text()) > 500
        async with client.get(f"{base}/session.py?token={server.token}") as file:
            assert file.status == 404
        browser = await Browser.open(server, client)
        assert browser.t == 0 and len(browser.bytes) == 2 * 32 * 32 * 3  # a picture, and the truth
        assert browser.state["model"] == "m" and browser.state["clips"] == 6
        await browser.say(do="step")
        await browser.until(lambda: browser.t == 1)
        await browser.say(do="branch")
        await browser.until(lambda: len(browser.head["futures"]) == 2)
        await browser.say(do="owners", on=True)
        await browser.until(lambda: browser.state["owners"] and browser.head["futures"][1]["owners"])
        assert len(browser.bytes) == 32 * 32 * (2 * 4 + 3)
        await browser.say(do="look", t=0)
        await browser.until(lambda: browser.t == 0)

    playing(model, test)


def test_nobody_else_can_play(model):
    """Another origin, another host name, no token: refused, and the game does not move."""
    async def test(server, client):
        base, token = f"http://127.0.0.1:{server.port}", server.token
        own = {"Origin": base}
        strange = [
            (f"{base}/", {}), (f"{base}/?token=guess", {}), (f"{base}/recording.gif", {}),
            (f"{base}/?token={token}", {"Host": f"evil.example:{server.port}"}),
            (f"{base}/?token={token}", {"Host": "127.0.0.1"}),
            (f"{base}/?token={token}", {"Origin": "http://evil.example"}),
            (f"{base}/?token={token}", {"Origin": "null"}),
            (f"{base}/play.js", {"Host": "evil.example"}),
        ]
        for address, headers in strange:
            async with client.get(address, headers=headers) as answer:
                assert answer.status == 403, (address, headers)
                assert (await answer.text()).startswith("refused: ")
        sockets = [
            (f"token={token}", {"Origin": "http://evil.example"}), (f"token={token}", {}),
            (f"token={token}", {"Origin": f"http://127.0.0.1:{server.port + 1}"}),
            (f"token={token}", {"Origin": f"https://127.0.0.1:{server.port}"}),
            (f"token={token}", {**own, "Host": f"evil.example:{server.port}"}),
            ("token=guess", own), ("", own),
        ]
        for query, headers in sockets:
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await client.ws_connect(f"{base}/socket?{query}", headers=headers)
            assert refused.value.status == 403, (query, headers)
        assert server.session.frames()[0].t == 0 and not server.playing
        async with client.post(f"{base}/?token={token}", headers=own) as answer:
            assert answer.status == 405
        by_name = f"http://localhost:{server.port}"
        await client.ws_connect(f"{base}/socket?token={token}", headers={"Origin": by_name})

    playing(model, test)


def test_it_listens_on_this_machine_only(model):
    async def test(server, client):
        others = {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)} - {"127.0.0.1"}
        for address in others:
            with pytest.raises(OSError):
                await asyncio.wait_for(asyncio.open_connection(address, server.port), 5)

    playing(model, test)


def test_a_browser_that_disconnects_loses_nothing(model):
    async def test(server, client):
        first = await Browser.open(server, client)
        await first.say(do="play", on=True)
        await first.until(lambda: first.t >= 3)
        await first.say(do="steer", action=None)
        first.socket._response.connection.transport.abort()  # gone without a word
        await asyncio.sleep(0.5)
        reached = server.session.frames()[0].t
        await asyncio.sleep(0.3)
        assert server.session.frames()[0].t == reached >= 3  # nobody looks on: it waits
        again = await Browser.open(server, client)
        assert again.t >= reached and again.head["futures"][0]["span"][0] == 0 and again.state["playing"]
        await again.until(lambda: again.t > reached + 2)

    playing(model, test, fps=0)


def test_a_browser_that_disconnects_lets_go_of_its_keys(model):
    async def test(server, client):
        server.session.steering = Steering("action", 2)
        staying, going = await Browser.open(server, client), await Browser.open(server, client)
        await going.say(do="steer", action=[0, 1])
        await staying.until(lambda: server.session.action)
        going.socket._response.connection.transport.abort()
        await asyncio.sleep(0.2)
        assert server.session.action == [0, 1]  # of a game that another one looks at, too
        staying.socket._response.connection.transport.abort()
        await asyncio.sleep(0.2)
        assert server.session.action is None

    playing(model, test)


def test_a_slow_browser_gets_fewer_frames_and_the_newest_in_the_end(model):
    async def test(server, client):
        slow, fast = await Browser.open(server, client), await Browser.open(server, client)
        await fast.say(do="play", on=True)
        await fast.until(lambda: fast.t >= 30)
        await fast.say(do="play", on=False)
        await fast.until(lambda: not fast.state["playing"])
        await asyncio.sleep(0.2)
        last = server.session.frames()[0].t
        await slow.until(lambda: slow.t == last)
        assert slow.frames < fast.frames / 2

    playing(model, test, fps=0)


def test_what_is_not_understood_is_said_and_does_no_harm(model):
    async def test(server, client):
        browser = await Browser.open(server, client)
        for text in ("no json", "[]", "{}", '{"do": "explode"}', '{"do": "look"}', '{"do": "move", "future": 0}',
                     '{"do": "remove", "future": 5, "at": [0, 0]}', '{"do": "begin", "clip": 99}',
                     '{"do": "steer", "action": [1, 2]}', '{"do": "mode", "mode": "magic"}',
                     '{"do": "fps", "fps": NaN}'):
            count = len(browser.errors)
            await browser.socket.send_str(text)
            await browser.until(lambda count=count: len(browser.errors) > count)
        assert "unknown command 'explode'" in browser.errors[3] and "clips" in browser.errors[7]
        await browser.say(do="step")
        await browser.until(lambda: browser.t == 1)

    playing(model, test)


def test_a_step_that_fails_is_said_and_the_game_waits(model):
    async def test(server, client):
        browser = await Browser.open(server, client)
        step = server.session.step

        def out_of_memory():
            raise RuntimeError("not enough memory")

        server.session.step = out_of_memory
        await browser.say(do="play", on=True)
        await browser.until(lambda: browser.errors)
        assert browser.errors == ["not enough memory"] and not server.playing
        server.session.step = step
        await browser.say(do="step")
        await browser.until(lambda: browser.t == 1)

    playing(model, test)


def test_recording(model):
    pytest.importorskip("PIL")

    async def test(server, client):
        browser = await Browser.open(server, client)
        gif = f"http://127.0.0.1:{server.port}/recording.gif?token={server.token}"
        async with client.get(gif) as answer:
            assert answer.status == 404 and "nothing was recorded" in await answer.text()
        await browser.say(do="record", on=True)
        await browser.say(do="step")
        await browser.say(do="record", on=False)
        await browser.until(lambda: browser.state["recorded"] == 2)
        async with client.get(gif) as answer:
            assert answer.status == 200 and (await answer.read())[:3] == b"GIF"

    playing(model, test)


def test_a_port_in_use(model):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        async def nothing(server, client):
            raise AssertionError("it listens on a port that is taken")

        with pytest.raises(ConfigError, match=f"--port {port} is in use by another program .*--port 0 takes a free"):
            playing(model, nothing, port=port)
