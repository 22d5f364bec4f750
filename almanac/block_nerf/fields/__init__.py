"""What space is full of: densities and features by place."""
