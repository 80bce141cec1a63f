"""The cut in pure torch: client side, server side, phases, and the unsplit reference."""
