"""Registries: names, messages, duplicates, overriding, lazy targets and plugins."""

import importlib.metadata
import subprocess
import sys
import textwrap
import warnings
from types import SimpleNamespace

import pytest

import worldkit as wk
from worldkit import registry as module
from worldkit.errors import DuplicateComponentError, UnknownComponentError, WorldkitError
from worldkit.registry import PluginError, Registry, canonical, load_plugins


class Thing:
    pass


class Other:
    pass


@pytest.fixture
def plugins(monkeypatch):
    """Set what is installed, as (name of the distribution, load function); nothing was loaded before."""
    installed = []
    monkeypatch.setattr(module, "_plugins_loaded", False)
    monkeypatch.setattr(module, "_plugin_errors", [])
    monkeypatch.delenv("WORLDKIT_PLUGINS", raising=False)

    everyones = importlib.metadata.entry_points

    def entry_points(*, group):
        if group != "worldkit.plugins":
            return everyones(group=group)
        return [SimpleNamespace(name=d, value=d.replace("-", "_"), dist=SimpleNamespace(name=d, version="0.1"), load=f)
                for d, f in installed]

    monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)
    return installed


@pytest.fixture
def things(plugins):
    table = Registry("thing")
    table.register("goal-image", Thing, aliases=("Goal", "image_goal"))
    table.register("gru", Other)
    return table


def test_unknown_name_message_is_exact(plugins):
    table = Registry("dynamics", plural="dynamics")
    for name in ("pint", "gru", "diffusion", "rssm", "token-ar"):
        table.register(name, Thing)

    def broken():
        raise ImportError("No module named 'mamba_ssm'")

    plugins.append(("wk-mamba", broken))
    with pytest.warns(RuntimeWarning, match="wk-mamba 0.1 failed"), pytest.raises(UnknownComponentError) as error:
        table.get("pnit")
    assert str(error.value) == (
        "unknown dynamics 'pnit'. Did you mean 'pint'?\n"
        "  registered: diffusion, gru, pint, rssm, token-ar\n"
        "  plugins that failed to load: wk-mamba 0.1 (ImportError: No module named 'mamba_ssm')"
    )
    assert isinstance(error.value, LookupError) and isinstance(error.value, WorldkitError)


def test_unknown_name_without_a_near_one_or_plugins(things):
    with pytest.raises(UnknownComponentError) as error:
        things.get("xylophone")
    assert str(error.value) == "unknown thing 'xylophone'.\n  registered: goal-image, gru"


def test_suggestions_know_aliases(things):
    with pytest.raises(UnknownComponentError, match="Did you mean 'image-goal'"):
        things.get("imagegoal")


@pytest.mark.parametrize("name", ["goal-image", "Goal_Image", " GOAL IMAGE ", "goal", "Image-Goal"])
def test_spellings_and_aliases(things, name):
    assert things.resolve(name) == "goal-image"
    assert things.get(name) is Thing
    assert name in things


@pytest.mark.parametrize("name", [3, None, Thing])
def test_names_are_strings(things, name):
    assert name not in things
    with pytest.raises(UnknownComponentError, match="is named by a string, not by"):
        things.resolve(name)


def test_names_lists_canonical_names_by_pattern(things):
    assert things.names() == ["goal-image", "gru"]
    assert things.names("G*U") == ["gru"]
    assert canonical("Token_AR") == "token-ar"


def test_decorator_returns_the_component():
    table = Registry("thing")
    assert table.register("x", aliases=("y",))(Thing) is Thing
    assert table.get("y") is Thing
    assert table.entry("x").provider == Thing.__module__


@pytest.mark.parametrize("name, aliases", [("gru", ()), ("GRU", ()), ("goal", ()), ("new", ("goal_image",))])
def test_duplicate_names_both_providers(things, name, aliases):
    with pytest.raises(DuplicateComponentError, match=rf"registered twice: by {__name__} and by other\.package"):
        things.register(name, "other.package:Thing", aliases=aliases)
    assert things.get("gru") is Other and things.get("goal") is Thing


def test_override_is_for_the_users_own_script(things):
    things.register("gru", Thing, override=True)
    assert things.get("gru") is Thing
    things.register("goal", Other, override=True)  # an alias of another component becomes a name of its own
    assert things.get("goal") is Other and things.get("goal-image") is Thing


def test_targets_given_as_text_are_imported_on_demand(tmp_path, monkeypatch):
    (tmp_path / "wk_lazy_target.py").write_text("class Part: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    table = Registry("thing")
    table.register("lazy", "wk_lazy_target:Part")
    assert table.names() == ["lazy"] and table.entry("lazy").provider == "wk_lazy_target"
    assert "wk_lazy_target" not in sys.modules
    assert table.get("lazy").__name__ == "Part"
    sys.modules.pop("wk_lazy_target")


def test_plugin_is_loaded_once_and_named_as_provider(things, plugins):
    calls = []

    def register():
        calls.append(1)
        things.register("mamba", Thing)

    plugins.append(("wk-mamba", lambda: register))  # "package.module:register"
    assert things.names() == ["goal-image", "gru", "mamba"]
    assert things.get("mamba") is Thing and things.names("m*") == ["mamba"]
    assert calls == [1]
    assert things.entry("mamba").provider == "wk-mamba 0.1"


def test_known_names_do_not_load_plugins(things, plugins):
    plugins.append(("wk-mamba", lambda: pytest.fail("loaded")))
    assert things.get("gru") is Other and "gru" in things


def test_unknown_names_ask_plugins(things, plugins):
    plugins.append(("wk-mamba", lambda: things.register("mamba", Thing)))
    assert things.resolve("Mamba") == "mamba"


def test_broken_plugin_warns_once_and_harms_nothing(things, plugins):
    def broken():
        raise RuntimeError("no GPU")

    plugins += [("wk-bad", broken), ("wk-good", lambda: things.register("good", Thing))]
    with pytest.warns(RuntimeWarning, match="wk-bad 0.1 failed to load: RuntimeError: no GPU") as caught:
        assert things.names() == ["goal-image", "good", "gru"]
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        things.names()
        assert wk.plugin_errors() == [PluginError("wk-bad 0.1", "RuntimeError: no GPU")]


def test_a_plugin_that_exits_is_only_reported(things, plugins):
    plugins.append(("wk-quitter", lambda: sys.exit("mamba_ssm is not installed")))
    with pytest.warns(RuntimeWarning, match="wk-quitter 0.1 failed to load: SystemExit: mamba_ssm"):
        assert things.names() == ["goal-image", "gru"]


def test_the_same_component_may_register_again(things):
    things.register("gru", Other)
    with pytest.raises(DuplicateComponentError):
        things.register("gru", Thing)


def test_parts_of_ours_that_a_plugin_pulls_in_stay_ours(plugins):
    table, ours = Registry("thing"), type("Ours", (), {"__module__": "worldkit.somewhere"})
    plugins.append(("wk-mamba", lambda: (table.register("ours", ours), table.register("theirs", Thing))))
    assert table.names() == ["ours", "theirs"]
    assert table.entry("ours").provider == "worldkit" and table.entry("theirs").provider == "wk-mamba 0.1"


def test_the_provider_is_the_distribution_however_a_plugin_is_imported(plugins):
    plugins.append(("wk-mamba", lambda: None))
    table, part = Registry("thing"), type("Part", (), {"__module__": "wk_mamba.parts"})
    assert table.register("part", part) is part
    assert table.entry("part").provider == "wk-mamba 0.1"


def test_of_two_plugins_with_one_name_the_same_one_wins(plugins):
    def claims(cls):
        return lambda: table.register("mamba", cls)

    for order in (("wk-a", "wk-b"), ("wk-b", "wk-a")):
        table = Registry("thing")
        plugins[:] = [(name, claims(Thing if name == "wk-a" else Other)) for name in order]
        module._plugins_loaded = False
        with pytest.warns(RuntimeWarning, match="registered twice: by wk-a 0.1 and by wk-b 0.1"):
            assert table.names() == ["mamba"]
        assert table.get("mamba") is Thing


def test_an_unknown_model_repeats_the_plugins_that_failed(plugins):
    plugins.append(("wk-bad", lambda: sys.exit("no GPU")))
    with pytest.warns(RuntimeWarning), pytest.raises(UnknownComponentError, match="wk-bad 0.1 .SystemExit: no GPU"):
        wk.create_model("lpwm-mamba")


@pytest.mark.parametrize("options", [{}, {"override": True}])
def test_plugin_cannot_take_a_name(things, plugins, options):
    plugins.append(("wk-thief", lambda: things.register("gru", Thing, **options)))
    with pytest.warns(RuntimeWarning, match="wk-thief"):
        load_plugins()
    assert things.get("gru") is Other
    assert "may not override" in wk.plugin_errors()[0].error or "registered twice" in wk.plugin_errors()[0].error


def test_plugins_can_be_switched_off(things, plugins, monkeypatch):
    monkeypatch.setenv("WORLDKIT_PLUGINS", "0")
    plugins.append(("wk-mamba", lambda: pytest.fail("loaded")))
    assert things.names() == ["goal-image", "gru"] and wk.plugin_errors() == []


def run(code):
    return subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=120)


def test_a_stranger_cannot_take_a_built_in_name_before_built_ins_are_loaded():
    result = run("""
        import worldkit as wk
        class Mine: pass
        try:
            wk.register_dynamics("pint")(Mine)
        except wk.DuplicateComponentError as error:
            print(error)
        from worldkit.registry import dynamics
        assert dynamics.get("pint").__module__ == "worldkit.dynamics.pint"
        wk.register_dynamics("pint", override=True)(Mine)
        assert dynamics.get("pint") is Mine
    """)
    assert result.returncode == 0, result.stderr
    assert "dynamics 'pint' is registered twice: by worldkit and by __main__" in result.stdout


def test_failed_import_of_built_ins_is_reported_every_time(tmp_path, monkeypatch):
    (tmp_path / "wk_broken_builtins.py").write_text("raise ImportError('half installed')\n")
    monkeypatch.syspath_prepend(tmp_path)
    table = Registry("thing", builtins="wk_broken_builtins")
    for _ in range(2):
        with pytest.raises(ImportError, match="half installed"):
            table.names()


@pytest.mark.parametrize("kind", ["encoders", "decoders", "dynamics", "conditioners", "latent_actions", "priors",
                                  "objectives"])
def test_built_ins_register_like_anyone(kind):
    table, names = getattr(module, kind), getattr(wk, f"list_{kind}")()
    assert names
    for name in names:
        assert name == canonical(name) and hasattr(table.get(name), "Config"), name
        assert table.get(name).Config.model_fields["name"].default == name
