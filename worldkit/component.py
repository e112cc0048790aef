"""`Component`, the base of everything a model is put together from.

It keeps a part's own names apart from those of its contract. In Python, a submodule called like a method of the class
is never found (``self.embed = LatentEmbed(...)``, and ``self.embed(z)`` still calls the method), and a number hides the
method of that name from everybody else (``self.step = 0``). Both are refused where they are written.

`NamedModules` and `NamedParameters` hold what others have named (fields, groups, conditions), so any name must do.
"""

from __future__ import annotations

import inspect
from collections.abc import ItemsView, Iterator, KeysView, Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from .errors import ShapeError, WorldkitError
from .registry import suggestion

_MISSING = object()


class Component(nn.Module):
    """Base of encoders, decoders, dynamics, conditioners, latent actions, objectives and models.

    A class that derives from it directly is a contract; what derives from that is a part.

    Attributes:
        RETURNS: What `forward` must give; None: anything.
        WORDS: Class attribute that is a set of words -> the words it may hold (a tuple: others, too, if they are not
            misspellings of these), None for any. Parts may write such sets
            as any collection; they are frozen sets afterwards.
    Raises:
        WorldkitError: when an attribute is set whose name belongs to the contract, or a class is defined whose sets of
            words hold unknown ones.
    Example:
        >>> class Contract(Component):
        ...     def embed(self, z): ...
        >>> Contract().embed = nn.Linear(2, 2)
        Traceback (most recent call last):
        worldkit.errors.WorldkitError: Contract.embed is a method of the contract (Contract), so it cannot be a ...
    """

    WORDS: ClassVar[Mapping[str, frozenset[str] | tuple[str, ...] | None]] = {}
    RETURNS: ClassVar[type | None] = None

    def __init_subclass__(cls, **kwargs: Any):
        super().__init_subclass__(**kwargs)
        for name, value in list(vars(cls).items()):
            if name in cls.WORDS and value is not None and not isinstance(value, property):
                setattr(cls, name, _words(cls, name, value))
            above = next((vars(base)[name] for base in cls.__mro__[1:] if name in vars(base)), None)
            hides = not (_is_method(value) or callable(value)) or isinstance(value, (nn.Module, property))
            if not name.startswith("__") and _is_method(above) and hides:
                raise WorldkitError(
                    f"{cls.__name__}.{name} = {value!r} hides the method {name}() that parts of this kind have: take "
                    "another name"
                )

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "training":  # set in every module whenever the mode changes: nothing to check
            self.__dict__[name] = value
            return
        problem = _problem(type(self), name, value)
        if problem:
            raise WorldkitError(
                f"{type(self).__name__}.{name} is {problem}, so it cannot be a {type(value).__name__} as well: take "
                f"another name, for example self.{name}_{'net' if isinstance(value, nn.Module) else 'value'}"
            )
        if isinstance(value, nn.Module) and any(module is self for module in value.modules()):
            raise WorldkitError(
                f"{type(self).__name__}.{name} would hold a module that holds this {type(self).__name__}, without end. "
                f"Keep what you need of it, or hide it from torch: self.{name} = [module]"
            )
        super().__setattr__(name, value)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        found = super().__call__(*args, **kwargs)
        if self.RETURNS is not None and not isinstance(found, self.RETURNS):
            raise ShapeError(
                f"{type(self).__name__}.forward must give {self.RETURNS.__name__}, got {type(found).__name__}: see "
                f"{_contracts(type(self))[0].__module__}"
            )
        return found


def unset(part: Component) -> list[str]:
    """Attributes that the contract announces and the part has not."""
    announced = inspect.get_annotations(_contracts(type(part))[0])
    return [name for name in announced if not hasattr(part, name)]


def _is_method(attribute: Any) -> bool:
    return inspect.isroutine(attribute) or isinstance(attribute, (classmethod, staticmethod))


def _problem(cls: type, name: str, value: Any) -> str:
    """What a name means already, if that and the value cannot both be had; empty if they can."""
    holds_weights = isinstance(value, (nn.Module, Tensor))
    found = inspect.getattr_static(cls, name, _MISSING)
    if found is _MISSING:
        owner = _owner(cls, name)
        return f"set by the contract ({owner.__name__})" if owner is not None and holds_weights else ""
    where = _defined(cls, name)
    if _is_method(found) and (holds_weights or not callable(value)):
        return f"a method of {where}"
    if isinstance(found, property) and (isinstance(value, (nn.Module, nn.Parameter)) or found.fset is None):
        return f"a property of {where}"
    if isinstance(value, (nn.Module, nn.Parameter)):
        return f"an attribute of {where} that would hide it"
    return ""


def _contracts(cls: type) -> list[type]:
    return [base for base in cls.__mro__ if Component in base.__bases__ or base in (Component, nn.Module)]


def _owner(cls: type, name: str) -> type | None:
    """The contract that announces an attribute of its instances, if one does."""
    return next((base for base in _contracts(cls) if name in inspect.get_annotations(base)), None)


def _defined(cls: type, name: str) -> str:
    """Where an attribute of a class comes from, in words."""
    base = next(base for base in cls.__mro__ if name in vars(base))
    return f"the contract ({base.__name__})" if base in _contracts(cls) else base.__name__


def _words(cls: type, name: str, value: Any) -> frozenset[str]:
    """A set of words that a class declares.

    Raises:
        WorldkitError: if it is a bare string, or holds an unknown word.
    """
    known = cls.WORDS[name]  # type: ignore[attr-defined]
    example = f"frozenset({{{(min(known) if known else 'patches')!r}}})"
    if isinstance(value, str) or not hasattr(value, "__iter__") or not all(isinstance(word, str) for word in value):
        raise WorldkitError(f"{cls.__name__}.{name} must be a set of words, {example}; got {value!r}")
    for word in value:
        if known is None or word in known:
            continue
        if isinstance(known, frozenset) or suggestion(word, known):
            raise WorldkitError(
                f"{cls.__name__}.{name}: unknown word {word!r}.{suggestion(word, sorted(known))} Words it may hold: "
                f"{', '.join(sorted(known))}"
            )
    return frozenset(value)


def attribute_name(name: str) -> str:
    """The attribute, and so the part of a state dict's keys, under which `NamedModules` keep what has this name.

    Names that torch's own containers refuse (``type``, ``keys``, ``training``) get a trailing underscore.

    Example:
        >>> attribute_name("position"), attribute_name("type"), attribute_name("type_")
        ('position', 'type_', 'type__')
    """
    return f"{name}_" if _is_taken(name) else name


_TAKEN = frozenset(dir(nn.ModuleDict())) | {"smart_apply"}  # which transformers hangs on `nn.Module` when imported


def _is_taken(name: str) -> bool:
    """Whether a name, or what is left without underscores at its end, is one of torch's own."""
    return name in _TAKEN or (name.endswith("_") and _is_taken(name[:-1]))


def _name_of(attribute: str) -> str:
    """Inverse of `attribute_name`."""
    return attribute[:-1] if _is_taken(attribute) else attribute


class NamedModules(nn.ModuleDict):
    """A `torch.nn.ModuleDict` that takes any name (but dots).

    Example:
        >>> modules = NamedModules({"type": nn.ReLU(), "position": nn.ReLU()})
        >>> list(modules), [name for name, _ in modules.named_children()]
        (['type', 'position'], ['type_', 'position'])
    """

    def __getitem__(self, name: str) -> nn.Module:
        return super().__getitem__(attribute_name(name))

    def __setitem__(self, name: str, module: nn.Module) -> None:
        super().__setitem__(attribute_name(name), module)

    def add_module(self, name: str, module: nn.Module | None) -> None:
        # unlike the method of `nn.Module`, without a look at what other packages hang on that class
        self._modules[name] = module

    def __delitem__(self, name: str) -> None:
        super().__delitem__(attribute_name(name))

    def __contains__(self, name: str) -> bool:
        return super().__contains__(attribute_name(name))

    def __iter__(self) -> Iterator[str]:
        return map(_name_of, self._modules)

    def keys(self) -> KeysView[str]:
        return {_name_of(attribute): None for attribute in self._modules}.keys()

    def items(self) -> ItemsView[str, nn.Module]:
        return {_name_of(attribute): module for attribute, module in self._modules.items()}.items()


class NamedParameters(nn.Module):
    """Parameters by name, sorted as in `torch.nn.ParameterDict` (optimisers count on it); any name will do (but dots).

    Example:
        >>> "type" in NamedParameters({"type": Tensor([1.0])})
        True
    """

    def __init__(self, parameters: Mapping[str, Tensor]):
        super().__init__()
        for name, value in sorted(parameters.items()):
            self._parameters[attribute_name(name)] = nn.Parameter(value)  # as in `NamedModules.add_module`

    def __getitem__(self, name: str) -> nn.Parameter:
        return self._parameters[attribute_name(name)]

    def __contains__(self, name: str) -> bool:
        return attribute_name(name) in self._parameters
