"""TD-MPC2: plans in latent space, with a learned policy's proposals, and learned values beyond the horizon."""
