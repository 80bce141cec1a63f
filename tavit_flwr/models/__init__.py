"""Head, body and tail: presets, construction and initialisation."""
