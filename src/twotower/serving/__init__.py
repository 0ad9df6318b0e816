"""Serving: a bundle over HTTP, with a page to try it out."""
