"""Another move, another future: a small game goes left or goes right, in truth and in the model.

    python examples/07_other_moves.py --model dir:runs/catch [--env games/catch] [--clips 100]

The same frames, then the same move held for a few steps, or the other one. A copy of the game says what really follows,
so both predictions are held against the truth: is each nearer to its own future than to the other, and do pixels change
where the two futures differ, more than where those of another clip differ? A minute on a CPU.
"""

import argparse
import copy

import numpy as np
import torch

import worldkit as wk
from worldkit.metrics import confidence_interval, copy_last_frame, score_predictions
from worldkit.viz import save_png, to_uint8
from worldkit.viz.images import labelled_rows

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--model", required=True, help="dir:RUN, told discrete actions")
parser.add_argument("--env", default="games/catch")
parser.add_argument("--moves", type=int, nargs=2, default=(1, 2), help="the two actions; of the games: left, right")
parser.add_argument("--clips", type=int, default=100)
parser.add_argument("--picture", default="other_moves.png")
options = parser.parse_args()
GIVEN, PREDICTED = 5, 5

torch.set_num_threads(1)
model = wk.create_model(options.model)
model.eval()
size = model.config.obs.height
env = wk.make_env(options.env, size=size)
random = np.random.default_rng(0)


def follow(env, actions):
    """Frames ``[T, 3, H, W]`` that actions lead to; the environment moves on. Fewer if the episode ends."""
    frames = []
    for action in actions:
        observation, _, terminated, truncated, _ = env.step(int(action))
        frames.append(observation["pixels"].transpose(2, 0, 1))
        if terminated or truncated:
            break
    return frames


given, told, truth = [], [], {move: [] for move in options.moves}
episode = 0
while len(given) < options.clips:  # one clip of each episode; seeds that `worldkit collect` does not use
    episode += 1
    first = env.reset(seed=10**6 + episode)[0]["pixels"].transpose(2, 0, 1)
    actions = random.integers(env.action_space.n, size=int(random.integers(GIVEN - 1, 60)))
    seen = [first, *follow(env, actions)]
    futures = {move: follow(copy.deepcopy(env), [move] * PREDICTED) for move in options.moves}
    if len(seen) == len(actions) + 1 and all(len(future) == PREDICTED for future in futures.values()):
        given.append(np.stack(seen[-GIVEN:]))
        told.append(actions[len(actions) - GIVEN + 1:])
        for move, future in futures.items():
            truth[move].append(np.stack(future))
given, told = torch.from_numpy(np.stack(given)), torch.from_numpy(np.stack(told))
truth = {move: torch.from_numpy(np.stack(future)) / 255 for move, future in truth.items()}

predicted = {}
for move in options.moves:
    actions = torch.cat([told, torch.full((len(told), PREDICTED + 1), move)], 1)
    with torch.no_grad():
        predicted[move] = model.rollout(given, PREDICTED, conditions={"action": actions}, deterministic=True).video
    predicted[move] = predicted[move].clamp(0, 1)


def score(move, future):
    """PSNR of a prediction beside a future, mean over frames: one number per clip."""
    return score_predictions(predicted[move], truth[future])["psnr"].mean(1)


one, two = options.moves
still = score_predictions(copy_last_frame(given / 255, PREDICTED), truth[one])["psnr"].mean(1)
print(f"n = {options.clips}; action {one}: {confidence_interval(score(one, one))} dB over {PREDICTED} frames; copying "
      f"the last frame {confidence_interval(still)}, margin {confidence_interval(score(one, one) - still)}")
for move, other in ((one, two), (two, one)):
    gain = score(move, move) - score(move, other)
    print(f"action {move}: nearer to its own future than to the other by {confidence_interval(gain)} dB, in "
          f"{(gain > 0).double().mean():.0%} of the clips")

change = (predicted[one] - predicted[two]).square().sum(2)  # [n, frames, y, x]
differs = (truth[one] - truth[two]).abs().amax(2) > 0.1
shares = [(change * where).sum((1, 2, 3)) / change.sum((1, 2, 3)).clamp(min=1e-9)
          for where in (differs, differs.roll(1, 0))]
print(f"of what the move changes in the prediction, {confidence_interval(100 * shares[0])} % lies where the true "
      f"futures differ ({differs.double().mean():.1%} of the pixels); where those of another clip differ, "
      f"{confidence_interval(100 * shares[1])} %; difference {confidence_interval(100 * (shares[0] - shares[1]))}")


def pictures(i):
    """Truth and prediction of clip i for both moves, each after the last given frame."""
    rows = {f"{kind}, action {move}": torch.cat([given[i, -1:] / 255, future[move][i]])
            for move in options.moves for kind, future in (("truth", truth), ("predicted", predicted))}
    rows = {name: to_uint8(frames).repeat_interleave(3, -1).repeat_interleave(3, -2) for name, frames in rows.items()}
    return labelled_rows(rows, ["given", *(f"+{t + 1}" for t in range(PREDICTED))])


save_png(torch.cat([pictures(i) for i in range(3)], 1), options.picture)
print(f"true and predicted futures of the first three clips: {options.picture}")
