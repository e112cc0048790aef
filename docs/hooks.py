"""Hooks of mkdocs (see mkdocs.yml): what the site shows besides the pages of this folder.

The README is its start page, pages that lie elsewhere in the repository join, and the API reference is made from the
docstrings of the public names. Links stay those of the repository; here they become those of the site.
"""

import importlib
import inspect
import json
import logging
import posixpath
import pydoc
import re
import sys
from pathlib import Path

from markdown_it import MarkdownIt
from mkdocs.structure.files import File

import worldkit as wk
from worldkit import registry

log = logging.getLogger("mkdocs.plugins.worldkit")
ROOT = Path(__file__).resolve().parents[1]
ELSEWHERE = {  # where it lies -> where the site has it
    "README.md": "index.md", "benchmarks/README.md": "benchmarks.md", "examples/plugin/README.md": "example_plugin.md",
    "examples/plugin": "example_plugin.md", "CHANGELOG.md": "changelog.md",
}
TOP = {  # the page worldkit: headings, and who belongs there
    "Models": "create_model create_config list_models get_model_spec model_info WorldModel WorldModelConfig Rollout "
              "what_if",
    "What goes in and comes out": "Batch Latent Particles Decoded Loss",
    "Out of Python, and into a robot": "export get_operator",
    "Environments": "make_env list_envs list_env_backends",
    "Names": r"list_(?!models|env).* register_.* plugin_errors",
    "Errors": ".*Error",
}
WINGS = ("data", "envs", "planning", "training", "metrics", "ablation", "bench", "viz", "convert", "testing")
CONTRACTS = """
    encoders.Encoder encoders.Encoding decoders.Decoder dynamics.Dynamics conditioners.Conditioner
    latent_actions.LatentAction priors.Prior objectives.Objective component.Component config.ComponentConfig
    latents.LatentSpec latents.TokenGroup latents.Field latents.LatentDist conditions.Condition distributions.Sampler
    distributions.Distribution
    nn.spec.LatentEmbed nn.spec.LatentHead
""".split()
KINDS = ("encoders", "decoders", "dynamics", "conditioners", "latent_actions", "priors", "objectives")


def on_files(files, config):
    """Add the pages that are not files of this folder."""
    pages = {site: (ROOT / lies).read_text("utf-8") for lies, site in ELSEWHERE.items() if lies.endswith(".md")}
    for name, text in (pages | dict(reference())).items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown, page, config, files):
    """Turn links of the repository into links of the site."""
    site = page.file.src_uri
    lies = next((lies for lies, at in ELSEWHERE.items() if at == site and lies.endswith(".md")), f"docs/{site}")

    def link(match):
        path, anchor = match["path"], match["anchor"] or ""
        target = posixpath.normpath(posixpath.join(posixpath.dirname(lies), path))
        at = ELSEWHERE.get(target, target.removeprefix("docs/"))
        return f"]({posixpath.relpath(at, posixpath.dirname(site) or '.')}{anchor})"

    return re.sub(r"\]\((?![a-z]+:|#|/)(?P<path>[^)\s#]+)(?P<anchor>#[^)\s]*)?\)", link, markdown)


def on_page_content(html, page, config, files):
    """Warn where the site would show something else than the code host, a list as one paragraph for example."""
    if page.file.src_uri.startswith("api/"):
        return
    expected = MarkdownIt().enable("table").render(page.markdown)
    for tag in ("li", "table", "pre", "h2", "h3", "img"):
        seen, wanted = (len(re.findall(rf"<{tag}[ >]", text)) for text in (html, expected))
        if seen != wanted:
            log.warning("%s: %d <%s> in place of %d; a list and a table want a blank line above them",
                        page.file.src_uri, seen, tag, wanted)


def reference():
    """(page, text) of the API reference."""
    names = [name for name in wk.__all__ if name[0] != "_" and name not in WINGS]
    text = ["# worldkit", wk.__doc__, "`import worldkit as wk`; every name loads on first use."]
    for heading, wanted in TOP.items():
        here = [name for name in names if any(re.fullmatch(pattern, name) for pattern in wanted.split())]
        text += [f"## {heading}", *(entry(name, getattr(wk, name), inherited=True) for name in here)]
        names = [name for name in names if name not in here]
    assert not names, f"docs/hooks.py: say in TOP where these belong: {names}"
    yield "api/worldkit.md", "\n\n".join(text)
    for wing in WINGS:
        module = importlib.import_module(f"worldkit.{wing}")
        own = [entry(f"{wing}.{name}", getattr(module, name)) for name in module.__all__]
        yield f"api/{wing}.md", "\n\n".join([f"# worldkit.{wing}", module.__doc__ or "", *own])
    yield "api/contracts.md", "\n\n".join([
        "# Contracts of the parts", "What parts of your own are built on; [plugins.md](../plugins.md) shows how.",
        *(entry(path, pydoc.locate(f"worldkit.{path}")) for path in CONTRACTS)])
    yield "api/parts.md", "\n\n".join(["# Parts and their options", *parts()])


def entry(name, value, *, inherited=False):
    """A name under the path that users type, with the docstring of where it is defined."""
    options = {"heading": name, "toc_label": name, "inherited_members": inherited}
    lines = (f"      {key}: {json.dumps(option)}" for key, option in options.items())
    return "\n".join([f"::: {home(name, value)}", "    options:", *lines])


def home(name, value):
    """Where something is defined: packages hand on names that their source text does not define."""
    if getattr(value, "__module__", "").startswith("worldkit.") and hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    name = name.split(".")[-1]  # a constant
    for module in [m for key, m in sorted(sys.modules.items()) if key.startswith("worldkit.")]:
        if vars(module).get(name) is value and re.search(rf"^{name}\b.* = ", inspect.getsource(module), re.MULTILINE):
            return f"{module.__name__}.{name}"
    raise LookupError(f"docs/hooks.py: where is {name} defined?")


def parts():
    """Every registered part of worldkit's own, and what its config takes."""
    for kind in KINDS:
        known = getattr(registry, kind)
        yield f"## {kind.replace('_', ' ').capitalize()}"
        for name in known.names():
            part = known.get(name)
            if part.__module__.startswith("worldkit."):
                yield entry(name, part)
                if hasattr(part, "Config"):
                    yield entry(f"{name}: options", part.Config)
