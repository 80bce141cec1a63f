"""One HTML file per run that people look at: it needs no network, and is written anew after every event."""

from tavit_flwr.server.page.pictures import Picture, read_pictures
from tavit_flwr.server.page.render import render, stop_page

__all__ = ["Picture", "read_pictures", "render", "stop_page"]
