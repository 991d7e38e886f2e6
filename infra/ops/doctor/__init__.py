"""What breaks behind transaction pooling, and what is wrong with the running path."""
