"""What README and docs say to type: Python blocks run, page by page; command lines are understood by the real parser.

A block that is not run as it stands says so right above it, in a comment that readers of the page do not see:
``<!-- not run: needs an account -->``, or ``<!-- tested with: `500steps` as `1steps` -->`` for a smaller size.
"""

import argparse
import os
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from markdown_it import MarkdownIt

import worldkit as wk
from worldkit import registry
from worldkit.ablation.grid import expand, flatten, parse_axes
from worldkit.ablation.study import Budget
from worldkit.agents.base import agents
from worldkit.cli import make_parser
from worldkit.config import parse_assignments
from worldkit.data.decided import CLIPS
from worldkit.data.registry import _formats
from worldkit.training import TrainConfig

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), ROOT / "benchmarks/README.md",
         ROOT / "examples/plugin/README.md"]
TUTORIAL = ROOT / "docs/tutorial.md"
ELSEWHERE = {"docs/tutorial.md", "docs/plugins.md"}  # run whole: below, and in test_plugin_example.py
SHELL = {"", "bash", "sh"}
NOT_OURS = {"--nproc-per-node", "--ctx"}  # of torchrun, of the official LPWM code


@cache
def blocks(text):
    """(language, code, comments right above) of every code block, fenced or indented."""
    found, comments = [], []
    for token in MarkdownIt().parse(text):
        if token.type == "html_block":
            comments.append(token.content.strip())
        elif token.type in ("fence", "code_block"):
            found.append((token.info.split(" ")[0], token.content, comments))
            comments = []
        elif token.nesting == 0 or token.type == "paragraph_open":
            comments = []
    return found


def spans(text):
    """Every inline code span."""
    inline = (child for token in MarkdownIt().enable("table").parse(text) for child in token.children or ())
    return [child.content for child in inline if child.type == "code_inline"]


def as_tested(code, comments):
    """The code as a test runs it; None where a comment says that it is not run."""
    for comment in comments:
        if comment.startswith("<!-- not run:"):
            return None
        for said, done in re.findall("`([^`]+)` as `([^`]+)`", comment) if "tested with:" in comment else ():
            assert said in code, f"{comment}: no {said!r} in the block below it"
            code = code.replace(said, done)
    return code


def name_of(page):
    return str(page.relative_to(ROOT))


WITH_PYTHON = [p for p in PAGES if name_of(p) not in ELSEWHERE
               and any(language == "python" for language, _, _ in blocks(p.read_text(encoding="utf-8")))]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder to work in, with recordings/ as the pages speak of: twelve short films with actions.

    Parts that a page registers are forgotten afterwards: other tests list ours.
    """
    for table in (agents, *(x for x in vars(registry).values() if isinstance(x, registry.Registry))):
        table.names()  # which loads ours
        for attribute in ("_entries", "_aliases"):
            monkeypatch.setattr(table, attribute, dict(getattr(table, attribute)))
    write = pytest.importorskip("worldkit.data").write_video
    pytest.importorskip("av")
    generator = np.random.default_rng(0)
    for number in range(12):
        frames = np.repeat(generator.integers(0, 255, (1, 8, 8, 3), np.uint8), 24, 0).repeat(8, 1).repeat(8, 2)
        frames[np.arange(24), number * 4, np.arange(24)] = 255
        write(tmp_path / f"recordings/push_{number:02d}.mp4", frames)
        np.savez(tmp_path / f"recordings/push_{number:02d}.npz", action=generator.random((24, 2), np.float32))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", WITH_PYTHON, ids=name_of)
def test_the_python_of_a_page_runs(page, place):
    torch.manual_seed(0)
    names = {"__name__": "page"}
    for language, code, comments in blocks(page.read_text(encoding="utf-8")):
        if language == "python" and (code := as_tested(code, comments)) is not None:
            exec(compile(code, name_of(page), "exec"), names)
    if page.name == "README.md":
        assert names["future"].video.shape == (1, 5, 3, 32, 32) and names["answer"].edited.shape == (1, 10, 3, 32, 32)
        both = (names["answer"].original, names["answer"].edited)
        was, becomes = (video[0, 5, 0, 18:23, 19:24].mean() for video in both)
        assert was < 0.2 and becomes > 0.8, "the what-if shows nothing: red where the ball was put"
        assert names["loss"].total.isfinite()


def test_every_python_block_is_python():
    """Those that are not run, too."""
    for page in PAGES:
        for language, code, _ in blocks(page.read_text(encoding="utf-8")):
            if language == "python":
                compile(code, name_of(page), "exec")


@pytest.mark.slow
def test_the_tutorial_word_for_word(tmp_path):
    """In a shell, as a reader would: nothing skipped but what says so. Continuous integration runs it each time."""
    script = ["set -euo pipefail", f'worldkit() {{ {shlex.quote(sys.executable)} -m worldkit "$@"; }}']
    for number, (language, code, comments) in enumerate(blocks(TUTORIAL.read_text(encoding="utf-8"))):
        if (code := as_tested(code, comments)) is not None:
            (tmp_path / f"block_{number}.py").write_text(code, encoding="utf-8")
            script.append(f"{shlex.quote(sys.executable)} block_{number}.py" if language == "python" else code)
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(["bash", "-c", "\n".join(script)], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "mean training frame" in done.stdout
    assert (tmp_path / "preview.gif").exists() and (tmp_path / "runs/steered/best").exists()
    assert "copy last frame" in (tmp_path / "my-model/README.md").read_text(encoding="utf-8")
    assert (tmp_path / "runs/ablations/lpwm-mini/report.html").exists()


def commands(text):
    """Simple commands of a shell text, as lists of words; a loop's variable stands for a number."""
    for line in re.sub(r"\$\w+", "1", text.replace("\\\n", " ")).splitlines():
        try:
            words = shlex.split(line, comments=True)
        except ValueError:
            continue  # a drawing, or prose
        command = []
        for word in [*words, "&&"]:
            if word in ("&&", "|", ";", "||"):
                yield command
                command = []
            else:
                command.append(word)


def ours(command):
    """The arguments of worldkit in a command, or None."""
    if "-m" in command and command[command.index("-m") + 1:][:1] == ["worldkit"]:
        return command[command.index("-m") + 2:]
    return command[1:] if command and command[0].split("/")[-1] == "worldkit" else None


def said():
    """(where, arguments) of every worldkit command in code blocks of the pages and in the help of the commands."""
    for page in PAGES:
        for language, code, _ in blocks(page.read_text(encoding="utf-8")):
            if language in SHELL:
                yield from ((name_of(page), ours(c)) for c in commands(code) if ours(c) is not None)
    for path, command in parsers().items():
        for line in (command.epilog or "").splitlines():
            line = re.sub(r"\s{3,}.*", "", line.strip())
            yield from ((f"{path} --help", ours(c)) for c in commands(line) if ours(c) is not None)


@cache
def parser():
    return make_parser()


@cache
def parsers():
    """Every parser of the command line, by the words that lead to it."""
    found, todo = {}, [("worldkit", parser())]
    while todo:
        path, one = todo.pop()
        found[path] = one
        for action in one._actions:
            if isinstance(action, argparse._SubParsersAction):
                todo += [(f"{path} {name}", sub) for name, sub in action.choices.items()]
    return found


def parse(arguments):
    """Parsed arguments, or what argparse says against them."""
    complaint = []
    argparse.ArgumentParser.error, kept = lambda self, message: complaint.append(message) or exit(2), \
        argparse.ArgumentParser.error
    try:
        return parser().parse_args(arguments), ""
    except SystemExit:
        return None, " ".join(complaint)
    finally:
        argparse.ArgumentParser.error = kept


COMMANDS = [(where, arguments) for where, arguments in said() if "..." not in arguments and "|" not in arguments]


def test_every_command_line_is_understood():
    assert len(COMMANDS) > 40
    complaints = [f"{where}: worldkit {shlex.join(arguments)}: {complaint}" for where, arguments in COMMANDS
                  for _, complaint in [parse(arguments)] if complaint]
    known = {option for one in parsers().values() for option in one._option_string_actions}
    complaints += [f"{where}: {word} is short for another option, or unknown" for where, arguments in COMMANDS
                   for word in arguments if word.startswith("--") and word.split("=")[0] not in known]
    assert complaints == []


def check_values(options):
    """What stands behind -o, --swap, --set and --budget: parts, options of the model, training and data exist."""
    overrides = parse_assignments(options.override)
    data = overrides.pop("data", {})
    known = {name for one in _formats.values() for name in one.options()} | {"format", *CLIPS}
    assert set(data) <= known, f"no option of the data: {set(data) - known}"
    if options.command == "train":
        TrainConfig(**overrides.pop("train", {}))
        wk.create_config(options.preset, **overrides)
    elif options.command == "ablate":
        swaps, settings = parse_axes(options.swap, "--swap"), parse_axes(options.settings, "--set")
        assert not [v.error for v in expand(options.preset, swaps, settings, flatten(overrides)) if v.error]
        Budget.parse(options.budget)


def test_every_option_of_a_model_exists():
    seen, presets = 0, wk.list_models()
    for where, arguments in COMMANDS:
        options, _ = parse(arguments)
        if options is None or options.command not in ("train", "ablate", "eval", "rollout"):
            continue
        if getattr(options, "preset", presets[0]) not in presets or "plugin" in where:
            continue  # PRESET; parts that only a plugin brings
        try:
            check_values(options)
        except (wk.WorldkitError, AssertionError) as error:
            raise AssertionError(f"{where}: worldkit {shlex.join(arguments)}") from error
        seen += bool(options.override)
    assert seen > 5


def test_options_in_the_running_text_exist():
    known = {option for one in parsers().values() for option in one._option_string_actions} | NOT_OURS
    fields, wrong = set(TrainConfig.model_fields), []
    for page in PAGES[:-2]:
        for span in spans(page.read_text(encoding="utf-8")):
            command = next(iter(commands(span)), [])
            if (arguments := ours(command)) is not None:
                name = next((a for a in arguments if not a.startswith("-")), "train")
                if f"worldkit {name}" not in parsers():
                    wrong.append(f"{name_of(page)}: `{span}`: no command {name!r}")
            elif not command or not command[0].startswith("-"):
                continue
            wrong += [f"{name_of(page)}: `{span}`: no option {o}" for o in re.findall(r"(?<!\S)--[\w-]+", span)
                      if o not in known]
            wrong += [f"{name_of(page)}: `{span}`: no train.{o}" for o in re.findall(r"\btrain\.(\w+)\b", span)
                      if o not in fields]
    assert wrong == []


def test_options_of_benchmarks_exist():
    """Lines like ``python benchmarks/lpwm.py --repeat 3``: the script, or what it shares, knows the option."""
    shared = (ROOT / "benchmarks" / "beside.py").read_text(encoding="utf-8")
    for page in PAGES:
        for language, code, _ in blocks(page.read_text(encoding="utf-8")):
            for command in commands(code) if language in SHELL else ():
                script = ROOT / command[1] if len(command) > 1 and command[0] == "python" else None
                if script is not None and script.suffix == ".py" and script.is_file():
                    text = script.read_text(encoding="utf-8")
                    text += shared if "from beside import" in text else ""
                    for option in (word for word in command if word.startswith("--")):
                        assert f'"{option}"' in text, f"{name_of(page)}: {option}"
