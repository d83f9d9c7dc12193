"""What several cases train: networks and their data, micrograd's demo, a scalar GPT, each with its float64 results."""
