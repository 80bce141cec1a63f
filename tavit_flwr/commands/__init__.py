"""Commands of ``tavit`` that work with trained weights: arguments and options, and nothing else.

What they do is in `tavit_flwr.inference`, imported only when a command runs: torch takes seconds to load.
"""
