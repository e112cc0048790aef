"""``worldkit play``."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from ...errors import ConfigError
from ..loading import data_of, load, protocol
from ..options import (
    SPLITS,
    Commands,
    check_device,
    command,
    data_argument,
    data_option,
    data_options,
    device_argument,
    natural,
    positive,
)
from ..output import console

_HELP = """A dream begins with frames of data and goes on in the model, step by step. In the browser a thing is dragged
to ask what if; both futures go on side by side. The page is served to this machine alone.

examples:
  worldkit play lpwm-balls-mini --web               in the browser
  worldkit play lpwm-push-mini --web                steer with arrow keys, or the pad
  worldkit play lpwm-push-mini                      in this terminal
  worldkit play runs/a --data recordings/ --clip 3 --web --port 0
  worldkit play runs/genie --data catch --latent    steer by latent actions: digits choose a code
  worldkit play runs/flam --data multigrid-32 --latent       digits choose a factor, arrows steer it alone"""


def add(commands: Commands) -> None:
    """Its arguments."""
    p = command(commands, "play", "Step inside a model's dream: in the terminal, or in a browser.", _HELP)
    p.add_argument("model", help="preset with weights, model folder, run folder or hub:org/name")
    p.add_argument("--web", action="store_true", help="in a browser; needs the extra 'play'")
    p.add_argument("--latent", action="store_true", help="steer by the model's latent action: nobody recorded any")
    p.add_argument("--port", type=natural, help="of --web; 0: any free one (default: 8080)")
    p.add_argument("--open", action="store_true", help="of --web: open the browser, too")
    p.add_argument("--fps", type=float, default=10.0, help="steps per second; 0: as fast as it goes (default: 10)")
    data_argument(p)
    data_option(p)
    p.add_argument("--clip", type=natural, default=0, help="clip to begin with (default: 0)")
    p.add_argument("--split", default="test", choices=SPLITS, help="default: test")
    p.add_argument("--context", type=positive(int), help="frames given (default: the preset's)")
    p.add_argument("--horizon", type=positive(int), help="frames of what really happened (default: the preset's)")
    p.add_argument("--seed", type=natural, default=0)
    device_argument(p)
    p.set_defaults(function=run_play)


def run_play(options: Namespace) -> None:
    """``worldkit play``."""
    check_device(options.device)
    if not 0 <= options.fps <= 100:
        raise ConfigError(f"--fps runs from 0 (as fast as it goes) to 100, got {options.fps:g}")
    port = 8080 if options.port is None else options.port
    if port > 65535:
        raise ConfigError(f"--port runs from 0 to 65535, got {port}")
    if not options.web and (options.open or options.port is not None):
        raise ConfigError(f"{'--open' if options.open else '--port'} is of --web: worldkit play {options.model} --web")
    if options.web:
        from ...errors import require_extra

        require_extra("aiohttp", "play", "worldkit play --web")
    session, about = _session(options)
    if options.web:
        from ...play.server import serve

        serve(session, about, port=port, fps=options.fps, ready=lambda address: _ready(address, options.open))
        return
    from ...play.terminal import play

    play(session, about, fps=options.fps, console=console)


def _session(options: Namespace) -> tuple[Any, dict[str, str]]:
    """The game, and what is said of it."""
    from ...play.session import Session
    from ...training.recipes import open_clips, resize_note

    loaded = load(options.model)
    data = data_of(options, loaded)
    model = loaded.model.to(options.device)
    context, horizon = protocol(options, loaded)
    clips = open_clips(model, data, split=options.split, num_frames=context + horizon, **data_options(options))
    if note := resize_note(options.model, loaded.facts, clips):
        console.print(f"note: {note}", soft_wrap=True)
    session = Session(model, clips, context_frames=context, seed=options.seed, clip=options.clip,
                      latent=options.latent)
    return session, {"model": options.model, "data": data}


def _ready(address: str, opening: bool) -> None:
    console.print(f"open this in a browser on this machine: {address}\nCtrl-C ends the game", soft_wrap=True,
                  highlight=False)
    if opening:
        import webbrowser

        webbrowser.open(address)
