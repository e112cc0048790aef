"""Dreamer v3: learns a world by acting, and to act by dreaming in it. Catch, from pixels.

    python examples/families/dreamer.py [STEPS]
"""

import sys

from worldkit.control import ControlProtocol, evaluate_control
from worldkit.online import train_online

steps = int(sys.argv[1]) if len(sys.argv) > 1 else 9000  # 9,000: minutes, and Catch is solved (docs/acting.md)
few = {"prefill": min(steps // 2, 2000), "eval_every": 0, "eval_episodes": 2}
agent, trained = train_online("dreamer-v3-mini", "games/catch", run="runs/dreamer",
                              overrides={"online": {"steps": steps, **few}, "env": {"grid": 8}})
protocol = ControlProtocol(env="games/catch", env_options={"grid": 8}, size=32, episodes=10, seeds=(0,))
results = evaluate_control({"random": "random", "agent": agent}, protocol)
for name in ("random", "agent"):
    print(f"{name}: return {results.interval(name, 'return')} after {trained.steps} steps")
