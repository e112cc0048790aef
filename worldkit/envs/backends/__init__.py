"""One file per backend: ``make(env_id, **options)`` gives a Gymnasium environment, ``ids()`` names them all."""
