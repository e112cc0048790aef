"""One file per group of commands: ``add(commands)`` says what it takes, ``run_...`` does it with a few calls."""
