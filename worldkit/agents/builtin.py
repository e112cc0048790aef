"""Registers worldkit's own agents; imported at the first look-up."""

from .base import agents

agents.register("cloning", "worldkit.agents.cloning:Cloning", aliases=("gcbc", "bc"))
agents.register("planner", "worldkit.agents.planner:PlannerAgent")
agents.register("imitation", "worldkit.agents.imitation:Imitation")
agents.register("actor-critic", "worldkit.agents.actor_critic.agent:ActorCriticAgent", aliases=("dreamer",))
agents.register("pixel-actor-critic", "worldkit.agents.pixel_actor_critic.agent:PixelActorCriticAgent")
agents.register("controller", "worldkit.agents.controller.agent:ControllerAgent", aliases=("world-models",))
agents.register("tdmpc2", "worldkit.agents.tdmpc2.agent:TDMPC2Agent")
