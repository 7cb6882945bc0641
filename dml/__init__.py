"""Deep metric learning under one fair protocol: losses, training, search, evaluation and reports."""
