"""Which environments there are, which package they come from, and `make_env`.

To add a backend, write a function that makes a `gymnasium.Env`, and register where it is::

    from worldkit.envs import register_env_backend

    register_env_backend("my-robots", factory_path="my_robots.worldkit:make", ids_path="my_robots.worldkit:ids",
                         claims=("robots/*",), description="the arms of our lab")

``make_env("robots/arm-v0")`` then calls ``make("robots/arm-v0", **options)`` and gives its pixels as everywhere else.
A picture is what ``draw(height, width)`` of the environment gives, or its observation, or what it renders.
"""

from __future__ import annotations

import fnmatch
import importlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import ConfigError, DuplicateComponentError, MissingExtraError, UnknownComponentError
from ..registry import canonical, failed_plugins, load_plugins, suggestion

AUTO = "auto"
_FALLBACK = "gymnasium"


@dataclass(frozen=True)
class EnvBackendSpec:
    """Where the environments of one package come from.

    Attributes:
        name: For ``make_env(..., backend=name)``.
        factory_path: ``"package.module:function"``; ``function(env_id, **options)`` gives a `gymnasium.Env`.
        description: What it has, in a few words.
        aliases: Other names.
        claims: Patterns of the ids that ``backend="auto"`` leaves to it.
        ids_path: ``"package.module:function"`` that gives a list of its ids; ``""`` if they cannot be listed.
        extra: Extra of worldkit that installs what it needs, if any.
    """

    name: str
    factory_path: str
    description: str = ""
    aliases: tuple[str, ...] = ()
    claims: tuple[str, ...] = ()
    ids_path: str = ""
    extra: str | None = None

    def factory(self) -> Callable[..., Any]:
        """The function that makes its environments."""
        return _load(self.factory_path)

    def ids(self) -> list[str]:
        """Its environments, sorted.

        Raises:
            MissingExtraError: if its package is not installed.
        """
        return sorted(_load(self.ids_path)()) if self.ids_path else []


_backends: dict[str, EnvBackendSpec] = {}


def _load(path: str) -> Callable[..., Any]:
    module, _, attribute = path.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"environment backend '{path}': there is no module {error.name}") from error


def register_env_backend(
    name: str,
    *,
    factory_path: str,
    description: str = "",
    aliases: Sequence[str] = (),
    claims: Sequence[str] = (),
    ids_path: str = "",
    extra: str | None = None,
    override: bool = False,
) -> EnvBackendSpec:
    """Teach `make_env` the environments of a package; see `worldkit.envs.registry`.

    Args:
        name: For ``make_env(..., backend=name)``.
        factory_path: ``"package.module:function"``, imported when an environment is made.
        description: What it has, in a few words.
        aliases: Other names.
        claims: Patterns of the ids that ``backend="auto"`` leaves to it, such as ``"robots/*"``; asked last
            registered first.
        ids_path: ``"package.module:function"`` that gives a list of its ids.
        extra: Extra of worldkit that installs what it needs.
        override: Replace a backend of that name.
    Raises:
        DuplicateComponentError: if the name, or an alias, is taken.
        ConfigError: for a path that is not ``"package.module:function"``.
    """
    spec = EnvBackendSpec(canonical(name), factory_path, description, tuple(map(canonical, aliases)), tuple(claims),
                          ids_path, extra)
    for path in filter(None, (factory_path, ids_path)):
        module, _, attribute = path.partition(":")
        if not all(part.isidentifier() for part in module.split(".")) or not attribute.isidentifier():
            raise ConfigError(f"environment backend '{name}': a path is 'package.module:function', got {path!r}")
    for other in _backends.values():
        clash = {spec.name, *spec.aliases} & {other.name, *other.aliases}
        if (clash or spec.name == AUTO) and not (override and other.name == spec.name):
            taken = sorted(clash or {AUTO})[0]
            raise DuplicateComponentError(f"environment backend '{taken}' is registered already: pick another name, "
                                          "or override=True to replace it")
    _backends.pop(spec.name, None)
    _backends[spec.name] = spec
    return spec


def list_env_backends() -> list[str]:
    """Names of the environment backends, installed or not.

    Example:
        >>> "gymnasium" in list_env_backends()
        True
    """
    load_plugins()
    return sorted(_backends)


def get_env_backend_spec(name: str) -> EnvBackendSpec:
    """What is known about a backend.

    Raises:
        UnknownComponentError: with the nearest name.
    Example:
        >>> get_env_backend_spec("ale").name
        'atari'
    """
    load_plugins()
    wanted = canonical(name)
    for spec in _backends.values():
        if wanted == spec.name or wanted in spec.aliases:
            return spec
    known = [*_backends, *(alias for spec in _backends.values() for alias in spec.aliases)]
    raise UnknownComponentError(
        f"no environment backend '{name}'.{suggestion(wanted, known)} Known: {', '.join(sorted(_backends))}, and "
        f"'{AUTO}', which picks by the id{failed_plugins()}"
    )


def list_envs(backend: str | None = None) -> list[str] | dict[str, list[str]]:
    """Environments that can be made here.

    Args:
        backend: Of this backend only.
    Returns:
        The ids; without ``backend``, name -> ids of every backend whose package is installed.
    Raises:
        UnknownComponentError: for an unknown backend.
        MissingExtraError: if the package of the backend is not installed.
    Example:
        >>> list_envs("games")
        ['games/breakout', 'games/catch', 'games/freeway']
    """
    if backend is not None:
        return get_env_backend_spec(backend).ids()
    found = {}
    for name in list_env_backends():
        try:
            found[name] = _backends[name].ids()
        except MissingExtraError:
            continue
    return found


def backend_of(env_id: str) -> EnvBackendSpec:
    """Whose environment an id is, by the patterns that backends claim; Gymnasium's, if nobody claims it.

    Example:
        >>> backend_of("ALE/Pong-v5").name, backend_of("CartPole-v1").name
        ('atari', 'gymnasium')
    """
    load_plugins()
    for spec in reversed(_backends.values()):
        if any(fnmatch.fnmatchcase(env_id, pattern) for pattern in spec.claims):
            return spec
    return _backends[_FALLBACK]


def make_env(
    env_id: Any,
    backend: str = AUTO,
    *,
    size: int | tuple[int, int] | None = 64,
    observation: str = "dict",
    repeat: int = 1,
    actions: str = "own",
    grey: bool = False,
    resize: str = "stretch",
    **options: Any,
) -> Any:
    """An environment that gives pixels, as a `gymnasium.Env`.

    Args:
        env_id: ``"CartPole-v1"``, ``"ALE/Pong-v5"``, ``"dmc/reacher-easy"``, ``"games/catch"``, ...; see
            `list_envs`. Or a `gymnasium.Env` of your own.
        backend: A name of `list_env_backends`; ``"auto"`` picks by the id.
        size: Height and width of the pixels; one number for squares; None for what the environment gives; 0: no
            pixels, and nothing is drawn.
        observation: ``"dict"``: ``{"pixels": uint8 [H, W, 3], "state": numbers}`` (no state where the environment shows
            a picture only); ``"keys"``: pixels, and the numbers of the environment's own observation, each under its
            own key (one that is no dict is called "observation"); ``"pixels"``: the picture alone; ``"state"``: what
            the environment itself observes, and nothing is drawn.
        repeat: Steps that an action is held for; rewards are summed.
        actions: ``"own"``; ``"scaled"``: those that are bounded boxes run from -1 to 1 instead.
        grey: Pixels have one channel, uint8 ``[H, W, 1]``.
        resize: What becomes of a picture of another shape than ``size``: ``"stretch"``, ``"pad"`` or ``"crop"`` (see
            `worldkit.pictures`); ``worldkit.get_operator(model).spec.resize`` says what a model saw.
        **options: Of the environment, as its package documents them.
    Returns:
        The environment; ``render()`` gives the picture in the environment's own size.
    Raises:
        UnknownComponentError: for an unknown backend or environment, with the nearest id.
        MissingExtraError: if a package is missing; the message says what to type.
        ConfigError: for an option that the environment does not have, a size that is none, or no pixels.
    Example:
        >>> env = make_env("games/catch", size=32)
        >>> observation, info = env.reset(seed=0)
        >>> observation["pixels"].shape
        (32, 32, 3)
    """
    from gymnasium.envs.registration import EnvSpec

    from .observe import Observe, check_options
    from .pace import paced

    check_options(size, observation)
    if options.get("render_mode", "rgb_array") != "rgb_array":
        raise ConfigError(f"make_env makes environments that render to arrays, render_mode='rgb_array', not "
                          f"{options['render_mode']!r}: gymnasium.make opens windows")
    options.pop("render_mode", None)
    if not isinstance(env_id, str):
        if options or backend != AUTO:
            given = ", ".join([*options, *(["backend"] if backend != AUTO else [])])
            raise ConfigError(f"make_env was given an environment, which is made already: leave out {given}")
        return Observe(paced(env_id, repeat=repeat, actions=actions), size=size, observation=observation, grey=grey,
                       resize=resize)
    spec = backend_of(env_id) if backend == AUTO else get_env_backend_spec(backend)
    try:
        env = spec.factory()(env_id, **options)
    except TypeError as error:
        wrong = [name for name in options if f"'{name}'" in str(error)]
        if "unexpected keyword argument" not in str(error) or not wrong:
            raise
        raise ConfigError(f"environment '{env_id}' (backend '{spec.name}') has no option '{wrong[0]}'") from error
    try:
        made = Observe(paced(env, repeat=repeat, actions=actions), size=size, observation=observation, grey=grey,
                       resize=resize)
    except BaseException:
        env.close()
        raise
    again = {"env_id": env_id, "backend": spec.name, "size": size, "observation": observation, **options}
    again |= {name: value for name, value, default in (
        ("repeat", repeat, 1), ("actions", actions, "own"), ("grey", grey, False), ("resize", resize, "stretch"))
        if value != default}
    made.made_by(EnvSpec(_spec_id(env_id), entry_point=f"{__name__}:make_env", kwargs=again, disable_env_checker=True,
                         order_enforce=False))
    return made


def _spec_id(env_id: str) -> str:
    """An id as Gymnasium knows them: one namespace at most, and nothing of a path."""
    space, _, name = env_id.partition("/")
    parts = [re.sub(r"[^\w.-]+", "-", part).strip("-") for part in ((space, name) if space and name else (env_id,))]
    return "/".join(filter(None, parts))


def unknown_env(env_id: str, known: Sequence[str], backend: str, more: str = "") -> UnknownComponentError:
    """The error for an id that a backend does not have."""
    return UnknownComponentError(
        f"no environment '{env_id}' in backend '{backend}'.{suggestion(env_id, list(known))} "
        f"worldkit.list_envs('{backend}') names the {len(known)} it has{more}"
    )


def _register_ours() -> None:
    def ours(name: str, description: str, *claims: str, module: str = "", aliases: Sequence[str] = (),
             extra: str | None = None) -> None:
        place = f"worldkit.envs.backends.{module or name}"
        register_env_backend(name, factory_path=f"{place}:make", ids_path=f"{place}:ids", description=description,
                             aliases=aliases, claims=claims, extra=extra)

    ours("gymnasium", "classic control, Box2D, MuJoCo, and whatever is registered with Gymnasium", aliases=("gym",),
         module="registered", extra="envs")
    ours("games", "small pixel games of worldkit's own: catch, breakout, freeway", "games/*")
    ours("pusht", "push a T into place: worldkit's own, after Diffusion Policy's", "pusht", "pusht/*", extra="pusht")
    ours("minigrid", "MiniGrid and BabyAI: grid worlds", "MiniGrid-*", "BabyAI-*", extra="envs")
    ours("atari", "the Arcade Learning Environment", "ALE/*", aliases=("ale",), extra="atari")
    ours("dmc", "the DeepMind Control Suite", "dmc/*", "dm_control/*", aliases=("dm-control",), extra="dmc")
    kinds = ("cube", "scene", "puzzle", "pointmaze", "antmaze", "humanoidmaze", "antsoccer")
    ours("ogbench", "OGBench: manipulation and mazes",
         *(f"{visual}{kind}-*" for visual in ("", "visual-") for kind in kinds), extra="ogbench")
    ours("crafter", "Crafter: survival in a small open world", "crafter", "crafter/*", "Crafter*", extra="crafter")
    ours("vizdoom", "ViZDoom: scenarios and levels seen by the player", "Vizdoom*", aliases=("doom",), extra="doom")
    ours("scenes", "solid things in 3-D, thrown at and pushed, with instance masks: worldkit's own stand-in for OBJ3D",
         "scenes/*", extra="scenes")
    ours("world-model", "trained world models: imagination as an environment", "world-model/*", module="world_model")
    ours("robotics", "Gymnasium-Robotics: arms, hands, mazes with goals", "Fetch*-v?", "HandReach*", "HandManipulate*",
         "AdroitHand*", "PointMaze_*", "AntMaze_*", "FrankaKitchen*", extra="robotics")
    ours("metaworld", "Meta-World: 50 tasks of one arm", "metaworld/*", "Meta-World/*", extra="metaworld")
    ours("aloha", "gym-aloha: two arms", "aloha/*", "gym_aloha/*", extra="aloha")
    ours("multi", "MPE2 and PettingZoo: several agents, one joint action", "mpe2/*", "pettingzoo/*", extra="multi")
    ours("procgen", "Procgen: 16 games on levels made by chance", "procgen/*", extra="procgen")


_register_ours()
