"""Serving: a bundle behind HTTP, with a page to try it on."""
