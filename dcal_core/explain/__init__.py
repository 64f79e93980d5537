"""Attention maps and their drawing."""
