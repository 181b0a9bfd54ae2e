"""What a tool is: pure, frozen, no I/O."""
