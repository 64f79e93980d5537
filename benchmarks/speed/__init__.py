"""Benchmarks: what DCAL costs in time and memory beside a plain ViT and beside a naive DCAL, measured in one run."""
