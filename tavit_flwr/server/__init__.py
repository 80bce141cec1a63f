"""The server's part: body service, `TAViT` strategy, schedule, aggregation, checkpoints."""
