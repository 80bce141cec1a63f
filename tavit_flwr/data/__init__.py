"""Images in: sources, who holds which images, and seeded batch streams."""
