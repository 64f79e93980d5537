"""Drawn twins: faces whose differences are known, for every run without photographs."""
