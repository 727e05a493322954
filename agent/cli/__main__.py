"""`python -m speechgpt_gen.agent.cli`, for launchers that take a module, as `torchrun -m` does."""

from . import main

main()
