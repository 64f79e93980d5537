"""Verification protocol, metrics and report."""
