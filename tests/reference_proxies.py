"""Losses of proxies, classifiers and networks of a loss's own, as their definitions read: see reference.py."""
