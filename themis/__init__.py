"""themis: evaluation of language models on Ray."""
