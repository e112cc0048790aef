"""Other actions, another future: the same five frames, and a pusher that is steered the other way.

    python examples/05_other_actions.py [--clips 200] [--model lpwm-push-mini]

The world of `push-32` can say what would really have happened, so both predictions are held against the truth: is each
nearer to its own future than to the other, and do pixels change where the two futures differ? A minute on a CPU.
"""

import argparse

import numpy as np
import torch

import worldkit as wk
from worldkit.data import generate_push
from worldkit.data.formats.push import draw, rollout
from worldkit.metrics import confidence_interval, copy_last_frame, score_predictions
from worldkit.viz import save_png, to_uint8
from worldkit.viz.images import labelled_rows

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--clips", type=int, default=200, help="one clip of each of so many test episodes")
parser.add_argument("--model", default="lpwm-push-mini", help="a preset with weights, or dir:RUN for a run of your own")
options = parser.parse_args()
GIVEN, PREDICTED = 5, 5

model = wk.create_model(options.model, pretrained=True)
test = generate_push("test", num_episodes=options.clips, image_size=32)
clip = np.arange(options.clips)
frames = (clip % 4 * 10)[:, None] + np.arange(GIVEN + PREDICTED)  # from frame 0, 10, 20 or 30 of an episode on
video, told = torch.from_numpy(test.video[clip[:, None], frames]), test.action[clip[:, None], frames]
steered = {"as told": told, "the other way": np.concatenate([told[:, : GIVEN - 1], -told[:, GIVEN - 1 :]], 1)}

truth, predicted, others, pusher = {}, {}, {}, {}
without, alone = test.colors.copy(), test.colors.copy()
without[:, 0], alone[:, 1:] = 0, 0  # black on black
newest = clip, frames[:, GIVEN - 1]
for name, action in steered.items():
    position, _, _ = rollout(test.position[newest], test.velocity[newest], action[:, GIVEN - 1 : -1])
    truth[name], others[name], pusher[name] = (
        torch.from_numpy(draw(position, colors, 32)) / 255 for colors in (test.colors, without, alone))
    parts = zip(video[:, :GIVEN].split(50), torch.from_numpy(action).split(50), strict=True)
    with torch.no_grad():
        rolled = [model.rollout(v, PREDICTED, conditions={"action": a}, deterministic=True).video for v, a in parts]
    predicted[name] = torch.cat(rolled).clamp(0, 1)
assert torch.equal(truth["as told"], video[:, GIVEN:] / 255)  # the world itself, asked again


def score(name, future):
    """PSNR of a prediction beside a future, mean over frames: one number per clip."""
    return score_predictions(predicted[name], truth[future])["psnr"].mean(1)


one, two = steered
copied = copy_last_frame(video[:, :GIVEN] / 255, PREDICTED)
still = score_predictions(copied, truth[one])["psnr"].mean(1)
print(f"n = {options.clips}; told the true actions: {confidence_interval(score(one, one))} dB over {PREDICTED} frames; "
      f"copying the last frame {confidence_interval(still)}, margin {confidence_interval(score(one, one) - still)}")
gains = [score(name, name) - score(name, other) for name, other in ((one, two), (two, one))]
for name, gain in zip(steered, gains, strict=True):
    print(f"steered {name}: nearer to its own future than to the other by {confidence_interval(gain)} dB, "
          f"in {(gain > 0).double().mean():.0%} of the clips")

change = (predicted[one] - predicted[two]).square().sum(2)  # [n, frames, y, x]
differs = (truth[one] - truth[two]).abs().amax(2) > 0.1
shares = {name: (change * where).sum((1, 2, 3)) / change.sum((1, 2, 3)).clamp(min=1e-9)
          for name, where in {"its own": differs, "another clip's": differs.roll(1, 0)}.items()}
inside, control = shares.values()
print(f"of what the actions change in the prediction, {confidence_interval(100 * inside)} % lies where the true "
      f"futures differ ({differs.double().mean():.0%} of the pixels); where those of another clip differ, "
      f"{confidence_interval(100 * control)} %; difference {confidence_interval(100 * (inside - control))}")
# The discs that were hit, or were not: pixels where their futures differ, and the pusher is in neither.
apart = (others[one] - others[two]).abs().amax(2) > 0.1
apart &= (pusher[one] + pusher[two]).amax(2) < 0.1
hit = apart.sum((1, 2, 3)) >= 10
errors = {(name, future): ((predicted[name] - truth[future]).square().mean(2) * apart).sum((1, 2, 3))[hit]
          for name in steered for future in steered}
gain = sum(10 * torch.log10(errors[name, other] / errors[name, name]) / 2 for name, other in ((one, two), (two, one)))
print(f"in {hit.sum()} clips it matters to the other discs; where those differ, each prediction is nearer to its own "
      f"future by {confidence_interval(gain)} dB, in {(gain > 0).double().mean():.0%} of them")


def pictures(i):
    """Truth and prediction of clip i under both sets of actions, each after the last given frame."""
    rows = {f"{kind}, {name}": torch.cat([video[i, GIVEN - 1][None] / 255, future[name][i]])
            for name in steered for kind, future in (("truth", truth), ("predicted", predicted))}
    rows = {name: to_uint8(frames).repeat_interleave(2, -1).repeat_interleave(2, -2) for name, frames in rows.items()}
    return labelled_rows(rows, ["given", *(f"+{t + 1}" for t in range(PREDICTED))])


shown = hit.nonzero()[:, 0]
shown = shown[torch.linspace(0, len(shown) - 1, 3).long()].tolist()
save_png(torch.cat([pictures(i) for i in shown], 1), "other_actions.png")
print(f"true and predicted futures of three of these clips ({shown}): other_actions.png")
