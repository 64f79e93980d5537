"""What each system brings to training, one file a system."""
