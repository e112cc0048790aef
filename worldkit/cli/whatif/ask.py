"""From the options of ``worldkit whatif`` to an answer."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ...batch import Batch, to_float_video
from ...counterfactual import what_if
from ...data import collate
from ...errors import ConfigError
from ...latents import Particles
from ...picking import PRESENT
from ...scene import Scene
from ...training.recipes import open_clips, resize_note
from ..loading import Loaded, protocol
from .answer import Answer
from .edits import Edit, apply, question
from .things import pick

_PICK = "--at Y X, --mask FILE or --particle K"


@dataclass(frozen=True)
class Clip:
    """The clip of a question, ``[1, T, ...]``, and what it is called."""

    batch: Batch
    name: str


def check(options: Namespace) -> bool:
    """Whether anything is asked; if nothing is, what there is will be listed.

    Raises:
        ConfigError: only half of it is said, or it contradicts itself.
    """
    picks = any(value is not None for value in (options.at, options.mask, options.particle))
    edit, swaps = edit_of(options), options.swap_look is not None
    if not picks and edit == Edit() and not swaps:
        return False
    edit.check(swaps)
    if not picks:
        raise ConfigError(f"say which thing: {_PICK}. Without an edit, worldkit whatif lists what there is")
    if swaps and len(options.swap_look) > 2:
        raise ConfigError(f"--swap-look takes Y X or one number, got {len(options.swap_look)} values")
    if swaps and len(options.swap_look) == 1 and not options.swap_look[0].is_integer():
        raise ConfigError(f"--swap-look {options.swap_look[0]:g} is neither the number of a particle nor Y X")
    return True


def edit_of(options: Namespace) -> Edit:
    """What the options say is to become of the thing, its look apart."""
    return Edit(None if options.move is None else tuple(options.move), options.scale, options.remove)


def open_scene(loaded: Loaded, data: str, options: Namespace, data_options: Mapping[str, Any]) -> tuple[Scene, Clip]:
    """The clip that is meant, and its given frames as the model sees them.

    Raises:
        ConfigError: a clip or frame out of range, a model of several cameras, or one that tells no things apart.
        DataError: see `worldkit.data.open_dataset`.
    """
    model = loaded.model.to(options.device).eval()
    if model.config.obs.views > 1:
        raise ConfigError(f"worldkit whatif shows one camera, and this model has {model.config.obs.views}. In Python: "
                          "z.edit(..., view=), then model.rollout of both latents")
    context, horizon = protocol(options, loaded)
    if model.dynamics is None:
        if options.horizon is not None:
            raise ConfigError(f"{loaded.place} has no dynamics and predicts nothing: leave --horizon out")
        context, horizon = options.context or model.clip_length, 0
    clips = open_clips(model, data, split=options.split, num_frames=context + horizon, **data_options)
    if options.clip >= len(clips):
        raise ConfigError(f"--clip {options.clip} is out of range: split '{options.split}' of {data} has {len(clips)} "
                          f"clips of {context + horizon} frames, 0 to {len(clips) - 1}")
    if not -context <= options.frame < context:
        raise ConfigError(f"--frame {options.frame} is out of range: {context} frames are given, 0 to {context - 1}")
    item = clips[options.clip]
    name = f"{data}, {clips.source.episode_name(item['episode'])} (clip {options.clip} of '{options.split}')"
    note = resize_note(options.model, loaded.facts, clips)
    clip = Clip(collate([item]).to(options.device), f"{name}; {note}" if note else name)
    given = replace(clip.batch.context(context), conditions=clip.batch.conditions, masks=clip.batch.masks)
    scene = Scene.of(model, given, options.frame)
    if not scene.tells_apart:
        have = ", ".join(dict.fromkeys(field for _, field in scene.z.spec.keys()))
        raise ConfigError(f"{loaded.place} tells no things apart: what it sees is {scene.nouns} ({have}), not "
                          "particles or slots, so there is no thing to move or take away. What is done can be "
                          "changed: worldkit play. A model of things: worldkit whatif lpwm-balls-mini")
    return scene, clip


def ask(scene: Scene, clip: Clip, options: Namespace) -> Answer:
    """The answer.

    Raises:
        ConfigError: see `pick` and `apply`.
        WorldkitError: nothing is where the thing should be.
    """
    tokens = pick(scene, particle=options.particle, at=options.at, mask=options.mask)
    others = None if options.swap_look is None else _other(scene, options.swap_look)
    if others is not None and {*tokens} & {*others}:
        raise ConfigError(f"--swap-look means the same thing, {scene.named(others)}: name another one")
    edit = edit_of(options)
    thing = _everywhere(scene, tokens, numbered=options.particle is not None)
    other = None if others is None else _everywhere(scene, others, numbered=len(options.swap_look) == 1)
    edited = apply(scene, thing, edit, other)
    known = {name: {k: given[k] for k in scene.model.conditioners if k in given}
             for name, given in (("conditions", clip.batch.conditions), ("masks", clip.batch.masks))}
    video = to_float_video(clip.batch.video)[0].cpu()
    found = what_if(scene.model, scene.z, edited, len(video) - scene.z.shape[1], via=options.via, **known)
    return Answer(question(scene, tokens, edit, others), scene, thing, other, found, video,
                  _notes(scene, tokens, thing, edit, numbered=options.particle is not None))


def _other(scene: Scene, given: Sequence[float]) -> list[int]:
    numbers, at = ([int(given[0])], None) if len(given) == 1 else (None, given)
    return pick(scene, particle=numbers, at=at, mask=None, option="--swap-look")


def _everywhere(scene: Scene, tokens: Sequence[int], *, numbered: bool) -> dict[int, list[int]]:
    """Frame -> tokens; those that were named by their numbers are the same in every frame."""
    return {t: list(tokens) for t in range(scene.z.shape[1])} if numbered else scene.everywhere(tokens)


def _notes(scene: Scene, tokens: Sequence[int], thing: Mapping[int, Sequence[int]], edit: Edit, *, numbered: bool
           ) -> list[str]:
    """What one should know of the pick."""
    said, z = [], scene.z
    if edit.remove and scene.shares is not None:
        copies = "a copy" if len(tokens) == 1 else "copies"
        said.append(f"note: a {scene.noun} cannot be hidden: {scene.named(tokens)} became {copies} of {scene.noun} "
                    f"{scene.stand_in(tokens)}, which paints most of the rest")
    if numbered and isinstance(z, Particles):
        hidden = [k for k in tokens if z.transparency[0, scene.frame, k, 0] <= PRESENT]
        if hidden:
            opacity = ", ".join(f"{z.transparency[0, scene.frame, k, 0]:.2f}" for k in hidden)
            said.append(f"note: {scene.named(hidden)} can hardly be seen in frame {scene.frame} (transparency "
                        f"{opacity})")
        else:
            y, x = scene.place(tokens) or (0.0, 0.0)
            whole = z.object_at((max(-1, min(1, y)), max(-1, min(1, x))), frame=scene.frame)
            if more := sorted({*whole} - {*tokens}):
                said.append(f"note: {scene.named(more)} help{'s' if len(more) == 1 else ''} to draw the same thing: "
                            f"--at {y:.2f} {x:.2f} means all of them")
    if edit.move is not None:
        places = {t: scene.place(found, t) for t, found in thing.items()}
        gone = [t for t, place in places.items()
                if place is not None and any(abs(p + m) > 1 for p, m in zip(place, edit.move, strict=True))]
        if gone:
            said.append(f"note: in given frame{'s' if len(gone) > 1 else ''} {', '.join(map(str, gone))} it lies "
                        "outside the picture then")
    return said
