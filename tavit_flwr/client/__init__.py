"""The client's part: session loop, private store, federated evaluation."""
