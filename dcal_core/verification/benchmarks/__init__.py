"""The protocols of published face benchmarks: pairs in ten folds, templates 1:1, and search in galleries 1:N."""
