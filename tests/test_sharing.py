"""Model cards, folders to share, and uploads (to a stand-in for the hub: nothing here uses a network)."""

import json
import shutil

import pytest
import torch

import worldkit as wk
from worldkit.cli import main
from worldkit.errors import CheckpointError
from worldkit.storage.folders import provenance
from worldkit.storage.sharing import export_model, push_to_hub
from worldkit.training import TrainConfig, Trainer


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_model, balls):
    folder = tmp_path_factory.mktemp("sharing") / "run"
    config = TrainConfig(batch_size=4, steps=1, eval_clips=2)
    Trainer(tiny_model(), balls(4), balls(4, "val"), config, run=folder, show_progress=False,
            facts={"preset": "lpwm-balls-mini", "data": "/home/somebody/secret/balls"}).fit()
    store_result(folder, provenance(folder / "best")["weights"])
    return folder


def store_result(folder, weights, stem="eval-test"):
    """As worldkit eval does."""
    data, root = "/home/somebody/my secret/balls", {"root": "/home/somebody/frames"}
    facts = f"weights {weights[:12]}; data {data}; data options {root}"
    (folder / f"{stem}.md").write_text(f"# Title\n\n| model | PSNR |\n| --- | --- |\n| ours | 12.3 |\n\n{facts}\n")
    protocol = {"context_frames": 5, "split": "test", "weights": weights, "evaluation": "ours", "data": data,
                "data options": root}
    (folder / f"{stem}-prior.json").write_text(json.dumps({"protocol": protocol}))


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Branches of repositories as folders."""
    import huggingface_hub

    place = tmp_path / "hub"

    class Api:
        def __init__(self, token=None):
            self.token = token

        def create_repo(self, repo, private, exist_ok):
            (place / repo / "main").mkdir(parents=True, exist_ok=True)

        def create_branch(self, repo, branch, exist_ok):
            (place / repo / branch).mkdir(exist_ok=True)

        def upload_folder(self, repo_id, folder_path, revision, commit_message):
            shutil.copytree(folder_path, place / repo_id / (revision or "main"), dirs_exist_ok=True)
            return f"https://hub/{repo_id}/commit/1"

    def download(name, revision=None, allow_patterns=None):
        return str(place / name / (revision or "main"))

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    return place


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_a_run_becomes_a_folder_to_share(run, tmp_path):
    folder = export_model(run, tmp_path / "balls-model", licence="mit")
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: worldkit\n") and "license: mit" in card.split("---")[1]
    for text in ("# balls-model", "encoder `particle`", "preset: lpwm-balls-mini", "seed: 0", "| ours | 12.3 |",
                 "![panel.png](panel.png)", f"torch {torch.__version__}", f"worldkit {wk.__version__}",
                 f'create_model("dir:{folder}")'):
        assert text in card, text
    assert (folder / "panel.png").stat().st_size > 100 and (folder / "eval-test-prior.json").exists()
    assert same(wk.create_model(f"dir:{folder}"), wk.WorldModel.from_pretrained(run / "best"))


def test_folders_of_the_machine_are_not_published(run, tmp_path):
    folder = export_model(run, tmp_path / "m")
    assert not any("somebody" in f.read_text() for f in folder.glob("*") if f.suffix in (".md", ".json"))
    assert json.loads((folder / "train.json").read_text())["data"] == "balls"
    assert json.loads((folder / "eval-test-prior.json").read_text())["protocol"]["data"] == "balls"
    assert "data balls; data options {'root': 'frames'}" in (folder / "README.md").read_text()


def test_a_model_on_the_hub_is_what_it_is_in_a_folder(run, hub, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    push_to_hub(run, "lab/balls", revision="v1")
    assert main(["info", "hub:lab/balls@v1"]) == 0
    assert main(["push", "hub:lab/balls@v1", "dir:again"]) == 0
    assert provenance(tmp_path / "again") == provenance(run / "best")
    with pytest.raises(CheckpointError, match="names revision 'v1', revision= names 'main'"):
        wk.WorldModel.from_pretrained("hub:lab/balls@v1", revision="main")
    wk.WorldModel.from_pretrained(run / "best").save_pretrained("bare")  # with no preset to take a protocol from
    few = ["--data", "balls-32", "--max-clips", "1", "--pictures", "0", "-o", "data.num_episodes=1"]
    assert main(["eval", "hub:lab/balls@v1", "dir:bare", *few]) == 0
    out = capsys.readouterr().out
    assert "frames given 5; frames predicted 10" in out
    assert "Protocol of lpwm-balls-mini, the first model's. dir:bare (no preset) would give 1 and" in out


@pytest.mark.parametrize("text, preset", [
    ("{", ""), ("[1]", ""), ('{"preset": 5}', "5"), ('{"preset": "gone"}', "gone"),
])
def test_a_strange_train_file_does_not_matter(text, preset, run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(run / "best", "model")
    (tmp_path / "model/train.json").write_text(text)
    assert main(["rollout", "./model", "--data", "balls-32", "--clips", "1", "-o", "data.num_episodes=1"]) == 0
    assert (f"'{preset}', which is not known here" in capsys.readouterr().out) == bool(preset)
    assert main(["push", "./model", "dir:shared"]) == 0


def test_only_results_of_the_weights_that_are_shared_come_along(run, tmp_path, capsys):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    store_result(copy, "0" * 64, "eval-other-test")
    (copy / "eval-old.md").write_text("written before results named their weights")
    (copy / "eval-old-prior.json").write_text('{"protocol": {"context_frames": 5}}')
    assert main(["push", str(copy), f"dir:{tmp_path / 'shared'}"]) == 0
    out = capsys.readouterr().out
    assert "eval-other-test-prior.json: it scored the weights 000000000000, these are" in out
    assert "eval-old-prior.json: it does not say which weights it scored" in out
    names = {f.name for f in (tmp_path / "shared").iterdir()}
    assert {n for n in names if n.startswith("eval")} == {"eval-test.md", "eval-test-prior.json"}
    card = (tmp_path / "shared/README.md").read_text()
    assert card.count("| ours | 12.3 |") == 1 and "# Title" not in card and "## Evaluation ours, split test" in card
    assert provenance(tmp_path / "shared") == provenance(copy / "best")


@pytest.mark.parametrize("overrides, call", [
    ({}, "rollout(video, horizon=10)"),
    ({"conditioners": {"action": {"name": "action", "dim": 2}}},
     'rollout(video, horizon=10, conditions={"action": action})'),
    ({"dynamics": None, "latent_action": None}, "encode(video)"),
])
def test_the_code_on_the_card_runs(overrides, call, tiny_model, tmp_path):
    folder = export_model(tiny_model(**overrides), tmp_path / "m")
    code = (folder / "README.md").read_text().split("```python\n")[1].split("```")[0]
    assert f"model.{call}" in code
    exec(code, {"video": torch.rand(1, 2, 3, 32, 32), "action": torch.rand(1, 12, 2)})


def test_what_nobody_stated_is_said_to_be_missing(tiny_model, tmp_path):
    card = (export_model(tiny_model(), tmp_path / "m") / "README.md").read_text()
    assert "No evaluation was stored" in card and "Not stated. Ask" in card and "license:" not in card


def test_upload_and_load_again(run, hub):
    address = push_to_hub(run, "lab/balls", licence="mit", revision="v2")
    assert address == "https://hub/lab/balls/commit/1"
    model = wk.create_model("hub:lab/balls@v2")
    assert same(model, wk.WorldModel.from_pretrained(run / "best"))
    assert 'create_model("hub:lab/balls")' in (hub / "lab/balls/v2/README.md").read_text()
    assert same(wk.WorldModel.from_pretrained("hub:lab/balls", revision="v2"), model)


def test_a_model_uploads_itself(tiny_model, hub):
    model = tiny_model()
    model.push_to_hub("lab/direct")
    assert same(wk.create_model("hub:lab/direct"), model)


def test_on_the_command_line(run, hub, tmp_path, capsys):
    assert main(["push", str(run), f"dir:{tmp_path / 'shared'}", "--licence", "mit"]) == 0
    assert main(["push", str(run), "hub:lab/cli@v1"]) == 0
    assert "worldkit.create_model('hub:lab/cli@v1')" in capsys.readouterr().out
    assert (tmp_path / "shared/model.safetensors").exists() and (hub / "lab/cli/v1/model.safetensors").exists()
    assert main(["push", str(run), "lab/cli"]) == 2
    assert "the target reads hub:org/name or dir:/path" in capsys.readouterr().err


@pytest.mark.parametrize("target", ["precious", ".", "run", "run/best", "run/shared", "run/.."])
def test_nothing_is_lost_where_a_model_is_written(target, run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(run, "run")
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious/thesis.tex").write_text("precious")
    before = sorted(tmp_path.rglob("*"))
    assert main(["push", "run", f"dir:{target}"]) == 2
    assert "so that nothing is lost" in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


def test_an_earlier_export_is_replaced_unless_something_was_put_into_it(run, tmp_path):
    for _ in range(2):
        folder = export_model(run, tmp_path / "m")
    (folder / "notes.md").write_text("mine")
    with pytest.raises(CheckpointError, match="holds more than a model: notes.md"):
        export_model(run, folder)
    with pytest.raises(CheckpointError, match="holds more than a model: notes.md"):
        wk.WorldModel.from_pretrained(run / "best").save_pretrained(folder)
    assert (folder / "notes.md").read_text() == "mine"


def test_offline_says_what_to_do(run, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", lambda *a, **k: (_ for _ in ()).throw(OSError("no net")))
    with pytest.raises(CheckpointError, match="cannot upload to 'lab/x': OSError: no net(.|\n)*dir:/path"):
        push_to_hub(run, "lab/x")


def test_a_checkpoint_of_the_first_version_still_loads(run, tiny_model, balls, tmp_path):
    """0.1 stored no providers' versions, one random state, and no count of clips per step."""
    old = tmp_path / "old"
    shutil.copytree(run, old)
    folder = old / "checkpoints/step-00000001"
    state = torch.load(folder / "state.pt", weights_only=True)
    state["rng"] = state["rng"][0]
    del state["progress"]["clips_per_step"]
    torch.save(state, folder / "state.pt")
    config = json.loads((folder / "config.json").read_text())
    del config["providers"]
    (folder / "config.json").write_text(json.dumps(config))
    assert same(wk.WorldModel.from_pretrained(folder), wk.WorldModel.from_pretrained(run / "checkpoints/step-00000001"))
    result = Trainer(tiny_model(), balls(4), balls(4, "val"), TrainConfig(batch_size=4, steps=2, eval_clips=2), run=old,
                     show_progress=False).fit()
    assert result.step == 2
