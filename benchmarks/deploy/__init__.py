"""What a trained model costs in each form that it is exported to: time, memory, size and accuracy."""
