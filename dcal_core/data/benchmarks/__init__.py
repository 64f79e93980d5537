"""Face benchmarks of other people, read as they are published: image pairs, and templates of several images."""
